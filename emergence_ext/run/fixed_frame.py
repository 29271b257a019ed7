"""Fits in a frame that is already there: M of the samples, w, v and Lambda of every layer (Sec. 3).

The frame `{pi, mu, kappa_p}` is learned once and held; whatever else is looked at, an earlier
checkpoint or a student of the network, learns the rest for itself.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.method import (
    FitStats,
    Frame,
    RegionalProjection,
    RegionImportance,
    SampleProjection,
    normalise_strengths,
)
from emergence_ext.names import printable
from emergence_ext.run.estimators import (
    image_similarities,
    origins_of_choices,
    region_importance,
    regional_projection,
)
from emergence_ext.run.folder import STUDY, STUDY_VERSION, StateFolder
from emergence_ext.run.rows import Rows
from emergence_ext.run.settle import sample_images
from emergence_ext.run.sources import Source
from emergence_ext.settings import Backend, Settings, with_later
from emergence_ext.store import digest, exists, once, read_document, write_document

logger = logging.getLogger(__name__)


@dataclass
class Fitted:
    """The fits of one state of a network, and what they make of its features.

    Attributes:
        samples: the projection of samples.
        importance, regional: layer -> its fit.
        rows: g, z and h of all images, strengths normalised within this state.
        raw_strength: `|F|` of the images that regions were learned on, `[L, n, R]`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> from emergence_ext.run.rows import Rows
        >>> found = ee.FinishedRun.open("runs/demo")
        >>> e, fits = found.emergence, found.learned()
        >>> rows = Rows(e.samples(), e.logits(), e.h[-1])
        >>> fitted = run.Fitted(
        ...     fits.samples, fits.importance, fits.regional, rows, e.raw_strength[-1]
        ... )
        >>> [name for name, layer, stats in fitted.statistics() if layer in ("", "conv1_1")]
        ['samples', 'importance', 'regional']
    """

    samples: SampleProjection
    importance: dict[str, RegionImportance]
    regional: dict[str, RegionalProjection]
    rows: Rows
    raw_strength: Tensor

    def statistics(self) -> list[tuple[str, str, FitStats]]:
        """How each fit went, as (kind, layer or nothing, statistics)."""
        rows = [("samples", "", self.samples.stats_)]
        rows += [("importance", name, fit.stats_) for name, fit in self.importance.items()]
        rows += [("regional", name, fit.stats_) for name, fit in self.regional.items()]
        return rows


@dataclass(frozen=True)
class FixedFrame:
    """What all fits in one frame have in common.

    Attributes:
        settings: of the fits.
        samples: the projection of samples that the frame was learned with.
        frame: priors, directions and both concentrations.
        fitted: images that fits may see, `[N]` bool.
        region_images: indices of those that regions are learned on, `[n]`.
        backend: what matches regions, see `backend.choose`.
        made_from: digests of what the frame depends on, beside its projection of samples.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> found = ee.FinishedRun.open("runs/demo")
        >>> e, learned = found.emergence, found.learned()
        >>> frame = run.FixedFrame(
        ...     found.settings, learned.samples, e.frame, ~e.held_out, e.region_images
        ... )
        >>> source = run.InMemory(found.features(0))
        >>> torch.allclose(frame.refit(source).transform(source.about.f), e.samples(0), atol=1e-3)
        True
    """

    settings: Settings
    samples: SampleProjection
    frame: Frame
    fitted: Tensor
    region_images: Tensor
    backend: Backend = "auto"
    made_from: Mapping[str, str] = field(default_factory=dict)

    def refit(self, source: Source, path: Path | None = None) -> SampleProjection:
        """Learn M alone, for the sample features of another state of the network.

        Args:
            source: of the features of that state.
            path: where the finished fit is kept and looked for.
        """
        chosen = sample_images(~self.fitted, source.y, self.settings)
        f, z, features = source.samples(chosen)
        made_from = {
            "frame": self.samples.digest(),
            "features": features,
            **origins_of_samples(~self.fitted, chosen),
        }
        return once(path, SampleProjection, lambda: self.samples.refit(f, z), made_from)

    def fit_regions(
        self,
        what: str,
        source: Source,
        samples: SampleProjection,
        *,
        neighbour: Fitted | None = None,
        folder: StateFolder | None = None,
        bar: tqdm,
    ) -> Fitted:
        """Learn w, v and Lambda of every layer.

        Args:
            what: name of the state, for errors and the bar.
            source: of the features of that state.
            samples: its projection of samples, in this frame.
            neighbour: whose Lambda to start from, where that is better than the usual start.
            folder: where finished fits are kept and looked for.
            bar: moves on by one for each layer.

        Raises:
            ValueError: a layer that cannot be fitted, named.
        """
        settings, chosen = self.settings, self.region_images
        features, origin = source.regions(chosen)
        g, mask = source.orientations(samples, chosen), features.mask
        P = image_similarities(settings, features.z, self.frame.solved_kappa_p)
        # P and g follow from these, to the last bit on one machine alone.
        origins = {
            **self.made_from,
            "features": origin,
            "images of regions": digest(chosen),
            "include_self": str(settings.include_self),
            **origins_of_choices(settings),
        }
        projected = {
            "frame": self.samples.digest(),
            "projection of samples": samples.digest(),
            "alpha": str(settings.alpha),
            "regional_evals": str(settings.regional_evals),
        }
        importance: dict[str, RegionImportance] = {}
        regional: dict[str, RegionalProjection] = {}
        for layer, F in features.layers.items():
            bar.set_postfix_str(printable(f"{what}, {layer}"))

            def fit_importance(F: Tensor = F) -> RegionImportance:
                # From the usual start: w stops early, as much so in every checkpoint.
                return region_importance(settings, self.backend).fit(F, P, mask=mask)

            def fit_regional(F: Tensor = F, layer: str = layer) -> RegionalProjection:
                fit = regional_projection(settings, self.frame, self.backend)
                init = None if neighbour is None else neighbour.regional[layer]
                own = importance[layer]
                return fit.fit(F, own.w_, P, g, init=init, v=own.v_, mask=mask)

            _name_blank(F, [source.names[i] for i in chosen.tolist()], layer, what)
            with _named(f"layer {layer!r} of {what}"):
                path = None if folder is None else folder.importance(layer)
                made_from = {
                    **origins,
                    "layer": layer,
                    "importance_evals": str(settings.importance_evals),
                }
                importance[layer] = once(path, RegionImportance, fit_importance, made_from)
                path = None if folder is None else folder.regional(layer)
                start = None if neighbour is None else neighbour.regional[layer].Lambda_
                made_from |= {**projected, "w and v": importance[layer].digest()}
                made_from["start"] = digest(start)
                regional[layer] = once(path, RegionalProjection, fit_regional, made_from)
            bar.update()
        normalise_strengths(regional, features.layers, settings.strength_scale, mask)
        raw_strength = torch.stack([F.norm(dim=-1) for F in features.layers.values()])
        del features, F  # the pass over all images has its own
        rows = source.project(samples, regional)
        return Fitted(samples, importance, regional, rows, raw_strength)


def origins_of_samples(held_out: Tensor, chosen: Tensor) -> dict[str, str]:
    """Digests of the images that M is learned on, of all fitted ones or of some of them."""
    origins = {"held-out images": digest(held_out)}
    if len(chosen) < int((~held_out).sum()):
        origins["images of samples"] = digest(chosen)
    return origins


def claim_folder(
    folder: Path, settings: Settings, layers: Sequence[str], names: Sequence[str], *, first: Path
) -> None:
    """Note in a folder what its fits are of.

    Args:
        folder: of the fits.
        settings: of the fits.
        layers: names.
        names: of the images.
        first: the fit that is made first; without it the folder holds none.

    Raises:
        ValueError: it holds fits of another study.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> args = Path("fits"), run.Settings(), ["conv1_1"], ["a.png", "b.png"]
        >>> run.claim_folder(*args, first=Path("fits/frame"))
        >>> run.claim_folder(*args, first=Path("fits/frame"))  # the same study may go on
    """
    crc = zlib.crc32(json.dumps(list(names)).encode())
    here = {**asdict(settings), "layers": list(layers), "names": crc}
    path = folder / STUDY
    if path.is_file():
        advice = "Remove the folder, or choose another."
        there = read_document(path, STUDY_VERSION, advice, what="folder", undigested=True)
        there = with_later(there)
        different = [name for name in here if there.get(name) != here[name]]
        if not different:
            return
        if exists(first):
            raise ValueError(
                f"folder: {folder} holds fits with another {', '.join(different)}. Choose "
                "another folder, or remove that one."
            )
    if parallel.leads():
        write_document(path, {"format_version": STUDY_VERSION, **here})


def _name_blank(F: Tensor, names: Sequence[str], layer: str, what: str) -> None:
    """Say of which images a layer has no features at all: nothing there tells them apart."""
    blank = (F == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if blank:
        some = ", ".join(names[i] for i in blank[:3]) + ", ..." * (len(blank) > 3)
        logger.warning(
            "layer %r of %s: all features are zero in %d of %d images (%s): these have no "
            "strength and no importance there",
            layer, what, len(blank), len(names), printable(some),
        )  # fmt: skip


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say in an error's text what it is about."""
    try:
        yield
    except ValueError as error:
        raise type(error)(f"{what}: {error}") from error
