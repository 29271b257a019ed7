"""What the strength of a feature means: certainty (Table 1) and importance (Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emergence_ext.figures.inputs import Array, Sizes
from emergence_ext.figures.style import (
    ACCENT,
    CONTRAST,
    INK,
    PAGE,
    axes_note,
    category_legend,
    correlation_text,
    new_figure,
    scatter_categories,
    signed_text,
    styled,
)


@styled
def strength_entropy(
    strength: Any,
    entropy: Any,
    labels: Any,
    categories: Sequence[str],
    r: float,
    mean_entropy: float,
    *,
    baseline: tuple[Any, float] | None = None,
    baseline_name: str = "PCA",
    max_points: int = 4000,
    random_state: int = 0,
) -> Figure:
    """Draw the network's entropy over the strength of the projected features (Table 1).

    Where most entropies would lie on the axis, it is logarithmic; then the lowest hundredth of them
    is drawn on the lower rim. The correlation is that of the entropy itself, not of its logarithm.

    Args:
        strength: |g|, `[N]`.
        entropy: entropy of P(y|x) in nats, `[N]`.
        labels: true categories, `[N]`.
        categories: names, `[C]`.
        r: Pearson's correlation of the two, as computed for the tables.
        mean_entropy: mean of the entropy; a correlation says little without it.
        baseline: strength `[N]` and r of another method, drawn beside.
        baseline_name: its name.
        max_points: at most so many images are drawn.
        random_state: seed of that choice.

    Raises:
        ValueError: shapes that do not fit, or an empty array.

    Examples:
        >>> from emergence_ext import figures
        >>> strength, entropy = torch.rand(20), torch.rand(20)
        >>> figures.strength_entropy(
        ...     strength, entropy, [0, 1] * 10, ["cat", "dog"], r=-0.5, mean_entropy=0.5
        ... )
        <ShownFigure size ... with 1 Axes>
    """
    sizes = Sizes("strength_entropy")
    names = sizes.names("categories", categories, "C")
    y = sizes.labels(labels, names)
    h = sizes.numbers("entropy", entropy, "N")
    methods = [("strength |g|", "ours", sizes.numbers("strength", strength, "N"), r)]
    if baseline is not None:
        other = sizes.numbers("baseline", baseline[0], "N")
        methods.append(("distance from the mean", baseline_name, other, baseline[1]))
    floor = _log_floor(h)
    figure = new_figure(PAGE if baseline is not None else PAGE / 2, 2.75)
    drawn = np.zeros(len(y), dtype=bool)
    drawn[np.random.default_rng(random_state).permutation(len(y))[:max_points]] = True
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False).ravel()
    for axes, (label, method, x, correlation) in zip(panels, methods, strict=True):
        good = np.isfinite(x) & np.isfinite(h)
        at = good & drawn
        scatter_categories(
            axes, x[at], np.maximum(h[at], floor), y[at], s=7, linewidths=0.25, alpha=0.75
        )
        axes.set_title(f"{method}: {correlation_text(correlation, 'r')}")
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        remarks = [f"{max_points:,} of {len(y):,} images drawn"] if len(y) > max_points else []
        if not good.all():
            remarks.append(f"{int((~good).sum()):,} not finite")
        if remarks:
            axes_note(axes, ", ".join(remarks), inside=True)
    panels[0].set_ylabel("entropy of P(y|x), nats" + (", log scale" if floor else ""))
    if floor:
        panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=0.8 * floor)
    _draw_mean(list(panels), mean_entropy)
    category_legend(figure, names)
    return figure


def _draw_mean(panels: Sequence[Axes], mean: float) -> None:
    """Draw a line at the mean entropy through all panels, and its number beside the last."""
    for axes in panels:
        axes.axhline(mean, color=INK, lw=0.6, ls="--")
    panels[-1].annotate(
        f"mean {mean:.2f}",
        (1, mean),
        xycoords=panels[-1].get_yaxis_transform(),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=6.5,
    )


def _log_floor(entropy: Array) -> float:
    """Return where a logarithmic axis of the entropies begins; 0 where it should be linear."""
    above = entropy[np.isfinite(entropy) & (entropy > 0)]
    if above.size == 0 or np.median(above) > above.max() / 20:
        return 0.0
    return float(np.quantile(above, 0.01))


@styled
def importance_strength(w: Any, strength: Any, r: Any, *, baseline_r: Any | None = None) -> Figure:
    """Draw the strength of regional features over their importance, and r by sample (Table 2).

    Args:
        w: region importance, `[N, R]`, each row of sum 1.
        strength: |h|, `[N, R]`.
        r: Pearson's correlation of the two within each sample, `[N]`.
        baseline_r: the same with the raw strength |F|, `[N]`.

    Raises:
        ValueError: shapes that do not fit, or an empty array.

    Examples:
        >>> from emergence_ext import figures
        >>> w = torch.rand(5, 4).softmax(1)
        >>> figures.importance_strength(w, 3 * w, r=torch.ones(5))
        <ShownFigure size ... with 3 Axes>
    """
    sizes = Sizes("importance_strength")
    share = sizes.numbers("w", w, "N R").ravel() * sizes["R"]
    force = sizes.numbers("strength", strength, "N R").ravel()
    correlations = {"projected |h|": (sizes.numbers("r", r, "N"), ACCENT, "-")}
    if baseline_r is not None:
        correlations["raw |F|"] = (sizes.numbers("baseline_r", baseline_r, "N"), CONTRAST, "--")
    figure = new_figure(PAGE, 2.6)
    left, right = figure.subplots(1, 2)
    _draw_density(left, share, force)
    edges = np.linspace(-1, 1, 41)
    for line, (name, (values, color, style)) in enumerate(correlations.items()):
        good = values[np.isfinite(values)]
        mean, spread = (good.mean(), good.std()) if good.size else (np.nan, np.nan)
        right.hist(good, edges, histtype="stepfilled", color=color, alpha=0.18)
        right.hist(
            good,
            edges,
            histtype="step",
            color=color,
            ls=style,
            lw=1.2,
            label=f"{name}: {signed_text(mean, plus=False)} ± {spread:.2f}",
        )
        if good.size:
            right.axvline(mean, color=color, lw=0.8, ls=style)
        if good.size < values.size:
            missing = f"{name}: r undefined in {values.size - good.size:,} samples"
            right.text(0.02, 0.72 - 0.08 * line, missing, transform=right.transAxes, fontsize=6.5)
    right.set_title("Within each sample")
    right.set(xlabel="Pearson's r of strength and importance", ylabel="samples", xlim=(-1, 1))
    right.legend(loc="upper left", title="mean ± standard deviation", title_fontsize=7)
    right.set_ylim(top=1.4 * right.get_ylim()[1])
    right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _draw_density(axes: Axes, share: Array, force: Array) -> None:
    """Draw where the regions `[n]` lie and the mean strength by tenths of the importance."""
    good = np.isfinite(share) & np.isfinite(force)
    share, force = share[good], force[good]
    axes.set_title("All regions")
    axes.set(xlabel="importance w, in shares of a uniform one", ylabel="strength |h|")
    if share.size == 0:
        axes_note(axes, "no finite values", inside=True)
        return
    right = max(float(np.quantile(share, 0.995)), 1e-9)
    upper = max(float(np.quantile(force, 0.998)), 1e-9)
    inside = (share <= right) & (force <= upper)
    image = axes.hist2d(
        share[inside],
        force[inside],
        bins=45,
        range=((0, right), (0, upper)),
        cmap="Blues",
        norm=LogNorm(vmin=1),
    )[3]
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.set_label("regions")
    bar.ax.grid(False)
    cuts = np.unique(np.quantile(share, np.linspace(0, 1, 11)))
    group = np.clip(np.searchsorted(cuts, share, side="right") - 1, 0, max(len(cuts) - 2, 0))
    groups = np.unique(group)
    middle = [float(np.median(share[group == k])) for k in groups]
    mean = [float(force[group == k].mean()) for k in groups]
    axes.plot(
        middle, mean, "o-", color=CONTRAST, ms=3.5, lw=1.2, mec="white", mew=0.4,
        label="mean of each tenth of the regions",
    )  # fmt: skip
    axes.set(xlim=(0, right), ylim=(0, 1.15 * upper))
    axes.legend(loc="upper left")
