"""Figures that are built and not rendered, for tests of what a command writes and not of its looks.

How they look has tests of its own in `tests/figures` and `tests/report`; rendering takes seconds a
figure.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from emergence_ext.store import write_file

SAVERS = ("files", "look.sheets", "mindseye.write")
"""Modules of the report that save figures."""


def sketches() -> Iterator[None]:
    """Within it, a figure is saved as a small picture that differs where its contents do."""
    with pytest.MonkeyPatch.context() as patch:
        for module in SAVERS:
            patch.setattr(f"emergence_ext.report.{module}.save_figure", save_sketch)
        yield


def save_sketch(figure: Figure, path: Path) -> None:
    """Write `path.png` and `path.svg` as `save_figure` does, of what the figure is made of."""
    digest = hashlib.sha256()
    for text in figure.findobj(Text):
        digest.update(text.get_text().encode("utf-8", "backslashreplace"))  # type: ignore[attr-defined]
    for line in figure.findobj(Line2D):
        digest.update(np.ascontiguousarray(line.get_xydata(), float))  # type: ignore[attr-defined]
    for marks in figure.findobj(PathCollection):
        digest.update(np.ascontiguousarray(marks.get_offsets(), float))  # type: ignore[attr-defined]
    for image in figure.findobj(AxesImage):
        digest.update(np.ascontiguousarray(image.get_array(), float))  # type: ignore[attr-defined]
    pixels = np.frombuffer(digest.digest(), np.uint8).reshape(4, 8).repeat(120, 0).repeat(120, 1)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    write_file(path.with_name(f"{path.name}.png"), content.getvalue())
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><desc>{digest.hexdigest()}</desc></svg>'
    write_file(path.with_name(f"{path.name}.svg"), svg.encode())
