"""What a picture keeps of a training, measured on a training that is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import training_dynamics as dynamics

T, N, C = 4, 200, 10


def _training() -> Tensor:
    """Softmax of images that grow sure of their category, each in its own way."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(N) % C
    toward = 4 * torch.nn.functional.one_hot(y, C) + torch.randn(N, C, generator=generator)
    start = torch.randn(N, C, generator=generator)
    steps = torch.linspace(0, 1, T)[:, None, None]
    return torch.softmax((1 - steps) * 0.3 * start + steps * toward, dim=-1)


P = _training()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("softmax", "comparison"):
        (tmp_path / part / "made-up").mkdir(parents=True)
    P.numpy().astype("<f4").tofile(tmp_path / "softmax/made-up/softmax-test.bin")
    flat = torch.randn(T, N, 2, generator=torch.Generator().manual_seed(1))
    flat.numpy().tofile(tmp_path / "comparison/made-up/Some method.bin")
    np.zeros(N, np.uint8).tofile(tmp_path / "comparison/made-up/labels.bin")
    return tmp_path


def test_a_picture_that_is_the_softmax_keeps_everything() -> None:
    pytest.importorskip("sklearn")
    whole = dynamics.kept(P, P)
    assert (whole.neighbours, whole.trustworthiness) == (1, 1) and whole.prediction > 0.7
    same = dynamics.kept(P, 3 * P)
    assert (same.neighbours, same.trustworthiness) == (1, 1)
    assert same.temporal == pytest.approx(1)
    noise = torch.randn(T, N, 2, generator=torch.Generator().manual_seed(1))
    lost = dynamics.kept(P, noise)
    assert lost.neighbours < 0.5 and abs(lost.temporal) < 0.3
    assert all(a < b for a, b in zip(lost, same, strict=True))


def test_an_image_that_never_moves_is_left_out_of_what_moved() -> None:
    x = P.clone()
    x[:, 0] = P[0, 0]
    assert dynamics.temporal(P, x) == pytest.approx(1)
    assert np.isnan(dynamics.temporal(P, P[:1].expand(T, N, C)))


def test_the_command_tells_every_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    dynamics.main([str(folder), "--data", "made-up", "--images", str(N), "--epochs", "3"])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"made-up, 3 epochs of {N} images, 15 neighbours"
    rows = {row.split(" | ")[0]: [float(x) for x in row.split(" | ")[1:]] for row in told[2:]}
    assert list(rows) == [
        "ours, 3-D", "ours, 2-D", "principal components, 3-D", "principal components, 2-D",
        "Some method (given)",
    ]  # fmt: skip
    for name in ("ours, 3-D", "ours, 2-D"):
        assert all(
            ours > random
            for ours, random in zip(rows[name][:4], rows["Some method (given)"][:4], strict=True)
        )


def test_what_is_not_there_or_no_softmax_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*; it holds softmax/made-up"):
        dynamics.read_softmax(folder, "mnist", "test")
    with pytest.raises(ValueError, match="which are no epochs of 999 images"):
        dynamics.read_softmax(folder, "made-up", "test", 999)
    path = folder / "softmax/made-up/softmax-test.bin"
    (2 * P).numpy().tofile(path)
    with pytest.raises(ValueError, match="do not sum to 1"):
        dynamics.read_softmax(folder, "made-up", "test", N)
    np.zeros(7, "<f4").tofile(folder / "comparison/made-up/other.bin")
    with pytest.raises(ValueError, match=r"other\.bin holds 7 numbers, expected 4 epochs"):
        dynamics.read_positions(folder, "made-up", (T, N))
    with pytest.raises(SystemExit):
        dynamics.main([str(folder), "--epochs", "1"])
