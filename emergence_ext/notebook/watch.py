"""Through training without checkpoints of one's own: a loop's network, kept now and then."""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from emergence_ext.data import SHIPPED, MapStyle, tar_paths
from emergence_ext.network import Origin, save_checkpoint, taken
from emergence_ext.notebook.analysis import Analysis, analyze
from emergence_ext.run import check_place


class Watch:
    """Keeps a network's weights during its training, and analyses all of them afterwards.

    Called with the network at the end of an epoch, it writes its weights to `OUT/checkpoints` where
    the epoch is one to keep. Weights and not features: nothing is computed during the training, and
    layers and images may be chosen when it is over.

    Args:
        images: as `analyze` takes them.
        out: the run directory; None: a new one among the temporary files.
        every: epochs from one that is kept to the next; None: ever more, as what is learned early
            is learned fast: 0, 1, 2, 4, 8, ...

    Raises:
        ValueError: `every` below 1, or `out` is a file, the images' folder, or holds checkpoints.
        TypeError: images, `every` or `out` of another kind.
        FileNotFoundError: no such images.

    Examples:
        >>> import emergence_ext as ee
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4),
        ...     torch.nn.Flatten(), torch.nn.Linear(128, 3),
        ... )
        >>> watch = ee.Watch("photos", out="runs/watched", every=2)
        >>> for epoch in range(5):
        ...     watch(network, epoch)  # where an epoch of your training ends
        >>> watch
        Watch('runs/watched'), epochs kept: 0, 2, 4
        >>> # then watch.analyze().show()
    """

    def __init__(
        self,
        images: MapStyle | Iterable[Any] | Path | str,
        out: Path | str | None = None,
        every: int | None = None,
    ) -> None:
        # All of it now: after the training would be late.
        if every is not None and _whole("every", every) < 1:
            raise ValueError(f"every: expected at least 1 epoch, got {every}")
        _require_images(images)
        if out is None:
            out = tempfile.mkdtemp(prefix="emergence-")
        check_place(out, images if isinstance(images, str | Path) else None)
        self.images = images
        self.every = every
        self.out = Path(out)
        self._folder = self.out / "checkpoints"
        if any(self._folder.glob("*")):
            raise ValueError(
                f"out: {self._folder} holds checkpoints of another training; name another folder"
            )
        self._last: tuple[nn.Module, int] | None = None
        self._kept: set[int] = set()

    def __repr__(self) -> str:
        kept = ", ".join(map(str, sorted(self._kept))) or "none yet"
        return f"Watch({str(self.out)!r}), epochs kept: {kept}"

    def __call__(self, model: nn.Module, epoch: int) -> None:
        """Look at the network after an epoch; 0 is before the first.

        Args:
            model: the network; wrappers of torch.compile and of parallel training are taken off.
            epoch: a number that grows.

        Raises:
            ValueError: an epoch below 0, or not above the last, or another network than before.
            TypeError: no network, or no whole number.
            OSError: its weights cannot be written.
        """
        module, epoch = taken(model).module, _whole("epoch", epoch)
        if epoch < 0 or (self._last is not None and epoch <= self._last[1]):
            last = "" if self._last is None else f", after {self._last[1]}"
            raise ValueError(f"epoch: expected a number that grows, from 0, got {epoch}{last}")
        if self._last is not None and _shapes(module) != _shapes(self._last[0]):
            raise ValueError("model: it has other weights than the network before; watch one alone")
        self._last = (module, epoch)
        doubling = epoch & (epoch - 1) == 0
        if doubling if self.every is None else epoch % self.every == 0:
            self._keep()

    def analyze(self, **others: Any) -> Analysis:
        """Analyse every state that was kept, and the last one.

        Args:
            others: layers, settings and so on, as `analyze` takes them.

        Raises:
            RuntimeError: it was never called with a network.
            ValueError: something about network, images or settings does not fit.
        """
        if self._last is None:
            raise RuntimeError("Watch: it saw no network; call it at the end of each epoch")
        module, epoch = self._last
        if epoch not in self._kept:
            self._keep()
        files = sorted(self._folder.glob("*.safetensors"))
        return analyze(module, self.images, checkpoints=files, out=self.out, **others)

    def _keep(self) -> None:
        assert self._last is not None
        module, epoch = self._last
        self._folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self._folder, epoch, module, Origin())
        self._kept.add(epoch)


def _whole(name: str, number: Any) -> int:
    if isinstance(number, float) and number.is_integer():
        return int(number)
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number of epochs, got {number!r}") from None


def _require_images(images: Any) -> None:
    """Refuse what `analyze` would; images are read by that alone."""
    if isinstance(images, str | Path):
        if str(images) not in SHIPPED and not tar_paths(images) and not Path(images).is_dir():
            raise FileNotFoundError(f"images: no folder {images}")
    elif isinstance(images, nn.Module) or not (
        hasattr(images, "__iter__")
        or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))
    ):
        raise TypeError(
            "images: expected a folder, or a data set of (image, label), got "
            f"{type(images).__name__}"
        )


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: x.shape for name, x in module.state_dict(keep_vars=True).items()}
