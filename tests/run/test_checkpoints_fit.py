"""A checkpoint of another network is told before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emergence_ext.data import Samples
from emergence_ext.network import CheckpointFile
from emergence_ext.run import Subject, run


class _Untouched(Samples):
    """Images that nobody may look at."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        raise AssertionError("the images were counted")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the images was asked for")


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_every_checkpoint_is_compared_before_the_first_is_extracted(
    tmp_path: Path, wrong: int
) -> None:
    checkpoints = []
    for epoch in range(3):
        path = tmp_path / f"epoch_{epoch}.pt"
        torch.save(nn.Linear(3, 5 if epoch == wrong else 4).state_dict(), path)
        checkpoints.append(CheckpointFile(f"epoch {epoch}", epoch, path))
    subject = Subject(nn.Linear(3, 4), {"layer": ""}, _Untouched(), checkpoints=checkpoints)
    with pytest.raises(ValueError, match=rf"epoch_{wrong}\.pt is a checkpoint of another network"):
        run(subject, tmp_path / "out")
    assert not (tmp_path / "out").exists()
