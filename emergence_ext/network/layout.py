"""Which axes of a layer's output are places in the image, told by changing the image.

A shape does not say it: `[B, 24, 32, 16]` may be a map of 24 channels or one of 16, and in
`[B, 256, 196]` either axis may be 14 x 14 or 16 x 16 places. So a strip of the image is changed at
a time, and a reading of the output is right where each of its rows and columns is the one that
notices a change in its own strip most. What mixes all places (attention, a large receptive field)
still notices its own; what keeps places in another order (windows, mask units), has pairs of them
(attention matrices) or none (tables) has no reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor, nn

from emergence_ext.network.calling import forward
from emergence_ext.network.trace import Call, observed, preserved, trace

STRIPS: Final = 3
"""Strips that the image is cut into across, and again down."""
IMAGES: Final = 2 + 2 * STRIPS
"""Images that are run to read layouts."""
TRIES: Final = 6
"""Times that a layer is looked at before it is said to be no map. Where every place sees nearly the
whole image, 4 of 300 photographs told nothing of the order of a last layer's 7 x 7 places."""

# Correlation of place and strip that a reading needs. Over the ends of stages of 70 architectures
# right readings had 0.8 and more, those of another order 0.35 and less.
_AGREEMENT = 0.6
# From this one on no other reading is tried.
_BEYOND_DOUBT = 0.9
# Deviation of the strip that places notice, 0.8 where each notices its own alone, below which they
# all notice the same, as in attention with random weights; and places too few to tell. Either
# speaks for no order and against none.
_UNDECIDED = 0.25
_FEW = 36
# From this correlation on what the kind of the module says is believed.
_NOT_AGAINST = 0.4
# Share of the change that a network makes of equal images by chance, from which on it is not asked.
_CHANCE = 0.05
# A change below this share of the largest value is rounding.
_ROUNDING = 1e-6
# More agreement than with all other tokens in front, from which on some of them stand behind.
_SHIFTED = 0.05
# Class, distillation and register tokens beside those of the image, at most.
_MOST_OTHERS = 16

_CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


_reading: ContextVar[bool] = ContextVar("reading", default=False)


def is_reading() -> bool:
    """Say whether the forward pass that runs is one of `read_layouts`, which is not to be kept."""
    return _reading.get()


class NoMapError(ValueError):
    """The output of a layer cannot be read as places of the image; says why."""


@dataclass(frozen=True)
class Layout:
    """How the output of a layer is a map.

    Attributes:
        axes: "map" `[B, K, H, W]`, "channels last" `[B, H, W, K]`, "tokens" `[B, skip + H W +
            behind, K]` or "tokens last" `[B, K, skip + H W + behind]`; places are row-major.
        grid: `(H, W)`.
        skip: tokens in front that are no places: class, distillation and register tokens.
        behind: such tokens behind the places.

    Examples:
        >>> from emergence_ext import network
        >>> layout = network.Layout("tokens", grid=(2, 2), skip=1)
        >>> layout.as_map(torch.rand(3, 5, 8)).shape
        torch.Size([3, 8, 2, 2])
    """

    axes: Literal["map", "channels last", "tokens", "tokens last"]
    grid: tuple[int, int]
    skip: int = 0
    behind: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """Return an output as `[B, K, H, W]`, a view of it.

        Raises:
            ValueError: other tokens than those that were read.
        """
        if self.axes == "map":
            return output
        if self.axes == "channels last":
            return output.permute(0, 3, 1, 2)
        tokens = self._tokens_last(output)
        places, others = math.prod(self.grid), self.skip + self.behind
        if tokens.shape[2] != places + others:
            raise ValueError(
                f"features: {tokens.shape[2]} tokens, expected {others} and {self.grid[0]} x "
                f"{self.grid[1]} as for the first image. Take images of one size."
            )
        return tokens[:, :, self.skip : self.skip + places].unflatten(2, self.grid)

    def others(self, output: Tensor) -> Tensor | None:
        """Return the tokens that are no places, `[B, K, skip + behind]`; None without any."""
        if not self.skip + self.behind:
            return None
        tokens = self._tokens_last(output)
        return torch.cat(
            [tokens[:, :, : self.skip], tokens[:, :, self.skip + math.prod(self.grid) :]], dim=2
        )

    def restore(self, maps: Tensor, others: Tensor | None) -> Tensor:
        """Give maps `[B, K, H, W]` the form of the layer's own output, as a copy of them."""
        if self.axes == "map":
            return maps.clone(memory_format=torch.channels_last)
        if self.axes == "channels last":
            return maps.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        tokens = maps.flatten(2)
        if others is None:
            return self._tokens_last(tokens.clone())
        tokens = torch.cat([others[:, :, : self.skip], tokens, others[:, :, self.skip :]], dim=2)
        return self._tokens_last(tokens)

    def _tokens_last(self, tokens: Tensor) -> Tensor:
        """Swap places and channels where places come first; the same way back."""
        return tokens.transpose(1, 2) if self.axes == "tokens" else tokens


def strips(image: Tensor, random_state: int = 0) -> Tensor:
    """Return an image twice and copies of it with one strip changed each, across and then down.

    Args:
        image: `[1, channels, H', W']`.
        random_state: seed of what strips become; the image is upside down where it is odd.

    Returns:
        `[IMAGES, channels, H', W']`; values stay in the range of the image, if it has one.

    Raises:
        ValueError: no such tensor.
    """
    if not isinstance(image, Tensor) or image.ndim != 4:
        shape = f" {list(image.shape)}" if isinstance(image, Tensor) else ""
        raise ValueError(
            f"image: expected a tensor [1, channels, H', W'], got {type(image).__name__}{shape}"
        )
    generator = torch.Generator().manual_seed(random_state)
    image = image.flip(2, 3) if random_state % 2 else image
    pixels = image[0].detach().float()
    noise = torch.randn(pixels.shape, generator=generator)
    noise = (noise + torch.randn(len(pixels), 1, 1, generator=generator)).to(pixels)
    low, high = pixels.min(), pixels.max()
    other = pixels.mean() + (pixels.std() if high > low else 1) * noise
    other = (other.clamp(low, high) if high > low else other).to(image.dtype)
    images = image.detach().repeat(IMAGES, 1, 1, 1)
    for axis in (1, 2):
        length = pixels.shape[axis]
        for k, copy in enumerate(images[2:].unflatten(0, (2, STRIPS))[axis - 1]):
            first, last = k * length // STRIPS, (k + 1) * length // STRIPS
            copy.narrow(axis, first, last - first).copy_(other.narrow(axis, first, last - first))
    return images


def read_layouts(
    module: nn.Module, image: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, Layout]:
    """Say how the outputs of layers are maps, by one forward pass of `IMAGES` images.

    Args:
        module: the network; it comes back as it was.
        image: `[1, channels, H', W']`, as the network takes it.
        layers: dotted name -> layer.

    Returns:
        The layouts of those that ran.

    Raises:
        ValueError: a layer whose output is no map of the image, with those near to it that are.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> network.read_layouts(net, torch.rand(1, 3, 8, 8), {"1": net[1]})["1"]
        Layout(axes='map', grid=(6, 6), skip=0, behind=0)
    """
    reader = Reader((image.shape[-2], image.shape[-1]))
    found: dict[str, Layout] = {}

    def read(call: Call) -> None:
        if call.name not in layers:
            reader.note(call)
        elif call.name not in found:
            try:
                found[call.name] = reader.layout(call)
            except NoMapError as error:
                raise _Refused(call.name, str(error)) from None
        if len(found) == len(layers):
            raise _AllRead

    kinds = _CHANNELS_FIRST + _CHANNELS_LAST
    telling = {name: part for name, part in module.named_modules() if isinstance(part, kinds)}
    token = _reading.set(True)
    try:
        with torch.no_grad(), preserved(module), observed({**telling, **layers}, after=read):
            forward(module, strips(image))
    except _AllRead:
        pass
    except _Refused as refused:
        # With all that runs before it there is more to go by, as `suggest_layers` has it.
        for attempt in range(TRIES):
            ran = readable(module, image, attempt)
            layout = dict(ran)[refused.name]
            if layout is not None:
                break
        else:
            near = _near(ran, refused.name)
            raise ValueError(f"features: layer {refused.name!r} {refused}. {near}") from None
        rest = {name: part for name, part in layers.items() if name != refused.name}
        return {refused.name: layout} | (read_layouts(module, image, rest) if rest else {})
    finally:
        _reading.reset(token)
    return found


class _AllRead(Exception):
    """Ends a forward pass: what lies above may not even take images of this size."""


class _Refused(Exception):
    """A layer without a map."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


def _near(ran: list[tuple[str, Layout | None]], name: str) -> str:
    """Say which layers near one that is no map can be taken."""
    place = next(k for k, (other, _) in enumerate(ran) if other == name)
    usable = [k for k, (_, layout) in enumerate(ran) if layout is not None]
    nearest = sorted(sorted(usable, key=lambda k: abs(k - place))[:2])
    if not nearest:
        return "No layer of the network gives a map."
    return f"Choose {' or '.join(repr(ran[k][0]) for k in nearest)}."


def readable(
    module: nn.Module, image: Tensor, random_state: int = 0
) -> list[tuple[str, Layout | None]]:
    """List all submodules as they end, with the layout of what they give; None: no map.

    Args:
        module: the network; it comes back as it was.
        image: `[1, channels, H', W']`, as the network takes it.
        random_state: as of `strips`.

    Returns:
        A module that runs more than once is there once, and has none.
    """
    reader = Reader((image.shape[-2], image.shape[-1]))
    ran: dict[str, Layout | None] = {}

    def read(call: Call) -> None:
        if not call.name:
            return
        again = call.name in ran
        ran[call.name] = None
        if not again:
            with suppress(NoMapError):
                ran[call.name] = reader.layout(call)

    trace(module, strips(image, random_state), after=read)
    return list(ran.items())


@dataclass
class Reader:
    """Reads what layers make of the images of `strips`, in the order in which they run.

    Attributes:
        image_size: `(H', W')`.
        grids: those of maps that ran before.
        latest: the layout that was read last.
    """

    image_size: tuple[int, int]
    grids: list[tuple[int, int]] = field(default_factory=list)
    latest: Layout | None = None

    def layout(self, call: Call) -> Layout:
        """Say how the output of a call is a map.

        Raises:
            NoMapError: it is none.
        """
        output = call.output
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or not output.numel():
            got = type(output).__name__
            got = f"shape {list(output.shape)}" if isinstance(output, Tensor) else got
            raise NoMapError(f"gives {got}, expected a map [B, K, H, W] or tokens [B, T, K]")
        if len(output) != IMAGES:
            raise NoMapError(
                f"gives {list(output.shape)} for {IMAGES} images: its first axis is not the batch, "
                "as of windows, heads, or a table that all images share"
            )
        change = _change(output)
        if not output.any():  # a dead layer is a map for all that: its kind has to say which
            layout = self._expected(call, change)
            if layout is not None:
                return layout
        if not float(change[1:].max()) > (_ROUNDING * float(output.abs().max())) ** 2:
            raise NoMapError("gives the same for all images: it does not depend on the image")
        if output.ndim == 4 and output.shape[2:].numel() == 1:
            return Layout("map", (1, 1))
        layout = self._best(change) or self._expected(call, change)
        if layout is None:
            raise NoMapError(
                f"gives {list(output.shape)} for {IMAGES} images, and not the places of the image "
                "in the order of rows, as of windows, mask units or attention matrices"
            )
        self._keep(layout)
        return layout

    def note(self, call: Call) -> None:
        """Take down what a call says by what its module is."""
        layout = _by_kind(call)
        if layout is not None:
            self._keep(layout)

    def _keep(self, layout: Layout) -> None:
        self.latest = layout
        if layout.grid not in self.grids:
            self.grids.append(layout.grid)

    def _best(self, change: Tensor) -> Layout | None:
        """The reading in which places notice their own strips, if there is one."""
        best, most = None, _AGREEMENT
        for layout in self._readings(change.shape):
            agreement, *_ = _noticed(layout.as_map(change[1:]).sum(1))
            # One place beside the right one is not far from right.
            for behind in range(1, layout.skip + 1):
                other = replace(layout, skip=layout.skip + layout.behind - behind, behind=behind)
                better, *_ = _noticed(other.as_map(change[1:]).sum(1))
                if better > agreement + _SHIFTED:
                    layout, agreement = other, better
            # Of many readings of few tokens one agrees by chance.
            guessed = change.ndim == 3 and layout.grid not in self.grids
            if guessed and math.prod(layout.grid) < _FEW and agreement < _BEYOND_DOUBT:
                continue
            if agreement >= most:
                best, most = layout, agreement
            if agreement >= _BEYOND_DOUBT:
                break
        return best

    def _expected(self, call: Call, change: Tensor) -> Layout | None:
        """The reading by what the module is, is given or follows, where the image says nothing."""
        taken = next((x for x in call.inputs if isinstance(x, Tensor)), None)
        candidates = [_by_kind(call), self.latest]
        if taken is not None and taken.ndim == change.ndim and len(taken) == IMAGES:
            candidates.insert(1, self._best(_change(taken)))
        possible = set(self._readings(change.shape))
        layout = next((layout for layout in candidates if layout in possible), None)
        if layout is None:
            return None
        agreement, spread, places = _noticed(layout.as_map(change[1:]).sum(1))
        by_chance = float(change[0].sum()) > _CHANCE * float(change[1:].mean(0).sum())
        undecided = by_chance or places < _FEW or spread < _UNDECIDED
        return layout if undecided or agreement > _NOT_AGAINST else None

    def _readings(self, shape: torch.Size) -> Iterator[Layout]:
        """Ways to read `[B, ...]` of three or four axes."""
        if len(shape) == 4:
            yield Layout("map", (shape[2], shape[3]))
            yield Layout("channels last", (shape[1], shape[2]))
            return
        axes: tuple[tuple[Literal["tokens", "tokens last"], int], ...]
        axes = (("tokens", shape[1]), ("tokens last", shape[2]))
        for skip in range(_MOST_OTHERS + 1):
            for name, tokens in axes:
                for grid in self._grids_of(tokens - skip):
                    if skip <= math.prod(grid):
                        yield Layout(name, grid, skip)

    def _grids_of(self, places: int) -> list[tuple[int, int]]:
        """Grids of so many places: of what ran before, and of the shape of the image."""
        if places < 2:
            return []
        known = [grid for grid in self.grids if math.prod(grid) == places]
        shape = self.image_size[0] / self.image_size[1]
        rows = max(round(math.sqrt(places * shape)), 1)
        columns = places // rows
        # Rounding of strides takes less than one row.
        if rows * columns == places and abs(rows - columns * shape) < 1:
            known += [(rows, columns)] if (rows, columns) not in known else []
        return known


def _by_kind(call: Call) -> Layout | None:
    """What `[B, K, H, W]` or `[B, H, W, K]` are by the kind of the module that gives them."""
    output = call.output
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != IMAGES:
        return None
    if isinstance(call.module, _CHANNELS_FIRST):
        return Layout("map", (output.shape[2], output.shape[3]))
    if isinstance(call.module, _CHANNELS_LAST):
        return Layout("channels last", (output.shape[1], output.shape[2]))
    return None


def _change(output: Tensor) -> Tensor:
    """Squared change against the image as it is, `[IMAGES - 1, ...]`; the first is by chance."""
    return (output[1:].float() - output[:1].float()).square()


def _noticed(change: Tensor) -> tuple[float, float, int]:
    """Which strips places notice.

    Args:
        change: by each of the changed images, `[2 * STRIPS, H, W]`.

    Returns:
        Correlation of rows and columns with the strips that they notice, the lower of both; the
        larger deviation of these strips; and how many places notice any.
    """
    agreement, spread, places = 1.0, 0.0, change[0].numel()
    for axis, part in enumerate(change.unflatten(0, (2, STRIPS))):
        length = part.shape[1 + axis]
        total = part.sum(0)
        alive = total > 1e-9 * total.max()
        strip = torch.arange(STRIPS, device=part.device).view(-1, 1, 1)
        noticed = ((part * strip).sum(0) / total)[alive]
        places = min(places, len(noticed))
        if length == 1 or not len(noticed):
            continue
        place = torch.arange(length, device=part.device, dtype=part.dtype)
        place = (place[:, None] if axis == 0 else place).expand_as(total)[alive]
        noticed, place = noticed - noticed.mean(), place - place.mean()
        sizes = noticed.norm() * place.norm()
        agreement = min(agreement, float(noticed @ place / sizes) if sizes > 0 else 0.0)
        spread = max(spread, float(noticed.square().mean().sqrt()))
    return agreement, spread, places
