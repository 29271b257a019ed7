"""The sheet of directions: what a network sees along the directions of categories."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from emergence_ext import figures
from emergence_ext.method import RegionalProjection
from emergence_ext.mindseye import Schedule, logits_of
from emergence_ext.render import direction, measure, noise
from emergence_ext.report.files import Row
from emergence_ext.report.look import Sheet
from emergence_ext.report.look.sheet import pictures
from emergence_ext.report.mindseye.images import hidden_channels, output_names
from emergence_ext.report.mindseye.rows import direction_note
from emergence_ext.run import FinishedRun, Subject, file_name


def direction_sheet(
    run: FinishedRun,
    subject: Subject,
    categories: Sequence[str],
    layers: Sequence[str],
    schedule: Schedule | None = None,
    random_state: int = 0,
) -> Sheet:
    """Show what the network sees along the directions of categories in layers, from noise.

    The component of `h = scale Lambda F` along `mu` is `scale |Lambda^T mu|` times that of `F`
    along `Lambda^T mu`, so an image is optimised for the latter, averaged over regions.

    Args:
        run: what was learned of the network.
        subject: the run's network and images.
        categories: names.
        layers: names as in the run.
        schedule: of the optimisation; its lambda has no part in this.
        random_state: seed of the noise and the views.
    """
    regional = run.learned().regional
    device = next(subject.module.parameters()).device
    channels, height, width = subject.dataset[0][0].shape
    start = noise(1, channels, (height, width), random_state=random_state).to(device)
    schedule = schedule or Schedule()
    rows: list[Row] = []
    plots: dict[str, Figure] = {}
    for layer in layers:
        along = [
            _along(run, subject, regional[layer], layer, name, start, schedule, random_state)
            for name in categories
        ]
        rows += [row for row, _ in along]
        plots |= _direction_figures(layer, [row for row, _ in along], [image for _, image in along])
    return Sheet(
        "Along the directions of categories",
        "From noise, optimised for the component of the regional features of a layer along the "
        "direction of each category; below, what the network says of it.",
        plots,
        {"directions": rows},
        [*map(direction_note, rows), *hidden_channels(start)],
    )


def _along(
    run: FinishedRun,
    subject: Subject,
    projection: RegionalProjection,
    layer: str,
    category: str,
    start: Tensor,
    schedule: Schedule,
    random_state: int,
) -> tuple[Row, Tensor]:
    """What came of noise `[1, channels, H', W']` along a category's direction, and the image."""
    e, c = run.emergence, run.emergence.categories.index(category)
    vector = projection.Lambda_.t() @ e.frame.directions[c]
    objective = direction(subject.layers[layer], vector.to(start.device))
    image = schedule.run(
        subject.module,
        start,
        -objective,
        preprocess=subject.preprocess,
        random_state=random_state,
        describe=f"mu of {category}, {layer}",
    ).images
    real = [subject.dataset[i][0] for i in (e.y == c).nonzero().flatten().tolist()]
    # The objective's vector is brought to length 1.
    unit = projection.scale_ * float(vector.norm())
    everything = torch.cat([image, start, torch.stack(real).to(start.device)])
    h = unit * measure(
        subject.module,
        everything,
        objective,
        preprocess=subject.preprocess,
        batch_size=subject.batch_size,
    )
    reached, before, best = float(h[0]), float(h[1]), float(h[2:].max())
    said, p = _said(subject, image, e.categories)
    row = {
        "category": category,
        "layer": layer,
        "component along mu, image": reached,
        "noise": before,
        "best real": best,
        "image / best real": reached / best if best > 0 else None,
        "network says": said,
        "probability": p,
    }
    return row, pictures(image)[0].cpu()


def _direction_figures(
    layer: str, rows: Sequence[Row], images: Sequence[Tensor]
) -> dict[str, Figure]:
    """Sheets of five pictures at most."""
    plots = {}
    heads = [row["category"].replace("_", " ") for row in rows]
    captions = [
        f"{row['network says'].replace('_', ' ')} {100 * row['probability']:.0f} %"
        if row["network says"]
        else ""
        for row in rows
    ]
    for b in range(0, len(images), 5):
        name = f"directions_{file_name(layer)}{f'_{b // 5 + 1}' if len(images) > 5 else ''}"
        plots[name] = figures.picture_sheet(
            [images[b : b + 5]], [""], heads[b : b + 5], [captions[b : b + 5]]
        )
    return plots


def _said(
    subject: Subject, image: Tensor, categories: Sequence[str]
) -> tuple[str | None, float | None]:
    """What the network takes an image `[1, channels, H', W']` for, and how probable that is."""
    z = logits_of(subject.module, image, preprocess=subject.preprocess)
    if z is None:
        return None, None
    best = int(z[0].argmax())
    name = output_names(subject, categories).get(best, f"output {best}")
    return name, float(z[0].softmax(0)[best])
