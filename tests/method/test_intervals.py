"""Intervals over images take memory that does not grow with their number."""

import pytest
import torch

from emergence_ext.method import intervals


def test_intervals_are_the_same_however_many_images_are_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = torch.rand(301, generator=torch.Generator().manual_seed(0)).double()
    whole = intervals.bootstrap_sums([numbers, numbers > 0.5])
    monkeypatch.setattr(intervals, "DRAWN", 2000)  # six resamples
    assert intervals.bootstrap_sums([numbers, numbers > 0.5]) == whole
