"""Pixels of every kind as Pillow opens them, in grey or RGB of 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from PIL import Image, TiffImagePlugin
from torch import Tensor

__all__ = ["DARK", "eight_bits", "levels_of", "unit"]

STRIP: Final = 1 << 22  # pixels that are converted at once, so that no copy is as large as an image
DARK: Final = 4095
"""Pixels of 16 bits of which none is above this are 12 bits that nobody marked, or fewer."""
FLOATING: Final = "floating-point pixels have no known range; save it in 8 or 16 bits"

OVERSHOOT: Final = 0.1
"""How far beyond 0..1 values may lie: bicubic resizing of floats overshoots edges by less."""

# Tags of TIFF, see its revision 6.0.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _MAX_VALUE = 258, 262, 339, 281


def eight_bits(image: Image.Image, levels: tuple[int, bool] | None = None) -> Image.Image:
    """Return an image as `L` or `RGB`: 16 bits scaled, transparency laid over white.

    Args:
        image: as Pillow opened it, or a part of that.
        levels: `levels_of` what was opened, where this is a part of it.

    Raises:
        ValueError: pixels whose black or white is not known: signed, of 32 bits, floating-point,
            or 16 bits that use 12 of them or fewer; the text names the kind.
    """
    white, inverted = levels or levels_of(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _sixteen_bits(image, white, inverted)
    if image.mode == "F":
        raise ValueError(FLOATING)
    if image.has_transparency_data:
        grey = image.mode in ("LA", "La")
        return _by_strips(image, "L" if grey else "RGB", _over_white)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def levels_of(image: Image.Image) -> tuple[int, bool]:
    """Say what the largest grey value of 16 bits is, and whether it is black.

    Raises:
        ValueError: a TIFF with signed or floating-point pixels, or of 32 bits.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 65535, False
    tags = image.tag_v2
    formats = _all(tags.get(_SAMPLE_FORMAT, 1))
    if 2 in formats:
        raise ValueError("signed pixels have no known black; save it with unsigned ones")
    if 3 in formats:
        raise ValueError(FLOATING)
    bits = max(_all(tags.get(_BITS, 1)))
    if bits > 16:
        raise ValueError(f"pixels of {bits} bits have no known white; save it in 8 or 16 bits")
    white = (1 << bits) - 1 if bits > 8 else 65535
    marked = max(_all(tags.get(_MAX_VALUE, white)))
    # Cameras of 10, 12 or 14 bits say so here; any other value is the image's own maximum.
    if bits == 16 and marked in (1023, 4095, 16383):
        white = marked
    # Of grey in 16 bits Pillow gives the values as they are stored, of fewer bits it swaps them.
    return white, tags.get(_PHOTOMETRIC) == 0 and bits == 16


def _all(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _sixteen_bits(image: Image.Image, white: int, inverted: bool) -> Image.Image:
    # Pillow clips where it should scale when it converts 16 bits to 8.
    through = image.info.get("transparency")
    highest = 0

    def scale(strip: Image.Image) -> Image.Image:
        nonlocal highest
        values = np.asarray(strip)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError("grey values beyond 16 bits")
        highest = max(highest, int(values.max(initial=0)))
        values = np.minimum(values.astype(np.uint32), white)
        grey = ((values * 255 + white // 2) // white).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(through, int):
            grey[values == through] = 255
        return Image.fromarray(grey)

    grey = _by_strips(image, "L", scale)
    if white == 65535 and 0 < highest <= DARK:
        raise ValueError(
            f"16 bits, but no value above {highest}: 12 bits or fewer that nothing marks? Multiply "
            "them so that white is 65535, or save it in 8 bits"
        )
    return grey


def _over_white(strip: Image.Image) -> Image.Image:
    white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, strip.convert("RGBA")).convert("RGB")


def _by_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Convert an image some rows at a time."""
    width, height = image.size
    result = Image.new(mode, image.size)
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        result.paste(convert(strip).convert(mode), (0, top))
    return result


def unit(image: Tensor, where: str) -> Tensor:
    """Return pixels in 0..1: of uint8, uint16 (65535 is white), bool, or floating point in 0..1.

    Raises:
        ValueError: values whose white is not known; begins with `where`.
    """
    if image.dtype == torch.uint8:
        return image.float() / 255
    if image.dtype == torch.bool:
        return image.float()
    if image.dtype == torch.uint16:
        highest = int(image.int().max())
        if 0 < highest <= DARK:
            raise ValueError(
                f"{where} has 16 bits, but no value above {highest}: 12 bits or fewer? Scale it to "
                "floating point in 0..1"
            )
        return image.float() / 65535
    if not image.dtype.is_floating_point:
        raise ValueError(
            f"{where} is of {str(image.dtype).removeprefix('torch.')}, whose white is not known; "
            "give uint8 for 0..255, or floating point in 0..1"
        )
    image = image.float()
    if not image.isfinite().all():
        raise ValueError(f"{where} holds values that are not finite (NaN or infinite)")
    low, high = float(image.min()), float(image.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        cure = (
            "leave the normalisation out, as the network's preprocessing comes afterwards"
            if low < 0
            else "divide by 255 where that is white"
        )
        raise ValueError(f"{where} has values from {low:.4g} to {high:.4g}, expected 0..1; {cure}")
    return image
