"""One plot per table, in the style of the project's figures.

`python -m benchmarks.plots RESULTS.json FOLDER` draws what was kept, as on a machine with a GPU.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.bounds import Share
from benchmarks.gpu.bounds import Share as GpuShare
from benchmarks.growth import Point
from benchmarks.memory import Extra
from benchmarks.results import Results, load
from benchmarks.suite import FORWARD, SCALED, Row, fastest_of, op_name
from benchmarks.targets import FLAT, MEMORY
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    FAINT,
    INK,
    MUTED,
    PAGE,
    PAPER,
    category_style,
    new_figure,
    styled,
)
from emergence_ext.ops.checks import PRECISIONS

# What the fastest peer of a group is called, and the colour it has everywhere.
_GROUPS: Final = {
    "eager": ("eager torch", 0),
    "reference": ("torch, gradients by hand", 8),
    "compile": ("torch.compile", 4),
    "keops": ("KeOps", 6),
    "maxsim-cpu": ("maxsim-cpu, scores only", 2),
    "sgemm": ("sgemm alone, no maximum", 3),
    "product": ("torch, product in blocks", 1),
    "flash-maxsim": ("flash-maxsim, scores only", 5),
    "late-interaction": ("late-interaction-kernels, scores only", 7),
}
GAP: Final = 1.6  # lines from the last bar of a case to the name of the next


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what was measured into `folder`: `benchmark_ratios.png`, `benchmark_gpu_ratios.png`."""
    figures: dict[str, Figure] = {}
    if results.rows:
        figures["benchmark_ratios"] = ratios(results.rows)
    if any(share.share is not None for share in results.shares):
        figures["benchmark_bounds"] = bounds(results.shares)
    if results.gpu_shares:
        figures["benchmark_bounds"] = gpu_bounds(results.gpu_shares)
    if results.growth:
        figures["benchmark_growth"] = growth(results.growth)
    if any(extra.bytes is not None for extra in results.memory):
        limit = MEMORY if results.device == "cpu" else None
        figures["benchmark_memory"] = memory(results.memory, limit)
    if results.device == "cuda":
        figures = {name.replace("_", "_gpu_"): figure for name, figure in figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1])
    return paths


@styled
def ratios(rows: Sequence[Row]) -> Figure:
    """Draw the time of the fastest peer of every kind over the op's, forward and with gradients."""
    panels = {
        "forward with indices": _blocks([row for row in rows if row.work == FORWARD.name]),
        "loss and all gradients": _blocks([row for row in rows if row.work != FORWARD.name]),
    }
    lines = max(sum(len(bars) + GAP for bars in blocks.values()) for blocks in panels.values())
    figure = new_figure(PAGE, max(1.6, 0.8 + 0.155 * lines))
    axes = figure.subplots(1, len(panels))
    for panel, (title, blocks) in zip(axes, panels.items(), strict=True):
        bars_of_cases(panel, blocks)
        panel.set_title(title)
        panel.set_ylim(lines - 0.6, -0.8)
    figure.supxlabel("time of the fastest of its kind / time of the op (log scale)", fontsize=8)
    return figure


def _blocks(rows: Sequence[Row]) -> dict[str, list[tuple[str, int, float]]]:
    """The bars of every case: name, colour, ratio; in the forward pass at every precision."""
    blocks: dict[str, list[tuple[str, int, float]]] = {}
    for case, work in dict.fromkeys((row.case, row.work) for row in rows):
        here = [row for row in rows if (row.case, row.work) == (case, work)]
        known = [p for p in PRECISIONS if any(row.name == op_name(p) for row in here)]
        for precision in known if work == FORWARD.name else known[:1]:
            op = fastest_of(row for row in here if row.name == op_name(precision))
            if op is None:
                continue
            bars = []
            for group, (name, color) in _GROUPS.items():
                fastest = fastest_of(row for row in here if row.group == group)
                if fastest is not None:
                    bars.append((name, color, fastest / op))
            title = re.sub(r"([A-Z])(\d+)-?", r"\1 = \2  ", case).rstrip()
            title += f", {precision}" if precision != "highest" else ""
            title += ", scaled" if work == SCALED.name else ""
            blocks[title] = sorted(bars, key=lambda bar: bar[2])
    return blocks


def bars_of_cases(axes: Axes, blocks: dict[str, list[tuple[str, int, float]]]) -> None:
    """Draw a bar for each name of each case: its colour, and how many times as long it takes."""
    y, ticks, names, drawn_ratios = 0.0, [], [], [1.0, 10.0]
    for title, bars in blocks.items():
        over_grid = {"facecolor": PAPER, "linewidth": 0, "pad": 0.5}
        axes.text(1.06, y, title, va="center", fontsize=7.5, weight="bold", bbox=over_grid)
        for name, color, ratio in bars:
            y += 1
            axes.barh(y, ratio - 1, left=1, height=0.78, color=category_style(color).color)
            axes.text(max(1, ratio), y, f" {ratio:.3g}", va="center", fontsize=7, color=INK)
            ticks.append(y)
            names.append(name)
            drawn_ratios.append(ratio)
        y += GAP
    axes.set_xscale("log")
    axes.set_xlim(0.8 * min(drawn_ratios), 2.2 * max(drawn_ratios))
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@styled
def growth(points: Sequence[Point]) -> Figure:
    """Draw the time per element over N, over that of the smallest N."""
    figure = new_figure(PAGE / 2, 2.3)
    axes = figure.subplots()
    axes.axhspan(1 - FLAT, 1 + FLAT, color=FAINT, alpha=0.5, linewidth=0)
    for index, R in enumerate(sorted({point.R for point in points})):
        style = category_style(index)
        here = [point for point in points if point.R == R]
        N, relative = [point.N for point in here], [point.relative for point in here]
        axes.plot(N, relative, marker=style.marker, color=style.color, ms=4, label=f"R = {R}")
    axes.set_xscale("log")
    axes.set_xticks(sorted({point.N for point in points}), minor=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, max(1.5, *(1.1 * point.relative for point in points)))
    axes.set_xlabel("images N")
    axes.set_ylabel("time / (N² R² D), relative")
    axes.set_title("match_kl with all gradients, D = 3")
    axes.legend(loc="lower right")
    return figure


@styled
def bounds(shares: Sequence[Share]) -> Figure:
    """Draw the share of the peak of multiply-adds that the forward pass reaches."""
    known = [(f"{x.case}  {x.name}", x.share) for x in shares if x.share is not None]
    return _shares(known, "% of peak multiply-adds")


@styled
def gpu_bounds(shares: Sequence[GpuShare]) -> Figure:
    """Draw the share of its bound that the forward pass reaches on every path."""
    known = [(f"{x.case}  {x.name}", x.share) for x in shares if x.work == FORWARD.name]
    return _shares(known, "% of the bound")


def _shares(known: Sequence[tuple[str, float]], label: str) -> Figure:
    figure = new_figure(PAGE / 2, max(1.4, 0.8 + 0.2 * len(known)))
    axes = figure.subplots()
    for y, (name, share) in enumerate(known):
        color = ACCENT if "op, " in name else MUTED
        axes.barh(y, 100 * share, height=0.75, color=color)
        axes.text(100 * share, y, f" {100 * share:.0f}", va="center", fontsize=7)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    axes.set_title("forward, arithmetic")
    return figure


@styled
def memory(extras: Sequence[Extra], limit: int | None) -> Figure:
    """Draw peak memory beyond inputs, loss and gradients, and what it is to stay below."""
    known = [extra for extra in extras if extra.bytes is not None]
    figure = new_figure(PAGE / 2, max(1.4, 0.8 + 0.25 * len(known)))
    axes = figure.subplots()
    for y, extra in enumerate(known):
        assert extra.bytes is not None
        axes.barh(y, extra.bytes / 2**20, height=0.7, color=ACCENT)
        axes.text(extra.bytes / 2**20, y, f" {extra.bytes / 2**20:.1f}", va="center", fontsize=7)
    if limit is not None:
        axes.axvline(limit / 2**20, color=CONTRAST, linewidth=1)
    axes.set_yticks(range(len(known)), [x.name.replace(", ", "\n", 1) for x in known])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("MiB beyond inputs and results")
    axes.set_title("peak extra memory")
    return figure


if __name__ == "__main__":
    for path in draw(load(Path(sys.argv[1])), Path(sys.argv[2])):
        print(f"wrote {path}")
