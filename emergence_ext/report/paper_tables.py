"""The paper's Tables 1 and 2 as we find them: section of the report, tables and figures.

The paper's own numbers stand beside ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.method import student_interval
from emergence_ext.report.emergence import importance_row
from emergence_ext.report.files import Drawings, Row, Tables, interval
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun
from emergence_ext.studies import published
from emergence_ext.studies.ablation import FACTORS, level_in_words
from emergence_ext.studies.methods import Outcome
from emergence_ext.studies.paper_tables import NAME, PaperTables, RegionStrength

SECTION: Final = SectionText(
    NAME,
    "Experiment: other projections, other choices",
    "The paper's two tables for this network, and what the second depends on (emergence tables).",
    (
        FigureText(
            "methods",
            "Strength and entropy, by method",
            "Pearson's r of strength with the entropy of the output (Table 1), for ours and "
            "five other projections, each with the best of its configurations; mean and 95 % "
            "interval over seeds. Images were not fitted where a method can map new ones.",
            "The lower, the more strength tells how sure the network is. Compare methods at "
            "one temperature; the mean entropy says how unsure the network is there.",
        ),
        FigureText(
            "ablation",
            "What strength and importance depend on",
            "Pearson's r of |h| with w in the last layer, mean and 95 % interval over the "
            "images that w was learned on, one choice changed at a time (Table 2); beside it "
            "that of the network's own |F|.",
            "A choice that moves the mark much is one on which Table 2 depends.",
        ),
    ),
    (
        TableText(
            "methods",
            "Table 1",
            "The figure's numbers with 95 % intervals over seeds, and the paper's range.",
        ),
        TableText(
            "importance",
            "Table 2",
            "By layer, at the run's own settings, on the images that w was learned on.",
        ),
        TableText(
            "ablation",
            "Table 2 under other choices",
            "The figure's numbers, with 95 % intervals over images.",
        ),
        TableText("paper", "The paper's own numbers", "As it prints them in Tables 1 and 2."),
        TableText(
            "configurations",
            "Configurations that were searched",
            "For Table 1, every method with the same number of them.",
        ),
    ),
)


def tables(t: PaperTables, run: FinishedRun) -> Tables:
    """Both tables, the paper's own numbers, and the configurations that were searched."""
    rows = {
        "methods": _methods(t.methods),
        "configurations": _configurations(t.methods),
        "importance": _importance(t.importance),
        "paper": _published(),
    }
    return rows | {"ablation": _ablation(t)} if t.ablation else rows


def figures(t: PaperTables, run: FinishedRun) -> Drawings:
    """Strength and entropy by method; what strength and importance depends on."""
    drawings: Drawings = {"methods": lambda: _draw_methods(t)}
    return {**drawings, "ablation": lambda: _draw_ablation(t)} if t.ablation else drawings


def _methods(networks: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Strength against entropy for ours and other projections, by network (Table 1)."""
    rows: list[Row] = []
    for network, outcomes in networks.items():
        ours = {o.temperature: o.r for o in outcomes if o.method == "ours"}
        for o in outcomes:
            lead = zip(ours[o.temperature], o.r, strict=True) if o.temperature in ours else ()
            theirs = published.STRENGTH_ENTROPY.get(o.method)
            rows.append(
                {
                    "network": network,
                    "temperature": o.temperature,
                    "mean entropy (nats)": o.mean_entropy,
                    "method": o.method,
                    **interval("Pearson", student_interval(o.r), "no fit"),
                    **interval("Spearman", student_interval(o.rho), "no fit"),
                    **interval("ours less this", student_interval([a - b for a, b in lead]), ""),
                    "images": "not fitted" if o.left_out else "fitted: maps no others",
                    "Pearson on fitted images": _mean(o.fitted_r),
                    "best configuration": o.configuration,
                    "configurations": len(o.searched),
                    "seeds": len(o.r),
                    "fits": o.fits,
                    "failed": o.failed,
                    "nearly all at one place": o.crowded,
                    "graph in pieces": o.pieces,
                    "paper, lowest": min(theirs) if theirs else None,
                    "paper, highest": max(theirs) if theirs else None,
                }
            )
    return rows


def _configurations(networks: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Every configuration that was searched for Table 1, and why fits failed."""
    return [
        {
            "network": network,
            "temperature": o.temperature,
            "method": o.method,
            "configuration": name,
            "best": "yes" if name == o.configuration else "no",
            **interval("Pearson", student_interval(r), "no fit"),
            "seeds": len(r),
            "seeds that failed": sum(x != x for x in r),
            "why": "; ".join(text for text in o.failures if text.startswith(f"{name}: ")),
        }
        for network, outcomes in networks.items()
        for o in outcomes
        for name, r in o.searched.items()
    ]


def _importance(networks: Mapping[str, RegionStrength]) -> list[Row]:
    """Strength of regions against importance, by network and layer, with its alpha (Table 2)."""
    return [
        {
            "network": network,
            **importance_row(layer, s.alpha, s.r[k], s.raw_r[k]),
            "paper, lowest mean": min(published.STRENGTH_IMPORTANCE),
            "paper, highest mean": max(published.STRENGTH_IMPORTANCE),
        }
        for network, s in networks.items()
        for k, layer in enumerate(s.layers)
    ]


def _ablation(t: PaperTables) -> list[Row]:
    """Strength of regions against importance, a row for each level of each choice (Table 2)."""
    rows: list[Row] = []
    for name, fit in zip(t.factors, t.ablation, strict=True):
        r, raw = (x[x.isfinite()] for x in (fit.r, fit.raw_r))
        rows.append(
            {
                "choice": FACTORS[name],
                "level": level_in_words(name, fit.choices),
                "default": "yes" if fit.choices == t.default else "no",
                **interval("Pearson of |h| with w", student_interval(r.tolist()), "no fit"),
                "standard deviation": float(r.std()) if len(r) > 1 else None,
                "Pearson of |F| with w, mean": float(raw.mean()) if len(raw) else None,
                "images": len(r),
                "loss of w and v": fit.importance_loss,
                "loss of Lambda": fit.similarity_loss,
                "mean strength": fit.mean_strength,
                "why not": fit.failure,
            }
        )
    return rows


def _published() -> list[Row]:
    """What the paper prints in its Tables 1 and 2, a row a network."""
    return [
        {
            "network": network,
            **{f"Table 1, {name}": r[k] for name, r in published.STRENGTH_ENTROPY.items()},
            "Table 2, mean": published.STRENGTH_IMPORTANCE[k],
            "Table 2, standard deviation": published.STRENGTH_IMPORTANCE_DEVIATION[k],
        }
        for k, network in enumerate(published.NETWORKS)
    ]


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that are numbers."""
    good = [x for x in values if x == x]
    return sum(good) / len(good) if good else None


def _draw_methods(t: PaperTables) -> Figure:
    """Strength against entropy of all methods (Table 1)."""
    rows = list(t.methods.values())
    names = list(dict.fromkeys(o.method for o in rows[0]))
    temperatures = list(dict.fromkeys(o.temperature for o in rows[0]))
    # [networks, temperatures, methods]
    blocks = [
        [row[k * len(names) : (k + 1) * len(names)] for k in range(len(temperatures))]
        for row in rows
    ]
    return draw.methods(
        draw.Band.of([[[student_interval(o.r) for o in at] for at in row] for row in blocks]),
        [[at[0].mean_entropy for at in row] for row in blocks],
        names,
        temperatures,
        list(t.methods),
        left_out=[o.left_out for o in blocks[0][0]],
        published=published.STRENGTH_ENTROPY,
    )


def _draw_ablation(t: PaperTables) -> Figure:
    """Strength against importance under each choice (Table 2)."""
    return draw.ablation(
        draw.Band.of([student_interval(fit.r.tolist()) for fit in t.ablation]),
        torch.stack([fit.raw_r.nanmean() for fit in t.ablation]),
        [FACTORS[name] for name in t.factors],
        [
            level_in_words(name, fit.choices)
            for name, fit in zip(t.factors, t.ablation, strict=True)
        ],
        [fit.choices == t.default for fit in t.ablation],
        published=published.STRENGTH_IMPORTANCE,
    )
