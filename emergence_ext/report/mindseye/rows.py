"""Tables of the Mind's Eye: what stands for each facet, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emergence_ext.mindseye import MindsEye
from emergence_ext.report.files import Row


def facet_members(eyes: Iterable[tuple[str, MindsEye]], names: Sequence[str]) -> list[Row]:
    """What stands for each facet of named results, a row an image."""
    return [
        {
            "of": of,
            "facet": c + 1,
            "image": names[int(i)],
            "distance": float(distance),
            "weight": float(weight),
        }
        for of, eye in eyes
        for c, facet in enumerate(eye.facets.facets)
        for i, distance, weight in zip(facet.members, facet.distances, facet.weights, strict=True)
    ]


def facet_scores(
    eyes: Iterable[tuple[str, MindsEye]], names: Sequence[str], outputs: Sequence[str]
) -> list[Row]:
    """What the network makes of the image of each facet, beside the initial and real ones.

    Args:
        eyes: named results.
        names: of the images.
        outputs: names of the columns of the network's output, where it is logits.
    """
    rows: list[Row] = []
    for of, eye in eyes:
        s = eye.score
        for c in range(len(eye.images)):
            p = None if s.logits is None else s.logits[c].softmax(0)
            rendered, initial, best = (float(x[c]) for x in (s.rendered, s.initial, s.best_real))
            rows.append(
                {
                    "of": of,
                    "facet": c + 1,
                    "images": int((eye.facets.labels == c).sum()),
                    "channels": eye.channels.shape[1],
                    "target channels, image": rendered,
                    "initial": initial,
                    "best real": best,
                    "best real image": names[int(s.real[c].argmax())],
                    "image / initial": rendered / initial if initial > 0 else None,
                    "image / best real": rendered / best if best > 0 else None,
                    "share of target, median channel": s.median_share[c],
                    "channels that reach it": s.reached[c],
                    "share undefined since": s.undefined[c],
                    "network says": None if p is None else outputs[int(p.argmax())],
                    "probability": None if p is None else float(p.max()),
                    "first loss": float(eye.losses[0, c]),
                    "last loss": float(eye.losses[-1, c]),
                    "shape b": float(eye.shape[c]),
                    "scale r": float(eye.scale[c]),
                }
            )
    return rows


def facet_channels(eyes: Iterable[tuple[str, MindsEye]]) -> list[Row]:
    """The share of the target that every channel reached, a row a channel."""
    return [
        {"of": of, "facet": c + 1, "channel": int(k), "share of target": float(share)}
        for of, eye in eyes
        for c in range(len(eye.images))
        for k, share in zip(eye.channels[c], eye.score.share[c], strict=True)
    ]


def facet_note(row: Row) -> str:
    """Say in a sentence what a row of `facet_scores` tells."""
    return (
        f"{row['of']}, facet {row['facet']}: target channels {_times(row['image / initial'])} the "
        f"initial image's activation, {_times(row['image / best real'])} the best real one's"
        f"{_seen_as(row)}"
    )


def direction_note(row: Row) -> str:
    """Say in a sentence how far an image came along the direction of a category in a layer."""
    times = _times(row["image / best real"])
    return (
        f"{row['category']}, {row['layer']}: component along mu {times} the best real image's"
        f"{_seen_as(row)}"
    )


def _times(number: float | None) -> str:
    return "an undefined number of times" if number is None else f"{number:.2f} times"


def _seen_as(row: Row) -> str:
    name = row["network says"]
    return "" if name is None else f"; network says {name} ({row['probability']:.1%})"
