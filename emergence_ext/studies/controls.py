"""Controls: the same fits for a network that learned nothing, and with outputs of other images.

Each goes through the whole fit, frame, w, v and Lambda included: shuffling labels only where points
are counted would show how often a point hits by chance, and not what fits can make of noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch

from emergence_ext.lookup import require_kind
from emergence_ext.method import entropy, pearson
from emergence_ext.network import FeatureSet, randomise
from emergence_ext.run import Checkpoint, Emergence, FinishedRun, RunFolder, Subject, emergence
from emergence_ext.settings import Backend
from emergence_ext.store import Saved, once

NAME: Final = "controls"  # of the experiment, and of its folder in a run
RANDOM_WEIGHTS: Final = "random weights"
SHUFFLED_OUTPUTS: Final = "shuffled outputs"


@dataclass(frozen=True)
class Control:
    """One network or control taken through the fits: a checkpoint of some results.

    Attributes:
        name: what was done.
        emergence: the results.
        checkpoint: which of them are meant.
    """

    name: str
    emergence: Emergence
    checkpoint: int = -1

    def strength_entropy(self) -> float:
        """Pearson of `|g|` with the entropy of the output, on held-out images."""
        e, t, out = self.emergence, self.checkpoint, self.emergence.held_out
        return float(pearson(e.samples(t, out).norm(dim=1), entropy(e.logits(t, out))))

    def importance_strength(self, layer: int) -> float:
        """Mean Pearson of `|h|` with w in a layer, over the images that regions were learned on."""
        e, t = self.emergence, self.checkpoint
        h = e.regions(t, layer, e.region_images)
        return float(pearson(h.norm(dim=-1), e.w[t, layer], e.weighed).nanmean())


@dataclass(frozen=True, eq=False)
class Controls(Saved):
    """What the same fits find where there is nothing to find.

    Attributes:
        random_weights: the same network initialised anew, seen as a checkpoint before the network
            in the network's frame, since outputs that are all alike give no directions of their
            own.
        shuffled_outputs: the features of each image beside output and label of another, with a
            frame of their own.
    """

    random_weights: Emergence
    shuffled_outputs: Emergence

    def beside(self, emergence: Emergence) -> list[Control]:
        """Return them behind the network itself, whose results are given."""
        return [
            Control("network", emergence),
            Control(RANDOM_WEIGHTS, self.random_weights, 0),
            Control(SHUFFLED_OUTPUTS, self.shuffled_outputs),
        ]


def controls(run: FinishedRun, subject: Subject, *, backend: Backend = "auto") -> Controls:
    """Take the controls of a run's network through the fits of the run.

    Features and fits are kept in the run, and looked for there. Both controls have the run's
    kappa_p: solved anew it would sharpen what a control hardly tells apart.

    Args:
        run: a finished run.
        subject: its network and images.
        backend: what matches regions, see `backend.choose`.

    Raises:
        ValueError: a control that cannot be fitted.
        StoreError: the run does not note its settings.
    """
    require_kind(run=(run, FinishedRun), subject=(subject, Subject))
    settings, part = run.settings, run.sampled(subject)
    seed = settings.random_state

    def fitted(name: str, make: Callable[[], FeatureSet], *after: Checkpoint) -> Emergence:
        made_from = {**run.made_from, "random_state": str(seed)}
        inside = RunFolder(run.inside.experiment(NAME) / name.replace(" ", "_"))
        path = inside.path / "features"
        checkpoint = Checkpoint(name, 0, partial(once, path, FeatureSet, make, made_from))
        return emergence(
            [checkpoint, *after],
            settings,
            kappa_p=run.emergence.frame.solved_kappa_p,
            folder=inside.fits.path,
            backend=backend,
        )

    features = partial(run.features_of_sample, subject)
    network = Checkpoint("network", run.emergence.epochs[-1], features)
    return Controls(
        fitted(RANDOM_WEIGHTS, lambda: random_features(part, run.emergence.grid, seed), network),
        fitted(SHUFFLED_OUTPUTS, lambda: shuffled(features(), seed)),
    )


def random_features(subject: Subject, grid: tuple[int, int], random_state: int) -> FeatureSet:
    """Extract the features of the same network with weights drawn anew; the subject's stay."""
    module = copy.deepcopy(subject.module)
    randomise(module, random_state)
    return subject.extract(module, grid)


def shuffled(features: FeatureSet, random_state: int) -> FeatureSet:
    """Give every image the output and the label of another one; accuracy stays what it was.

    Examples:
        >>> import emergence_ext as ee
        >>> features = ee.FinishedRun.open("runs/demo").features()
        >>> mixed = ee.studies.controls.shuffled(features, 0)
        >>> torch.equal(mixed.z.sort(0)[0], features.z.sort(0)[0]), torch.equal(mixed.z, features.z)
        (True, False)
    """
    generator = torch.Generator().manual_seed(random_state)
    order = torch.randperm(len(features), generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one circle through all images: none keeps its own
    return replace(features, z=features.z[other], y=features.y[other])
