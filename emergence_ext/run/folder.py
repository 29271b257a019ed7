"""What lies where in a run directory, and what its `config.json` says: the one place that knows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from emergence_ext.lookup import path_named
from emergence_ext.store import (
    StoreError,
    content_digest,
    digest,
    exists,
    read_document,
    write_document,
)

FORMAT_VERSION: Final = 2  # 1 had no digest of itself
STUDY: Final = "study.json"  # beside fits: what they are of
STUDY_VERSION: Final = 1  # the first had none


@dataclass(frozen=True)
class StateFolder:
    """The fits of one state of a network: a checkpoint, or a student.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> run.StateFolder(Path("fits/epoch_3")).importance("conv1_1").as_posix()
        'fits/epoch_3/conv1_1.importance'
    """

    path: Path

    @property
    def samples(self) -> Path:
        """M alone; the last checkpoint's is that of the frame."""
        return self.path / "samples"

    def importance(self, layer: str) -> Path:
        """The w and v of a layer."""
        return self.path / f"{file_name(layer)}.importance"

    def regional(self, layer: str) -> Path:
        """Lambda of a layer."""
        return self.path / f"{file_name(layer)}.regional"

    def fits(self, layers: Sequence[str]) -> list[Path]:
        """Where w, v and Lambda of all layers are."""
        return [path for x in layers for path in (self.importance(x), self.regional(x))]


@dataclass(frozen=True)
class FitsFolder:
    """The fits of several checkpoints, in one frame.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> run.RunFolder(Path("runs/demo")).fits.state("epoch 12").samples.parent.parent.name
        'fits'
    """

    path: Path

    @property
    def frame(self) -> Path:
        """The projection of samples that the frame was learned with."""
        return self.path / "frame"

    def state(self, label: str) -> StateFolder:
        """The fits of one checkpoint."""
        return StateFolder(self.path / file_name(label))


@dataclass(frozen=True)
class RunFolder:
    """A run directory. Results are named without a suffix, as `store` takes them.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> place = run.RunFolder(Path("runs/demo"))
        >>> place.config.as_posix(), place.holds_results
        ('runs/demo/config.json', True)
    """

    path: Path

    @property
    def config(self) -> Path:
        """Settings, versions and hashes, see `Config`."""
        return self.path / "config.json"

    @property
    def fits(self) -> FitsFolder:
        """The fits of the run's own checkpoints."""
        return FitsFolder(self.path / "fits")

    @property
    def emergence(self) -> Path:
        """Everything that the run found."""
        return self.path / "fits" / "emergence"

    @property
    def alphas(self) -> Path:
        """The fits with further weights of the alignment."""
        return self.path / "fits" / "alphas"

    @property
    def thumbnails(self) -> Path:
        """The images, small."""
        return self.path / "thumbnails"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def index(self) -> Path:
        """The list of all pages, where there are several."""
        return self.path / "index.html"

    @property
    def holds_results(self) -> bool:
        """Whether a run has begun to compute here."""
        return any((self.path / part).is_dir() for part in ("features", "fits"))

    def features(self, label: str) -> Path:
        """The features of all images in a checkpoint."""
        return self.path / "features" / file_name(label)

    def sample_features(self, label: str) -> Path:
        """Of many images: f and z of those that M is learned on, in a checkpoint."""
        return self.path / "features" / f"{file_name(label)}.samples"

    def region_features(self, label: str) -> Path:
        """Of many images: all features of those that regions are learned on, and of some others."""
        return self.path / "features" / f"{file_name(label)}.regions"

    @property
    def features_of_sample(self) -> Path:
        """Of many images: all features of those that studies look at, in the last checkpoint."""
        return self.path / "features" / ".sample"

    @property
    def rows(self) -> Path:
        """Of many images: g, z and h of all of them."""
        return self.path / "projected"

    def projected(self, label: str) -> Path:
        """The shards of these in a checkpoint."""
        return self.rows / file_name(label)

    def strength(self, temperature: float) -> Path:
        """Strength against entropy at a temperature."""
        return self.path / "fits" / "temperatures" / f"{temperature:g}"

    def origins(self, labels: Sequence[str], layers: Sequence[str]) -> dict[str, str]:
        """Digests of the features and fits that `emergence` is made from, as far as they are there.

        Args:
            labels: of the checkpoints, the last being the finished network.
            layers: names.
        """
        found = {}
        for label in labels:
            state = self.fits.state(label)
            samples = self.fits.frame if label == labels[-1] else state.samples
            fits = [samples, *state.fits(layers)]
            for name, path in (
                (f"features of {label}", self.features(label)),
                (f"features of samples of {label}", self.sample_features(label)),
                (f"features of regions of {label}", self.region_features(label)),
            ):
                if exists(path):
                    found[name] = content_digest(path)
            if all(map(exists, fits)):
                found[f"fits of {label}"] = digest([content_digest(path) for path in fits])
        return found

    def experiment(self, name: str) -> Path:
        """The folder of everything of one experiment that was done with the run."""
        return self.path / name

    def result(self, name: str) -> Path:
        """What that experiment found; `EXPERIMENT/NAME` is one of several of a kind."""
        return self.path / name / name.partition("/")[0]


@dataclass(frozen=True)
class Config:
    """What `config.json` says of a run; the names are its keys.

    Attributes:
        command: how the run was asked for.
        settings: of the fits, and what a reader wants to know of the network.
        subject: how to load network and images, see `SubjectSpec`; None where nobody wrote it down.
        hashes: digest of each thing that the results depend on.
        results: digest of what was found; empty until the run is finished.
        layers, categories: names.
        versions: of what computed.
        git: commit of the package's checkout.
        checkpoints: label, epoch and accuracy of each.
        bad_images: name and reason of each that was left out.
        warnings: what went wrong while computing.
        format_version: of the run directory.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> config = run.Config.read(Path("runs/demo/config.json"))
        >>> config.categories, [state["label"] for state in config.checkpoints]
        (['blue', 'green', 'red'], ['epoch 0', 'epoch 2', 'epoch 12'])
    """

    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    subject: dict[str, Any] | None = None
    hashes: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    layers: list[Any] = field(default_factory=list)
    versions: dict[str, Any] = field(default_factory=dict)
    git: str = ""
    categories: list[Any] = field(default_factory=list)
    checkpoints: list[Any] = field(default_factory=list)
    bad_images: list[Any] = field(default_factory=list)
    warnings: list[Any] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `config.json`; what it does not say is empty, what is not known is passed over.

        Raises:
            FileNotFoundError: no such file.
            StoreError: damaged, no JSON object, another format, or an entry of another kind.
        """
        advice = "Make the run again in another directory."
        try:
            entries = read_document(path, FORMAT_VERSION, advice, what="run", undigested=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"run: {path.parent} holds no finished run; "
                f"`emergence run --out {path.parent}` makes one"
            ) from None
        if "format_version" not in entries:
            raise StoreError(f"run: {path} has no format version. {advice}")
        empty = cls()
        given: dict[str, Any] = {}
        for name in (entry.name for entry in fields(cls)):
            value, kind = entries.get(name), type(getattr(empty, name))
            if value is None:
                continue
            if not isinstance(value, dict if name == "subject" else kind):
                raise StoreError(
                    f"run: {name!r} in {path} must be a {kind.__name__}, got {type(value).__name__}"
                )
            given[name] = value
        return cls(**given)

    @property
    def digested(self) -> bool:
        """Whether it notes digests of what the results depend on; earlier versions did not."""
        return self.format_version >= FORMAT_VERSION and bool(self.hashes)

    def write(self, path: Path) -> None:
        """Write it as a `config.json`, with a digest of itself.

        Raises:
            ValueError: a number that is not finite.
        """
        write_document(path, asdict(replace(self, format_version=FORMAT_VERSION)))


def check_place(out: Path | str, data: Path | str | None = None) -> None:
    """Refuse a place for results that is a file, or the folder of the images itself.

    Args:
        out: the place, which need not be there.
        data: the folder of the images.

    Raises:
        ValueError: it is one of these.
        TypeError: it is no path.

    Examples:
        >>> from emergence_ext import run
        >>> run.check_place("photos", data="photos")
        Traceback (most recent call last):
        ...
        ValueError: out: ...
    """
    place = path_named(out, "out")
    if place.is_file():
        raise ValueError(f"out: {out} is a file; name a folder, which is made if it is not there")
    if data is not None and place.exists() and place.resolve() == Path(data).resolve():
        raise ValueError(
            f"out: {out} is the folder of the images, where results would be taken for "
            "categories; name another"
        )


def file_name(label: str) -> str:
    """A label as a file name of its own: labels may hold anything, slashes among it.

    Examples:
        >>> from emergence_ext import run
        >>> run.file_name("epoch 3"), run.file_name("conv5_3")
        ('epoch_3.11a1d6a0', 'conv5_3')
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in label)[:80]
    plain = plain or "_"
    return plain if plain == label else f"{plain}.{zlib.crc32(label.encode()):08x}"
