"""What a run found, planted: regions whose place and category are known, without any network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from emergence_ext.method import ExactKappa, Frame
from emergence_ext.report.beside import Experiments
from emergence_ext.report.findings import findings
from emergence_ext.report.html.write import write_page
from emergence_ext.report.view import view_data
from emergence_ext.run import Emergence, Thumbnails
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.shapley import Shapley


def planted(
    *,
    images: int = 24,
    categories: tuple[str, ...] = ("cat", "dog", "tabby_cow"),
    names: tuple[str, ...] = (),
    checkpoints: int = 3,
    layers: int = 2,
    grid: tuple[int, int] = (3, 4),
    dim: int = 3,
    tau: float | None = None,
    pictures: bool = True,
) -> Any:
    """A finished run as far as the view looks at it: `emergence` and `thumbnails`.

    Regions move towards the ray of their category from checkpoint to checkpoint and layer to layer;
    every third image is misread.
    """
    generator = torch.Generator().manual_seed(3)
    C, R = len(categories), grid[0] * grid[1]
    mu = torch.nn.functional.normalize(torch.randn(C, dim, generator=generator), dim=1)
    y = torch.arange(images) % C
    turn = torch.arange(images) // C % 3
    held_out = turn != 1
    region_images = (~held_out).nonzero().flatten()[: max(1, images // 6)]
    h = torch.empty(checkpoints, layers, images, R, dim)
    for t in range(checkpoints):
        for k in range(layers):
            pull = 0.5 + 2 * (t / max(1, checkpoints - 1)) + (k / max(1, layers - 1))
            noise = torch.randn(images, R, dim, generator=generator)
            h[t, k] = pull * mu[y][:, None] + noise
    h[:, :, 0, 0] = 0  # a region without strength
    z = 3 * torch.nn.functional.one_hot((y + (turn == 2)) % C, C).float()
    emergence = Emergence(
        frame=Frame(torch.full((C,), 1 / C), mu, ExactKappa(dim), 10.0),
        labels=[f"epoch {2 * t}" for t in range(checkpoints)],
        epochs=[2 * t for t in range(checkpoints)],
        layers=[f"conv{k + 1}" for k in range(layers)],
        categories=list(categories),
        names=[names[i] if i < len(names) else f"image_{i:03d}.png" for i in range(images)],
        grid=grid,
        tau=max(0.4, 1.2 / C) if tau is None else tau,
        y=y,
        held_out=held_out,
        region_images=region_images,
        g=2 * mu[y].expand(checkpoints, -1, -1) + 0.3,
        z=z.expand(checkpoints, -1, -1),
        h=h,
        w=torch.rand(checkpoints, layers, len(region_images), R, generator=generator),
        scale=torch.ones(checkpoints, layers),
        raw_strength=torch.ones(checkpoints, layers, len(region_images), R),
    )
    pixels = torch.randint(0, 256, (images, 3, 24, 32), generator=generator, dtype=torch.uint8)
    fields = torch.tensor([[0, 0, 12, 16]]).expand(R, 4)
    return SimpleNamespace(
        emergence=emergence, thumbnails=Thumbnails(pixels, fields) if pictures else None
    )


def planted_attack(run: Any) -> Attack:
    """An attack on the held-out images that were right, which led every other one astray.

    Their regions lie on the other side of the centre.
    """
    e = run.emergence
    right = (e.held_out & (e.predicted() == e.y)).nonzero().flatten()
    astray = torch.arange(0, len(right), 2)
    n, L, R = len(astray), len(e.layers), e.grid[0] * e.grid[1]
    clean = e.h[-1][:, right[astray]]
    predicted = e.y[right].expand(2, -1).clone()
    predicted[1, astray] = (e.y[right[astray]] + 1) % len(e.categories)
    return Attack(
        frame=e.frame, eps=0.1, step=0.01, steps=1, tau=e.tau, random_state=0, layers=e.layers,
        categories=e.categories, names=[e.names[i] for i in right], grid=e.grid, y=e.y[right],
        predicted=predicted, astray=astray, h=torch.stack([clean, -clean]),
        g=torch.stack([e.g[-1, right[astray]], -e.g[-1, right[astray]]]),
        p=torch.zeros(2, 2, L, n, R), types=torch.zeros(L, n, R, dtype=torch.uint8),
        images=torch.zeros(2, 0, 3, 8, 8), path=torch.zeros(2, L, 0, R, e.frame.dim),
        typed=torch.zeros(0, 3, dtype=torch.int64), typed_path=torch.zeros(2, 0, e.frame.dim),
        typed_p=torch.zeros(2, 2, 0),
    )  # fmt: skip


def planted_shapley(run: Any) -> Shapley:
    """Shapley values in the last layer, of the images that have a w."""
    e = run.emergence
    index, R = e.region_images, e.grid[0] * e.grid[1]
    n, generator = len(index), torch.Generator().manual_seed(5)
    values = torch.randn(1, n, R, generator=generator)
    each = torch.zeros(1, n)
    return Shapley(
        layers=e.layers[-1:], categories=e.categories, names=[e.names[i] for i in index.tolist()],
        grid=e.grid, reach=0.1, y=e.y[index], index=index, values=values, error=each,
        permutations=each, full=each, none=each, w=values, strength=values, grad_cam=values,
        random=values,
    )  # fmt: skip


def planted_page(folder: Path, run: Any, done: Experiments | None = None) -> Path:
    """The page of a planted run, in a folder that is made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": 1,
        "settings": {"model": "module:tiny"},
        "subject": {"data": "somewhere/animals"},
        "categories": run.emergence.categories,
        "layers": run.emergence.layers,
        "checkpoints": [{"label": "epoch 4", "epoch": 4, "accuracy": 2 / 3}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return write_page(folder, view=view_data(run, done), findings=findings(run))
