"""One call from a network and images to answers, and a run as a notebook wants it."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from torch import Tensor, nn

from emergence_ext.data import MapStyle
from emergence_ext.lookup import require_kind
from emergence_ext.report import Framed, emergence, exporting, is_current, show, write
from emergence_ext.run import FinishedRun, Settings, check_place, run, subject_of
from emergence_ext.settings import Backend, Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Analysis(FinishedRun):
    """A finished run, and what is looked at of it; `Analysis.open(RUN)` takes one up again.

    Tables are data frames where pandas is installed, else lists of rows.

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.Analysis.open("runs/demo")
        >>> len(run.points), len(run.samples)
        (12, 144)
    """

    @classmethod
    def of(cls, finished: FinishedRun) -> Self:
        """Take a finished run."""
        require_kind(finished=(finished, FinishedRun))
        return cls(finished.folder, finished.config)

    def __repr__(self) -> str:
        e = self.emergence
        return (
            f"Analysis of {len(e.names)} images in {len(e.categories)} categories, layers "
            f"{', '.join(e.layers)}, {len(e.labels)} checkpoint{'s' * (len(e.labels) > 1)}, in "
            f"{self.folder}"
        )

    def _repr_html_(self) -> str:
        """Show the page where it was written; writing it takes more than a look should."""
        words = escape(repr(self))
        if self.inside.report.is_file() and is_current(self):
            return f"<p>{words}</p>{show(self)._repr_html_()}"
        return f"<p>{words}; <code>.show()</code> writes its page and shows it here</p>"

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Return every table of the report by its name, as `knowledge` and `images`."""
        return {name: _frame(rows) for name, rows in emergence.tables(self).items()}

    @property
    def points(self) -> Any:
        """Return the counts of knowledge points: a row for each checkpoint, layer and part."""
        return self.tables["knowledge"]

    @cached_property
    def samples(self) -> Any:
        """Return a row for each checkpoint and image: category, output, entropy and g."""
        return _frame_of(exporting.samples(self.emergence))

    @cached_property
    def regions(self) -> Any:
        """Return a row for each region of each image, layer and checkpoint: h and what it says."""
        return _frame_of(exporting.regions(self.emergence))

    def report(self) -> Path:
        """Write tables, figures and page; return the page.

        Raises:
            StoreError: a stored result is damaged.
        """
        return write(self)

    def show(self, height: int = Framed.height) -> Framed:
        """Return the page for a notebook to display, after writing it where it is not there.

        Args:
            height: of the page in the notebook, pixels.
        """
        return show(self, height)


def analyze(
    model: nn.Module | str,
    images: MapStyle | Iterable[Any] | Path | str,
    layers: Mapping[str, str] | Sequence[str] | str | None = None,
    checkpoints: Path | str | Sequence[Path | str] | None = None,
    out: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    split: str | None = None,
    size: int | None = None,
    preprocess: str | Callable[[Tensor], Tensor] = "auto",
    class_map: Mapping[str, int] | Path | str | None = None,
    masks: Path | str | None = None,
    boxes: Path | str | None = None,
    settings: Settings | None = None,
    precision: Precision = "float32",
    backend: Backend = "auto",
    device: str = "cpu",
) -> Analysis:
    """Analyse a network on images: what each of its layers has learned, and where.

    Args:
        model: the network (it comes back as it was), or its name as `network.load_model` takes it.
        images: a folder with one folder per category, or samples, see `run.subject_of`.
        layers: dotted names; None: those of the network, or suggested ones.
        checkpoints: files of weights of one training, or a pattern of them.
        out: the run directory, which is gone on with where it holds the same run unfinished; None:
            a new one among the temporary files.
        weights, split, size, preprocess, class_map, masks, boxes, precision, device: see
            `run.subject_of`.
        settings: of the fits.
        backend: what matches regions, see `ops.choose`.

    Raises:
        ValueError: something about network, images or settings does not fit, or `out` holds another
            run.
        FileNotFoundError: a file or folder that is not there.

    Examples:
        >>> import emergence_ext as ee
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4),
        ...     torch.nn.Flatten(), torch.nn.Linear(128, 3),
        ... )
        >>> quick = ee.run.Settings(importance_evals=2, regional_evals=2)
        >>> run = ee.analyze(network, "photos", "0", size=16, out="runs/mine", settings=quick)
        >>> run.emergence.layers, len(run.samples)  # run.points, run.regions, run.show()
        (['0'], 48)
    """
    if out is not None:  # before anything is read
        check_place(out, images if isinstance(images, str | Path) else None)
    subject = subject_of(
        model,
        images,
        layers,
        checkpoints,
        weights=weights,
        split=split,
        size=size,
        preprocess=preprocess,
        class_map=class_map,
        masks=masks,
        boxes=boxes,
        precision=precision,
        device=device,
    )
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="emergence-"))
        logger.warning("the run is kept in %s until temporary files are removed; see out", out)
    return Analysis.of(run(subject, out, settings, backend=backend, command="analyze"))


def _frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a data frame, where there is pandas."""
    pandas = _pandas()
    return [dict(row) for row in rows] if pandas is None else pandas.DataFrame(rows)


def _frame_of(blocks: Iterator[exporting.Block]) -> Any:
    """Blocks of columns one after another as a data frame, or as a list of rows."""
    parts = list(blocks)
    pandas = _pandas()
    columns: dict[str, Any] = {}
    for name, first in parts[0].items():
        if isinstance(first, exporting.Named):
            codes = np.concatenate([cast(exporting.Named, part[name]).codes for part in parts])
            columns[name] = _named(pandas, codes, first.names)
        else:
            columns[name] = np.concatenate([cast(np.ndarray, part[name]) for part in parts])
    if pandas is not None:
        return pandas.DataFrame(columns)
    listed = [x.tolist() if isinstance(x, np.ndarray) else x for x in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]


def _named(pandas: Any, codes: np.ndarray, names: Sequence[str]) -> Any:
    """A column of names; a categorical one where pandas is there and no two are alike."""
    if pandas is not None and len(set(names)) == len(names):
        return pandas.Categorical.from_codes(codes, categories=list(names))
    return [names[code] if code >= 0 else None for code in codes.tolist()]


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ImportError:
        return None
