"""What is saved of an experiment is all of it: it comes back, and reports are made of it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext import report
from emergence_ext.run import (
    Config,
    Emergence,
    FinishedRun,
    RunFolder,
    Settings,
    StrengthEntropy,
    Thumbnails,
)

NOWHERE = FinishedRun(Path("nowhere"), Config())
"""A run for what reads nothing of it."""


def save_run(folder: Path, e: Emergence, thumbnails: Thumbnails | None = None) -> FinishedRun:
    """Save results, and the images where they are given, as a run leaves them."""
    inside = RunFolder(folder)
    e.save(inside.emergence)
    if thumbnails is not None:
        thumbnails.save(inside.thumbnails)
    strength = e.g[-1].norm(dim=1)
    study = StrengthEntropy(1.0, e.entropy(), strength, strength, -0.5, -0.4, -0.6, -0.5, 0.1)
    study.save(inside.strength(1.0))
    Config(settings=asdict(Settings())).write(inside.config)
    return FinishedRun.open(folder)


def assert_updated_from_what_is_saved(run_dir: Path, name: str, figures: set[str]) -> None:
    """Make the report of an experiment again where network and images cannot be had.

    Args:
        run_dir: a run, with the experiment's result and its report.
        name: of the experiment.
        figures: that it has.
    """
    page = run_dir / "report.html"
    assert_same_again(
        run_dir / name, figures, lambda: report.update(FinishedRun.open(run_dir), name), page
    )
    assert f'id="{name}"' in page.read_text()


def assert_same_again(
    folder: Path, figures: set[str], write: Callable[[], object], *others: Path
) -> None:
    """Delete what a report shows of an experiment, write it anew, and find every byte again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the report wants the network or the images")

    shown = [*folder.glob("tables/*"), *folder.glob("figures/*"), *others]
    before = {path: path.read_bytes() for path in shown}
    assert {path.name for path in folder.glob("figures/*")} == {
        f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")
    }
    for path in before:
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinishedRun, "subject", refuse)
        write()
    assert {*folder.glob("tables/*"), *folder.glob("figures/*")} == before.keys() - {*others}
    for path, content in before.items():
        assert path.read_bytes() == content, path


def assert_equal(one: Any, other: Any) -> None:
    """Compare what was saved with what comes back, field by field; NaN is NaN."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif is_dataclass(one):
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other or (one != one and other != other)
