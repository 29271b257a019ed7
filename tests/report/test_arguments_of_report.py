"""What is no run and no number of a report is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext import report
from emergence_ext.data import ArraySamples
from emergence_ext.report.look import look, some_images


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: report.animate("runs/demo"), "run: expected FinishedRun, got str"),
        (lambda: report.update("runs/demo", "attack"), "run: expected FinishedRun, got str"),
        (lambda: report.refresh(None), "run: expected FinishedRun, got NoneType"),
        (lambda: report.is_current(Path("run")), "run: expected FinishedRun, got PosixPath"),
        (lambda: report.emergence.tables("runs/demo"), "run: expected FinishedRun, got str"),
        (lambda: report.Framed(Path("page"), height="tall"), "height: expected a whole number"),
        (lambda: report.Framed(Path("page"), height=0), "height: expected at least 1, got 0"),
        (lambda: look("runs/demo", Path("out")), "scene: expected Scene, got str"),
    ],
)
def test_what_is_no_run_is_named(call: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        call()


def test_no_images_cannot_be_chosen() -> None:
    images = ArraySamples(torch.rand(2, 3, 4, 4), [0, 1], ["cat", "dog"])
    assert some_images(images, 9) == [0, 1]
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        some_images(images, 0)
