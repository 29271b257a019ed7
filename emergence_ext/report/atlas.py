"""The pictures of a run on one sheet, which a page holds once and cuts out of."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor

from emergence_ext.run import Thumbnails

SIDE: Final = 64
"""Pixels of the longer side of a picture, at most."""

QUALITY: Final = 82


def atlas(thumbnails: Thumbnails | None, images: Tensor, grid: tuple[int, int]) -> dict[str, Any]:
    """Return the pictures of some images on one sheet, and what the last layer's regions see.

    Args:
        thumbnails: of the run; None where there are none.
        images: their indices, `[n]`.
        grid: `(H, W)` of the regions.

    Returns:
        `atlas`: `src`, `width` and `height` of a picture, `columns`; None without pictures.
        `fields`: for each region top, left, bottom and right as shares of the image; none where
        they are unknown, or nearly the whole image.
    """
    if thumbnails is None or not len(images):
        return {"atlas": None, "fields": []}
    pixels = thumbnails.pixels[images].permute(0, 2, 3, 1).numpy()
    pixels = pixels[..., :3] if pixels.shape[3] >= 3 else pixels[..., :1].repeat(3, axis=3)
    H, W = pixels.shape[1:3]
    ratio = min(1.0, SIDE / max(H, W))
    width, height = max(1, round(W * ratio)), max(1, round(H * ratio))
    columns = math.ceil(math.sqrt(len(pixels) * height / width))
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, each in enumerate(pixels):
        picture = Image.fromarray(np.ascontiguousarray(each))
        if ratio < 1:
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (place % columns * width, place // columns * height))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=QUALITY, method=4)
    return {
        "atlas": {
            "src": f"data:image/webp;base64,{b64encode(data.getvalue()).decode('ascii')}",
            "width": width,
            "height": height,
            "columns": columns,
        },
        "fields": [
            [round(top / H, 4), round(left / W, 4), round(bottom / H, 4), round(right / W, 4)]
            for top, left, bottom, right in thumbnails.fields.tolist()
        ],
    }
