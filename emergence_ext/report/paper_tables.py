"""The paper's Tables 1 and 2 as we find them: rows and figures, its own numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from emergence_ext import figures
from emergence_ext.method import Interval, student_interval
from emergence_ext.report.drawing import save
from emergence_ext.report.tables import Row, importance, interval
from emergence_ext.run import Emergence
from emergence_ext.studies import paper
from emergence_ext.studies.ablation import FACTORS, AblationFit, Choices, level_in_words
from emergence_ext.studies.methods import Outcome


def methods(found: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Strength against entropy for ours and other projections, by network (Table 1)."""
    rows: list[Row] = []
    for network, outcomes in found.items():
        ours = {o.temperature: o.r for o in outcomes if o.method == "ours"}
        for o in outcomes:
            lead = zip(ours[o.temperature], o.r, strict=True) if o.temperature in ours else ()
            published = paper.STRENGTH_ENTROPY.get(o.method)
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
                    "paper, lowest": min(published) if published else None,
                    "paper, highest": max(published) if published else None,
                }
            )
    return rows


def configurations(found: Mapping[str, Sequence[Outcome]]) -> list[Row]:
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
        for network, outcomes in found.items()
        for o in outcomes
        for name, r in o.searched.items()
    ]


def networks_importance(found: Mapping[str, tuple[Emergence, float]]) -> list[Row]:
    """Strength of regions against importance, by network and layer, with its alpha (Table 2)."""
    return [
        {
            "network": network,
            **row,
            "paper, lowest mean": min(paper.STRENGTH_IMPORTANCE),
            "paper, highest mean": max(paper.STRENGTH_IMPORTANCE),
        }
        for network, (e, alpha) in found.items()
        for row in importance(e, alpha)
    ]


def ablation(found: Iterable[tuple[str, AblationFit]], default: Choices) -> list[Row]:
    """Strength of regions against importance, a row for each level of each choice (Table 2)."""
    rows: list[Row] = []
    for name, fit in found:
        r, raw = (x[x.isfinite()] for x in (fit.r, fit.raw_r))
        rows.append(
            {
                "choice": FACTORS[name],
                "level": level_in_words(name, fit.choices),
                "default": "yes" if fit.choices == default else "no",
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


def published() -> list[Row]:
    """What the paper prints in its Tables 1 and 2, a row a network."""
    return [
        {
            "network": network,
            **{f"Table 1, {name}": r[k] for name, r in paper.STRENGTH_ENTROPY.items()},
            "Table 2, mean": paper.STRENGTH_IMPORTANCE[k],
            "Table 2, standard deviation": paper.STRENGTH_IMPORTANCE_DEVIATION[k],
        }
        for k, network in enumerate(paper.NETWORKS)
    ]


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that are numbers."""
    good = [x for x in values if x == x]
    return sum(good) / len(good) if good else None


def draw_methods(path: Path, found: Mapping[str, Sequence[Outcome]]) -> None:
    """Draw strength against entropy of all methods into `path.png` and `path.svg` (Table 1).

    Args:
        path: without a suffix.
        found: network -> outcomes, of the same methods and temperatures.
    """
    rows = list(found.values())
    names = list(dict.fromkeys(o.method for o in rows[0]))
    temperatures = list(dict.fromkeys(o.temperature for o in rows[0]))
    shape = (len(rows), len(temperatures), len(names))
    r = [student_interval(o.r) for row in rows for o in row]
    missing = Interval(*[float("nan")] * 3)
    figure = figures.methods(
        figures.Band(
            *(
                torch.tensor([getattr(x or missing, end) for x in r]).reshape(shape)
                for end in ("value", "low", "high")
            )
        ),
        [[o.mean_entropy for o in row[:: len(names)]] for row in rows],
        names,
        temperatures,
        list(found),
        left_out=[o.left_out for o in rows[0][: len(names)]],
        published=paper.STRENGTH_ENTROPY,
    )
    save(figure, path)


def draw_ablation(path: Path, found: Sequence[tuple[str, AblationFit]], default: Choices) -> None:
    """Draw strength against importance under each choice, as `path.png` and `path.svg` (Table 2).

    Args:
        path: without a suffix.
        found: `(field of Choices, fit)` pairs.
        default: what the choices are varied around.
    """
    r = [student_interval(fit.r.tolist()) for _, fit in found]
    missing = Interval(*[float("nan")] * 3)
    figure = figures.ablation(
        figures.Band(
            *(
                torch.tensor([getattr(x or missing, end) for x in r])
                for end in ("value", "low", "high")
            )
        ),
        torch.stack([fit.raw_r.nanmean() for _, fit in found]),
        [FACTORS[name] for name, _ in found],
        [level_in_words(name, fit.choices) for name, fit in found],
        [fit.choices == default for _, fit in found],
        published=paper.STRENGTH_IMPORTANCE,
    )
    save(figure, path)
