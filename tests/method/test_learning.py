"""How early, how simultaneously and how steadily points are learned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from emergence_ext.method.learning import learning

EPOCHS = [0, 2, 8]


def _states(*counts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(state, dtype=torch.bool) for state in counts]


def test_the_epoch_is_that_of_most_points_and_the_first_of_equals() -> None:
    states = _states(
        [[0, 0, 0], [1, 0, 0], [0, 0, 0]],
        [[1, 1, 0], [0, 1, 0], [0, 0, 0]],
        [[1, 1, 1], [0, 0, 1], [0, 0, 0]],
    )
    found = learning(states, EPOCHS)
    assert found.epoch[:2].tolist() == [8.0, 0.0] and math.isnan(float(found.epoch[2]))
    assert found.images == 2
    assert found.mean_epoch is not None and found.mean_epoch.value == 4.0
    assert found.spread == pytest.approx(math.sqrt(32))
    # The second image had three points in turn and keeps one of them.
    assert found.kept[0] == 1.0 and found.kept[1] == pytest.approx(1 / 3)
    assert found.steadiness is not None and found.steadiness.value == pytest.approx(2 / 3)


def test_points_that_come_early_and_stay_are_fast_together_and_steady() -> None:
    random = torch.rand(200, 9, generator=torch.Generator().manual_seed(0))
    early = learning([random < x for x in (0.5, 0.5, 0.5)], EPOCHS)
    late = learning([random < x for x in (0.0, 0.1, 0.5)], EPOCHS)
    assert early.mean_epoch.value < late.mean_epoch.value  # type: ignore[union-attr]
    assert early.spread < late.spread
    assert early.steadiness.value == late.steadiness.value == 1.0  # type: ignore[union-attr]
    wandering = learning([random.roll(k, 0) < 0.5 for k in range(3)], EPOCHS)
    assert wandering.steadiness.value < 0.7  # type: ignore[union-attr]


def test_without_points_there_is_no_way() -> None:
    found = learning(_states([[0, 0]], [[0, 0]]), [0, 1])
    assert found.mean_epoch is None and found.steadiness is None and found.images == 0
    assert math.isnan(found.spread)


def test_states_without_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs: there are no checkpoints"):
        learning([], [])
    with pytest.raises(ValueError, match="argument"):
        learning(_states([[0]], [[1]]), [0])
