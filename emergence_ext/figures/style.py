"""The one place for colours, marks, fonts and sizes of every figure.

Sizes are those of the printed page (a single column, a full page width), so that what is legible
here is legible in print. A category is told by colour *and* mark, never by colour alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import cache, wraps
from itertools import takewhile
from textwrap import fill
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from emergence_ext.settings import require_count

COLUMN = 3.4  # inches, one column of a two-column page
PAGE = 7.0  # inches, the full width
INK, MUTED, FAINT, PAPER = "#1d2330", "#5d6675", "#d9dde4", "#ffffff"
ACCENT, CONTRAST = "#2a56c6", "#d1690a"
LEGEND_ROW = 0.17  # inches
NOTE = 0.24  # inches, the two lines under a panel where `axes_note` writes
NOTE_ABOVE = 0.2  # inches, the line above everything where `noted` writes

# Found by maximising the smallest OKLab distance between any two of them over normal vision and
# full protanopia, deuteranopia and tritanopia (Machado et al. 2009); a test holds it.
_COLORS = (
    "#3c8bff",
    "#bc2a00",
    "#00736f",
    "#f4c335",
    "#7734af",
    "#00e3f8",
    "#f47200",
    "#283260",
    "#b28dab",
    "#680e00",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "*", ">", "h")
_FONTS = (
    "Liberation Sans",
    "Arial",
    "Helvetica",
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Microsoft YaHei",
)

P = ParamSpec("P")


class CategoryStyle(NamedTuple):
    """How one category is drawn everywhere."""

    color: str
    marker: str
    edge: tuple[float, float, float]  # the colour darkened, so that light marks show on white


def category_style(index: int) -> CategoryStyle:
    """Return colour and mark of category `index`; the pairs repeat only after 120 categories.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.category_style(0) == figures.category_style(120)
        True
        >>> figures.category_style(0) == figures.category_style(1)
        False
    """
    require_count("index", index, 0)
    column, turn = index % len(_COLORS), index // len(_COLORS)
    color = _COLORS[column]
    red, green, blue = (0.6 * x for x in to_rgb(color))
    return CategoryStyle(color, _MARKERS[(column + turn) % len(_MARKERS)], (red, green, blue))


def ordered_colors(count: int) -> list[Any]:
    """Return `count` colours that darken from the first to the last, for epochs and layers."""
    return list(
        matplotlib.colormaps["viridis"](np.linspace(0.84, 0.08, count) if count > 1 else [0.25])
    )


@cache
def _fonts() -> tuple[list[str], frozenset[int]]:
    """Return the installed fonts in order of preference, and every character that they can draw."""
    installed = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    families = [name for name in _FONTS if name in installed]
    chars: set[int] = set()
    for name in families:
        path = font_manager.findfont(font_manager.FontProperties(family=name))
        chars |= set(FT2Font(path).get_charmap())
    return families, frozenset(chars)


def display_name(name: str, limit: int = 18) -> str:
    """Return a category's name as it is drawn: underscores as spaces, else as `literal_name`.

    Examples:
        >>> from emergence_ext import figures
        >>> (
        ...     figures.display_name("tabby_cat"),
        ...     figures.display_name("a_name_of_many_letters", limit=10),
        ... )
        ('tabby cat', 'a name…ers')
    """
    return literal_name(str(name).replace("_", " "), limit)


def way_name(before: str, after: str, room: int) -> str:
    """Return "cat → dog", a name shortened only where the two do not fit in `room` characters."""
    first, second = (len(display_name(name, room)) for name in (before, after))
    left, right = (max(room // 2, room - other) for other in (second, first))
    return f"{display_name(before, left)} → {display_name(after, right)}"


def readable_on(background: Any) -> str:
    """Return the colour of text that stands out more from a background (WCAG 2.1, contrast)."""
    here, ink = _luminance(background), _luminance(INK)
    return PAPER if 1.05 / (here + 0.05) > (here + 0.05) / (ink + 0.05) else INK


def _luminance(color: Any) -> float:
    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def literal_name(name: str, limit: int = 24) -> str:
    """Return a name as it is drawn: shortened, on one line, and never read as a formula.

    A character that no installed font can draw, or that is a mark of direction, is shown by its
    code, so that names stay distinct.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.literal_name("a name that goes on", limit=8)
        'a nam…on'
    """
    text = " ".join(str(name).split()) or "(no name)"
    if len(text) > limit:
        # The end often holds what tells two long names apart, so both ends are kept.
        tail = (limit - 1) // 3
        text = f"{text[: limit - 1 - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"
    drawable = _fonts()[1]
    text = "".join(c if ord(c) in drawable and c.isprintable() else f"u{ord(c):04x}" for c in text)
    return text.replace("$", r"\$")


def distinct_names(names: Sequence[str], limit: int = 18) -> list[str]:
    """Return the names, cut to `limit` where they would look alike when they are shortened.

    Then what all of them begin and end with goes first, since it tells none apart.

    Examples:
        >>> from emergence_ext import figures
        >>> figures.distinct_names(["layers.0.attention", "layers.1.attention"], limit=10)
        ['layers.0…', 'layers.1…']
    """
    drawn = {literal_name(name, limit) for name in names}
    if len(drawn) == len(set(names)):
        return list(names)
    start, end = (
        sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*each, strict=False)))
        for each in (names, [name[::-1] for name in names])
    )
    cut = []
    for name in names:
        core = name[start : max(start, len(name) - end)]
        before = max(0, start - max(0, limit - len(core) - 2))
        cut.append(("…" if before else "") + name[before:start] + core + ("…" if end else ""))
    return cut


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the project's settings and leave matplotlib's own untouched."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(_settings(), after_reset=True):
            return draw(*args, **kwargs)

    return wrapper


def _settings() -> dict[str, Any]:
    return {
        # A family by name: a generic one would be looked up again under other settings when drawn.
        "font.family": _fonts()[0],
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 5,
        "axes.titley": 1.0,  # or every panel is asked again and again for what could be in the way
        "axes.labelsize": 8,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.unicode_minus": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.5,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handletextpad": 0.4,
        "legend.columnspacing": 1.0,
        "lines.linewidth": 1.3,
        "lines.solid_capstyle": "round",
        "figure.dpi": 200,
        "savefig.dpi": "figure",
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "text.color": INK,
    }


class ShownFigure(Figure):
    """A figure that a notebook shows where a cell ends with it, without `%matplotlib`."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=144)
        return content.getvalue()


def new_figure(width: float, height: float, *, constrained: bool = True) -> ShownFigure:
    """Return an empty figure of `width` by `height` inches that belongs to no global state."""
    figure = ShownFigure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def inch_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes whose corner and size are given in inches from the figure's top left."""
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / full_width,
            1 - (top + height) / full_height,
            width / full_width,
            height / full_height,
        )
    )


def _legend_columns(names: Sequence[str], width: float) -> int:
    longest = max(len(n) for n in names)
    return max(1, min(len(names), int(width / (0.26 + 0.056 * longest))))


def legend_height(categories: Sequence[str], width: float) -> float:
    """Return the height in inches that `category_legend` takes."""
    names = [display_name(c) for c in categories]
    return LEGEND_ROW * math.ceil(len(names) / _legend_columns(names, width)) + 0.08


def category_legend(place: Figure | Axes, categories: Sequence[str]) -> None:
    """Draw the key of colours and marks along a figure's lower edge, or into spare axes."""
    names = [display_name(c) for c in categories]
    handles = [
        Line2D([], [], linestyle="", marker=s.marker, color=s.color, ms=4.5, mec=s.edge, mew=0.4)
        for s in map(category_style, range(len(names)))
    ]
    if isinstance(place, Axes):
        place.legend(handles, names, loc="center left", handlelength=1.0)
        return
    constrained = place.get_layout_engine() is not None
    place.legend(
        handles,
        names,
        loc="outside lower center" if constrained else "lower center",
        ncols=_legend_columns(names, float(place.get_size_inches()[0])),
        handlelength=1.0,
        borderaxespad=0.2,
    )


def scatter_categories(axes: Axes, x: Any, y: Any, labels: Any, **look: Any) -> None:
    """Draw points `[n]` in the colours and marks of their categories `[n]`."""
    for category in np.unique(labels):
        style, chosen = category_style(int(category)), labels == category
        edge = [style.edge]
        axes.scatter(
            x[chosen], y[chosen], marker=style.marker, color=style.color, edgecolors=edge, **look
        )


def axes_note(axes: Axes, text: str, *, inside: bool = False) -> None:
    """Write a short remark under the left end of the axes, or into their upper right corner."""
    width = axes.get_position().width * axes.get_figure(root=True).get_size_inches()[0]  # type: ignore[union-attr]
    x, y = (0.98, 0.98) if inside else (0.02, 0.0)
    axes.text(
        x,
        y,
        fill(text, max(12, int(width / 0.046))),
        transform=axes.transAxes,
        ha="right" if inside else "left",
        va="top",
        fontsize=6.5,
        color=MUTED,
        # Inside, lines of the axes pass behind the words.
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6} if inside else None,
    )


def signed_text(value: float, *, plus: bool = True) -> str:
    """Return a number of two decimals as it is drawn; what rounds to zero has no sign.

    Examples:
        >>> from emergence_ext import figures
        >>> (
        ...     figures.signed_text(0.5),
        ...     figures.signed_text(-0.001),
        ...     figures.signed_text(0.5, plus=False),
        ... )
        ('+0.50', '0.00', '0.50')
    """
    text = f"{value:{'+' if plus else ''}.2f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\u2212")


def correlation_text(value: float, symbol: str = "ρ") -> str:
    """Return a correlation as it is written: a rank correlation, or of another symbol."""
    return f"{symbol} = {signed_text(value)}" if np.isfinite(value) else f"{symbol} undefined"


def noted(figure: Figure, text: str) -> Figure:
    """Write a remark above all that a figure holds, if there is one; the page grows by its line.

    Examples:
        >>> from emergence_ext import figures
        >>> figure = figures.agreement([[1.0, 0.7], [0.7, 1.0]], ["network", "Ann"])
        >>> height = figure.get_figheight()
        >>> bool(figures.noted(figure, "two raters of ten images").get_figheight() > height)
        True
    """
    if not text:
        return figure
    width, before = figure.get_size_inches()
    after = before + NOTE_ABOVE
    share = before / after
    figure.set_size_inches(width, after)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, share))
    else:
        for axes in figure.axes:
            x, y, across, up = axes.get_position(original=True).bounds
            axes.set_position((x, share * y, across, share * up))
    for words in figure.texts:
        words.set_y(share * words.get_position()[1])
    figure.text(0.01, 1 - 0.05 / after, text, va="top", fontsize=7, color=MUTED)
    return figure


def figure_note(figure: Figure, text: str, bottom: float) -> None:
    """Write a remark that holds for the whole figure, `bottom` inches above its lower edge."""
    height = figure.get_size_inches()[1]
    figure.text(0.01, bottom / height, text, va="bottom", fontsize=6.5, color=MUTED)
