"""Controls: the same fits for a network that learned nothing, and with outputs of other images.

Each goes through the whole fit, frame, w, v and Lambda included: shuffling labels only where points
are counted would show how often a point hits by chance, and not what fits can make of noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from emergence_ext.method import entropy, pearson
from emergence_ext.network import FeatureSet, extract, randomise
from emergence_ext.run import Checkpoint, Emergence, FinishedRun, Subject, emergence, settings_of
from emergence_ext.settings import Backend
from emergence_ext.store import once

RANDOM_WEIGHTS: Final = "random weights"
SHUFFLED_OUTPUTS: Final = "shuffled outputs"


@dataclass(frozen=True)
class Control:
    """One network or control taken through the fits: a checkpoint of some results.

    Attributes:
        name: what was done.
        found: the results.
        checkpoint: which of them are meant.
    """

    name: str
    found: Emergence
    checkpoint: int = -1

    def strength_entropy(self) -> float:
        """Pearson of `|g|` with the entropy of the output, on held-out images."""
        out = self.found.held_out
        strength = self.found.g[self.checkpoint, out].norm(dim=1)
        return float(pearson(strength, entropy(self.found.z[self.checkpoint, out])))

    def importance_strength(self, layer: int) -> float:
        """Mean Pearson of `|h|` with w in a layer, over the images that regions were learned on."""
        h = self.found.h[self.checkpoint, layer, self.found.region_images]
        return float(pearson(h.norm(dim=-1), self.found.w[self.checkpoint, layer]).nanmean())


def controls(
    run: FinishedRun, subject: Subject, *, backend: Backend = "auto", folder: Path | None = None
) -> list[Control]:
    """Take the controls of a run's network through the fits of the run.

    Args:
        run: a finished run.
        subject: its network and images.
        backend: what matches regions, see `backend.choose`.
        folder: where features and fits of the controls are kept and looked for.

    Returns:
        The network as the run found it. "random weights": the same network initialised anew, seen
        as a checkpoint before the network in the network's frame, since outputs that are all alike
        give no directions of their own. "shuffled outputs": the features of each image beside
        output and label of another, with a frame of their own. Both with the run's kappa_p: solved
        anew it would sharpen what a control hardly tells apart.

    Raises:
        ValueError: a control that cannot be fitted.
        StoreError: the run does not note its settings.
    """
    settings = settings_of(run.config)
    seed = settings.random_state

    def fitted(name: str, make: Callable[[], FeatureSet], *after: Checkpoint) -> Emergence:
        place = None if folder is None else folder / name.replace(" ", "_")
        path = None if place is None else place / "features"
        checkpoint = Checkpoint(name, 0, partial(once, path, FeatureSet, make))
        return emergence(
            [checkpoint, *after],
            settings,
            kappa_p=run.found.frame.solved_kappa_p,
            folder=None if place is None else place / "fits",
            backend=backend,
        )

    network = Checkpoint("network", run.found.epochs[-1], run.features)
    random = partial(random_features, subject, run.found.grid, seed)
    return [
        Control("network", run.found),
        Control(RANDOM_WEIGHTS, fitted(RANDOM_WEIGHTS, random, network), 0),
        Control(SHUFFLED_OUTPUTS, fitted(SHUFFLED_OUTPUTS, lambda: shuffled(run.features(), seed))),
    ]


def random_features(subject: Subject, grid: tuple[int, int], random_state: int) -> FeatureSet:
    """Extract the features of the same network with weights drawn anew; the subject's stay."""
    module = copy.deepcopy(subject.module)
    randomise(module, random_state)
    return extract(
        module,
        subject.dataset,
        subject.layers,
        grid=grid,
        preprocess=subject.preprocess,
        outputs=subject.outputs,
        precision=subject.precision,
        batch_size=subject.batch_size,
        device=subject.device,
    )


def shuffled(features: FeatureSet, random_state: int) -> FeatureSet:
    """Give every image the output and the label of another one; accuracy stays what it was."""
    generator = torch.Generator().manual_seed(random_state)
    order = torch.randperm(len(features), generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one circle through all images: none keeps its own
    return replace(features, z=features.z[other], y=features.y[other])
