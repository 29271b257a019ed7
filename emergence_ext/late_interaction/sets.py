"""Embeddings as they come, tensors, arrays or lists with masks, as sets of tokens for the ops."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emergence_ext.ops import as_tensor, require_alike

Embeddings = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]
"""`[sets, tokens, width]`, a list of `[tokens, width]`, or one such set."""
Mask = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]
"""Which tokens count, 1 or True: `[sets, tokens]`, or a list of one for each."""
Scale = float | Tensor | np.ndarray


class Padded(NamedTuple):
    """Sets with room: tokens `[sets, room, width]`, of which `lengths` are real, those first.

    Attributes:
        tokens: a floating-point tensor, or int8.
        lengths: `[sets]`, int64; None where every token is real.
        scale: of int8, one number or one for each token, `[sets, room]`.
    """

    tokens: Tensor
    lengths: Tensor | None
    scale: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """How many tokens each set has."""
        n, room, _ = self.tokens.shape
        if self.lengths is not None:
            return self.lengths
        return torch.full((n,), room, device=self.tokens.device)

    def packed(self) -> Packed:
        """The same without room between sets."""
        n, room, width = self.tokens.shape
        each = self.scale is not None and self.scale.ndim > 0
        if self.lengths is None:
            scale = self.scale.reshape(-1) if self.scale is not None and each else self.scale
            return Packed([self.tokens.reshape(n * room, width)], torch.arange(n + 1) * room, scale)
        real = torch.arange(room, device=self.tokens.device) < self.lengths[:, None]
        scale = self.scale[real] if self.scale is not None and each else self.scale
        return Packed([self.tokens[real]], _starts(self.lengths), scale)


class Packed(NamedTuple):
    """Sets one after the other, and where each begins, `[sets + 1]`.

    Attributes:
        parts: tokens of all, `[all, width]`; or those of each set where they lie.
        starts: as above.
        scale: of int8, one number or `[all]`.
    """

    parts: list[Tensor]
    starts: Tensor
    scale: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """A part of them, for dtype, device and width."""
        return self.parts[0]

    @property
    def counts(self) -> Tensor:
        """How many tokens each set has."""
        return self.starts.diff().to(self.tokens.device)

    def packed(self) -> Packed:
        """Itself."""
        return self


Sets = Padded | Packed


class Reader(NamedTuple):
    """How one side of a call is read.

    Attributes:
        name: "queries" or "documents", for messages.
        scale_name: of the argument that holds its scale.
        mask_name: of the argument that holds its mask.
        normalize: whether tokens are made of length 1.
        scale: what multiplies them, int8 ones above all.
        keeps_bytes: whether tokens of int8 stay so, with their scale beside them.
    """

    name: str
    scale_name: str
    mask_name: str
    normalize: bool = False
    scale: Scale | None = None
    keeps_bytes: bool = False

    @property
    def changes(self) -> bool:
        """Whether tokens are not scored as they come."""
        return self.normalize or self.scale is not None

    def read(self, x: Embeddings, mask: Mask | None) -> Sets:
        """The sets, or an error that names what does not fit."""
        if isinstance(x, Tensor | np.ndarray):
            tokens = as_tensor(x)
            if tokens.ndim == 2:
                tokens = tokens[None]
                mask = None if mask is None else self._one_mask(mask)
            if tokens.ndim != 3 or tokens.shape[2] == 0:
                raise ValueError(
                    f"{self.name} must be [sets, tokens, width], [tokens, width] or a list of "
                    f"those, got {list(as_tensor(x).shape)}"
                )
            return self._padded(tokens, mask)
        if not isinstance(x, list | tuple):
            raise TypeError(
                f"{self.name} must be a tensor, a NumPy array or a list of them, "
                f"got {type(x).__name__}"
            )
        return self._listed(x, mask)

    def keeps(self, tokens: Tensor) -> bool:
        """Whether these tokens go on as they are stored, beside their scale."""
        alike = tokens.dtype == torch.int8 and not self.normalize
        return self.keeps_bytes and alike and self.scale is not None

    def prepare(self, tokens: Tensor, scale: Tensor | None = None) -> Tensor:
        """Tokens `[..., width]` to be multiplied; scale broadcasts against `[...]`.

        What is changed by that, is so in float32 at least.
        """
        self.require_numbers(tokens)
        if not tokens.is_floating_point():
            tokens = tokens.float()
        if self.changes:
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        if scale is not None:
            tokens = tokens * scale.to(tokens)[..., None]
        return torch.nn.functional.normalize(tokens, dim=-1) if self.normalize else tokens

    def require_numbers(self, tokens: Tensor) -> None:
        """Raise where tokens are neither floating-point nor int8 with a scale."""
        of_bytes = tokens.dtype == torch.int8 and self.scale is not None
        if not tokens.is_floating_point() and not of_bytes:
            raise TypeError(
                f"{self.name} are {tokens.dtype}: give floating-point tokens, or int8 ones "
                f"together with {self.scale_name}"
            )

    def scale_of(self, shape: tuple[int, ...]) -> Tensor | None:
        """The scale, to broadcast against tokens of this shape without their width."""
        if self.scale is None:
            return None
        scale = torch.as_tensor(self.scale)
        scale = scale if scale.is_floating_point() else scale.float()
        allowed = [(), *(shape[:n] for n in range(1, len(shape) + 1))]
        if tuple(scale.shape) not in allowed:
            raise ValueError(
                f"{self.scale_name} must be a number"
                f"{''.join(f' or {list(each)}' for each in allowed[1:])}, got {list(scale.shape)}"
            )
        if scale.ndim == 0:
            return scale
        return scale.reshape(scale.shape + (1,) * (len(shape) - scale.ndim))

    def _one_mask(self, mask: Mask) -> Tensor:
        found = as_tensor(mask) if isinstance(mask, Tensor | np.ndarray) else as_tensor(mask[0])
        return found[None] if found.ndim == 1 else found

    def _padded(self, tokens: Tensor, mask: Mask | None) -> Padded:
        scale = self.scale_of(tuple(tokens.shape[:2]))
        beside = None  # a scale that goes on beside its tokens
        if self.keeps(tokens) and scale is not None:
            beside = scale.expand(tokens.shape[:2]) if scale.ndim else scale
        if mask is None:
            return Padded(
                tokens if beside is not None else self.prepare(tokens, scale), None, beside
            )
        real = self._real(mask, tokens.shape[0], tokens.shape[1]).to(tokens.device)
        lengths = real.sum(1)
        if beside is None:
            if self.changes:  # of what may be NaN no derivative is taken
                tokens = tokens.masked_fill(~real[..., None], 0)
            tokens = self.prepare(tokens, scale)
        if real.is_cpu and bool((real == (torch.arange(real.shape[1]) < lengths[:, None])).all()):
            return Padded(tokens, lengths, beside)
        # Real tokens move to the front, in their order.
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        if beside is not None and beside.ndim:
            beside = beside.to(order.device).gather(1, order)
        return Padded(tokens.gather(1, order[..., None].expand_as(tokens)), lengths, beside)

    def _listed(self, x: Sequence[Any], mask: Mask | None) -> Sets:
        if len(x) == 0:
            return Packed([torch.zeros(0, 1)], torch.zeros(1, dtype=torch.int64))
        for place, each in enumerate(x):
            if not isinstance(each, Tensor | np.ndarray):
                raise TypeError(
                    f"{self.name}[{place}] must be a tensor or NumPy array, "
                    f"got {type(each).__name__}"
                )
        tensors = [as_tensor(each) for each in x]
        first = tensors[0]
        require_alike(tensors, self.name, "[tokens, width]")
        lengths = torch.tensor([len(each) for each in tensors])
        scale = self.scale_of((len(tensors),))
        if scale is not None and scale.ndim:
            scale = scale.repeat_interleave(lengths).to(first.device)
        keeps = self.keeps(first)
        if mask is None and (keeps or not self.changes):
            self.require_numbers(first)
            return Packed(tensors, _starts(lengths), scale)
        tokens = torch.cat(tensors)
        if mask is not None:
            room = int(lengths.max())
            real = self._real(mask, len(tensors), room).cpu()
            there = torch.arange(room) < lengths[:, None]
            kept = real[there].to(tokens.device)
            tokens, lengths = tokens[kept], (real & there).sum(1)
            scale = scale if scale is None or scale.ndim == 0 else scale[kept]
        if keeps:
            return Packed([tokens], _starts(lengths), scale)
        return Packed([self.prepare(tokens, scale)], _starts(lengths))

    def _real(self, mask: Mask, sets: int, room: int) -> Tensor:
        """The mask as booleans `[sets, room]`, or an error."""
        if isinstance(mask, list | tuple):
            rows = [as_tensor(each) for each in mask]
            if any(each.ndim != 1 for each in rows) or len(rows) == 0:
                raise ValueError(f"{self.mask_name} must be a list of masks [tokens]")
            mask = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if not isinstance(mask, Tensor | np.ndarray):
            raise TypeError(
                f"{self.mask_name} must be a tensor, a NumPy array or a list of them, "
                f"got {type(mask).__name__}"
            )
        found = as_tensor(mask)
        if found.shape != (sets, room):
            raise ValueError(
                f"{self.mask_name} must be [{sets}, {room}], as {self.name}, "
                f"got {list(found.shape)}"
            )
        real = found != 0
        if found.is_cpu and found.dtype != torch.bool and not bool((found == real).all()):
            raise ValueError(
                f"{self.mask_name} must hold 0 and 1 alone; weights are `a` of "
                "emergence_ext.ops.maxsim"
            )
        return real


@contextmanager
def in_their_words() -> Iterator[None]:
    """What the ops say of q and d, said of queries and documents."""
    try:
        yield
    except (TypeError, ValueError) as error:
        said = re.sub(r"^maxsim\w*: ", "", str(error))
        for letter, name in (("q", "queries"), ("d", "documents")):
            said = said.replace(f"{letter} is not finite", f"{name} are not finite")
        said = said.replace("at sample", "at set").replace("region", "token")
        said = said.replace("at row", "at token").replace("topk must", "k must")
        raise type(error)(said.replace("cu_d", "document_offsets")) from error


def require_meeting(queries: Sets, documents: Sets) -> None:
    """Raise where the two cannot meet; their dtypes may differ."""
    if queries.tokens.shape[-1] != documents.tokens.shape[-1]:
        raise ValueError(
            f"queries and documents must have one width, got {queries.tokens.shape[-1]} and "
            f"{documents.tokens.shape[-1]}"
        )
    if queries.tokens.device != documents.tokens.device:
        raise TypeError(
            f"queries are on {queries.tokens.device}, documents on {documents.tokens.device}"
        )


def one_after_another(queries: Sets, documents: Sets) -> dict[str, Any]:
    """Arguments of `emergence_ext.ops.maxsim_packed`."""
    q, d = queries.packed(), documents.packed()
    rows = q.parts[0] if len(q.parts) == 1 else torch.cat(q.parts)
    given = {"q": rows, "cu_q": q.starts, "d_scale": d.scale}
    if len(d.parts) > 1:
        return given | {"d": d.parts}
    return given | {"d": d.parts[0], "cu_d": d.starts}


def as_padded(queries: Sets, documents: Sets) -> tuple[Padded, Padded] | None:
    """Both, where `emergence_ext.ops.maxsim` can take them."""
    if not isinstance(queries, Padded) or not isinstance(documents, Padded):
        return None
    alike = queries.tokens.dtype == documents.tokens.dtype
    return (queries, documents) if alike and documents.tokens.shape[1] > 0 else None


def _starts(lengths: Tensor) -> Tensor:
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    starts[1:] = lengths.cpu().cumsum(0)
    return starts
