"""What a file of weights says of the training that wrote it, sealed with a digest of both."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emergence_ext.store import StoreError, digest

__all__ = ["Origin", "check_seal", "read_origin", "sealed"]

logger = logging.getLogger(__name__)

_KEY: Final = "emergence_ext"
_MARK: Final = "emergence_ext.sha256"
"""Key of a file's metadata (https://huggingface.co/docs/safetensors) and of the digest in what
stands there: what has the mark under another key has a flipped bit. One key, as safetensors writes
several in any order."""

_LARGEST: Final = 1 << 14  # pixels; what a file says is not decoded at any size


@dataclass(frozen=True)
class Origin:
    """How a network was trained, as far as its weights say.

    Attributes:
        size: side of the images in pixels.
        preprocess: what they went through, as `network.preprocess` takes it.
        model: what the network was built by, as `load_model` takes it.
        categories: of the columns of the output, in order.
        output: which of its outputs are the logits, as `load_model` takes it.

    Examples:
        >>> from emergence_ext import network
        >>> network.Origin(size=32, categories=("cat", "dog"))
        Origin(size=32, preprocess=None, model=None, categories=('cat', 'dog'), output=None)
    """

    size: int | None = None
    preprocess: str | None = None
    model: str | None = None
    categories: tuple[str, ...] = ()
    output: str | None = None

    def size_for(
        self, given: int | None, published: int | None = None, *, default: int = 224
    ) -> int:
        """Settle the side of images, the first that is known.

        Args:
            given: by the user.
            published: what the network is published for; that of the training stands before it.
            default: where neither is known.

        Raises:
            ValueError: no pixel.
            TypeError: no number of pixels.
        """
        if given is not None and not isinstance(given, Integral):
            raise TypeError(f"size: expected a number of pixels, got {given!r}")
        if given is not None and given < 1:
            raise ValueError(f"size: expected at least 1 pixel, got {given}")
        if given is None:
            if self.size is not None:
                logger.info("images of %d pixels, as the weights were trained", self.size)
            elif published not in (None, default):
                logger.info("images of %d pixels, as the network is published for", published)
            return self.size or published or default
        if self.size not in (None, given):
            logger.warning("size %d: these weights were trained at %s pixels", given, self.size)
        return given

    def preprocess_for(self, given: str, guess: str | None) -> str:
        """Settle the preprocessing: the one given, or for `auto` the training's, or the guess.

        Where neither is known images stay in 0..1, which is told.

        Raises:
            ValueError: it is code that was not asked for by name.
        """
        if given != "auto":
            if self.preprocess not in (None, given):
                logger.warning(
                    "preprocess %s: these weights were trained with %r", given, self.preprocess
                )
            return given
        if self.preprocess is None or self.preprocess == guess:
            if guess is None:
                logger.warning("no preprocessing is known for this network: images stay in 0..1")
            return guess or "none"
        if ":" in self.preprocess:
            # What a file names is not imported: files of weights come from anywhere.
            raise ValueError(
                f"preprocess: these weights were trained with code, {self.preprocess!r}; ask for "
                "it by --preprocess, or for none"
            )
        logger.info("preprocessing %r, as the weights were trained", self.preprocess)
        return self.preprocess

    def output_for(self, given: str | None) -> str | None:
        """Settle which output holds the logits: the one given, or that of the training."""
        if given is None and self.output is not None:
            logger.info("logits are the output %r, as the weights were trained", self.output)
        elif self.output not in (None, given):
            logger.warning("output %s: these weights were trained with %r", given, self.output)
        return self.output if given is None else given

    def class_map(self, categories: Sequence[str]) -> dict[str, int] | None:
        """Say which column of the output each category is, where they are not one to one.

        Args:
            categories: of the images.

        Raises:
            ValueError: a category that the network was not trained on.
        """
        if not self.categories or self.categories == tuple(categories):
            return None
        strange = next((name for name in categories if name not in self.categories), None)
        if strange is not None:
            raise ValueError(
                f"class_map: these weights were trained on other categories than {strange!r}, "
                f"{len(self.categories)} from {self.categories[0]!r} to {self.categories[-1]!r}; "
                "say by --class-map which output each category is"
            )
        logger.info("categories find their outputs by name, as the weights were trained")
        return {name: column for column, name in enumerate(self.categories)}


def sealed(state: Mapping[str, Tensor], origin: Origin) -> bytes:
    """Return a file of weights that says where they come from and carries a digest of everything.

    Args:
        state: tensors by name; several may share their memory, each is stored.
        origin: of the weights.
    """
    stored = {name: x.detach().cpu().contiguous().clone() for name, x in state.items()}
    said = asdict(origin)
    return save(stored, {_KEY: json.dumps({**said, _MARK: _seal(stored, said)})})


def check_seal(path: Path, state: Mapping[str, Tensor]) -> None:
    """Insist that weights are those that a training wrote; files of other tools pass.

    Args:
        path: a `.safetensors` file.
        state: what was read from it.

    Raises:
        StoreError: a tensor, its name or the metadata was changed.
    """
    said = _said(path)
    if said is not None and said.pop(_MARK, None) != _seal(state, said):
        raise _damaged(path, "it is not what the training wrote")


def read_origin(path: Path | str | None) -> Origin:
    """Return what a file of weights says of its training; nothing where it says nothing.

    Raises:
        StoreError: it says something else than a training writes.

    Examples:
        >>> from emergence_ext import network
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), "w.pt")  # says nothing of the training
        >>> network.read_origin("w.pt") == network.Origin()
        True
    """
    said = None if path is None else _said(Path(path))
    if said is None or path is None:
        return Origin()
    try:
        del said[_MARK]
        origin = Origin(**{**said, "categories": tuple(said["categories"])})
        names = (origin.preprocess, origin.model, origin.output, *origin.categories)
        if not all(x is None or isinstance(x, str) for x in names):
            raise TypeError("a name is no text")
        if not f"{origin.preprocess}{origin.model}{origin.output}".isprintable():
            raise ValueError("a name that cannot be printed")
        if origin.size is not None and origin.size not in range(1, _LARGEST + 1):
            raise ValueError(f"size {origin.size}")
    except (TypeError, ValueError, LookupError) as error:
        raise _damaged(Path(path), "what it says of its training is something else") from error
    return origin


def _seal(state: Mapping[str, Tensor], said: Mapping[str, Any]) -> str:
    return digest([json.dumps(said), {name: state[name] for name in sorted(state)}])


def _said(path: Path) -> dict[str, Any] | None:
    """What a training wrote into a file of weights; None where no training of this package did."""
    metadata = _metadata(path)
    text = metadata.get(_KEY)
    if text is None and not any(_MARK in value for value in metadata.values()):
        return None
    try:
        said = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "what it says of its training cannot be read") from error
    if not isinstance(said, dict):
        raise _damaged(path, "what it says of its training is something else")
    return said


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"weights: {path} is damaged: {what}. Take another copy or another epoch, or train again."
    )


def _metadata(path: Path) -> dict[str, str]:
    """Metadata of a file; none where it cannot be read, which whoever reads the weights tells."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
