"""What stands at the top of a report: its main numbers, and what to know before believing them."""

from __future__ import annotations

from typing import Any

from emergence_ext.report.emergence import importance_rows
from emergence_ext.run import Emergence, FinishedRun


def headline(run: FinishedRun) -> dict[str, dict[str, Any]]:
    """The numbers at the top of the report: name -> `value`, `explain`, and `low`, `high`, `unit`.

    None stands for a value that is undefined.
    """
    e, settings = run.emergence, run.settings
    strength = next(s for s in run.strengths() if s.temperature == settings.temperature)
    importance = importance_rows(e, settings.alpha)[-1]
    count = e.held_out_counts[-1][-1]
    first = e.held_out_counts[0][-1]
    shallow = e.held_out_counts[-1][0]
    per_image = 1 / count.images
    numbers: dict[str, dict[str, Any]] = {
        "accuracy": {
            "value": 100 * e.accuracy(),
            "unit": "%",
            "explain": f"of the finished network on the {len(e.y)} images analysed",
        },
        "strength and uncertainty": {
            "value": strength.r,
            "explain": "Pearson of |g| with the entropy, on images that were not fitted; "
            f"PCA {strength.pca_r:.2f}; mean entropy {strength.mean_entropy:.2f} nats",
        },
        "knowledge points per image": {
            "value": count.total.value * per_image,
            "low": count.total.low * per_image,
            "high": count.total.high * per_image,
            "explain": f"in {e.layers[-1]}, of {_regions(e)} regions, on held-out images; "
            f"tau = {e.tau:g}",
        },
        "strength and importance": {
            "value": importance["Pearson of |h| with w, mean"],
            "explain": f"mean Pearson of |h| with w in {e.layers[-1]}; of |F| "
            f"{importance['Pearson of |F| with w, mean']:.2f}",
        },
    }
    if count.ratio is not None:
        before = [
            f"{100 * other.ratio.value:.0f} % in {where}"
            for other, where, there in (
                (shallow, e.layers[0], len(e.layers) > 1),
                (first, f"checkpoint {e.labels[0]}", len(e.labels) > 1),
            )
            if there and other.ratio is not None
        ]
        numbers["reliable ratio"] = {
            "value": 100 * count.ratio.value,
            "low": 100 * count.ratio.low,
            "high": 100 * count.ratio.high,
            "unit": "%",
            "explain": "of those points speak for the true category" + "; ".join(["", *before]),
        }
    return {
        name: {k: None if isinstance(v, float) and v != v else v for k, v in entry.items()}
        for name, entry in numbers.items()
    }


def _regions(e: Emergence) -> str:
    """How many regions a held-out image has."""
    if e.mask is None:
        return str(e.grid[0] * e.grid[1])
    return f"{float(e.mask[e.held_out].sum(1).double().mean()):.1f}"


def warnings(run: FinishedRun) -> list[str]:
    """What a reader has to know before believing the numbers, and can do something about."""
    e = run.emergence
    texts = []
    uncertainty = float(e.entropy().mean())
    if uncertainty < 0.15:
        texts.append(
            f"The network is very sure (mean entropy {uncertainty:.2f} nats): strength can hardly "
            "correlate with an entropy that hardly varies. Look at the higher temperatures."
        )
    if len(e.region_images) < 100:
        texts.append(
            f"Regions were learned on only {len(e.region_images)} images; below 100 they over-fit."
        )
    if e.mask is not None:
        texts.append(
            f"Only regions on the objects count, {float(e.mask.double().mean()):.0%} of all (masks "
            "or boxes); the network saw the whole images."
        )
    # Runs of earlier versions have noted all of them.
    return list(dict.fromkeys([*texts, *map(str, run.config.warnings)]))
