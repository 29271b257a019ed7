"""Rows in shards are a result like any other: read the same way, with the same digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from emergence_ext.store import (
    Part,
    StoreError,
    content_digest,
    exists,
    fill_rows,
    load_arrays,
    made_from,
    save_arrays,
    save_rows,
)
from tests.trust.disk import trouble

MADE_FROM = {"weights": "w"}
SETTINGS = {"names": ["a", "b"]}


def _rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(9, 2, 3, generator=generator), "y": torch.arange(9)}


def _written(path: Path, origins: dict[str, str] = MADE_FROM, size: int = 2) -> Path:
    rows = _rows()
    fill_rows(
        path,
        origins,
        len(rows["y"]),
        size,
        lambda ranges: (
            (slice(x.start, x.stop), {n: a[x.start : x.stop] for n, a in rows.items()})
            for x in ranges
        ),
    )
    save_rows(path, SETTINGS, kind="Thing", made_from=origins)
    return path


def test_rows_are_read_like_arrays_of_one_file_and_have_their_digest(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", _rows(), SETTINGS, kind="Thing", made_from=MADE_FROM)
    _written(tmp_path / "b")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    assert made_from(tmp_path / "b") == MADE_FROM
    index = torch.tensor([8, 0, 3, 3])
    for path in (tmp_path / "a", tmp_path / "b"):
        arrays, settings = load_arrays(path, kind="Thing")
        assert settings == SETTINGS and sorted(arrays) == ["x", "y"]
        assert all(torch.equal(arrays[name], array) for name, array in _rows().items())
        part, _ = load_arrays(path, names=["x"], rows=index)
        assert list(part) == ["x"] and torch.equal(part["x"], _rows()["x"][index])
        with pytest.raises(ValueError, match=r"^names: no \['z'\]"):
            load_arrays(path, names=["z"])
        with pytest.raises(IndexError):
            load_arrays(path, rows=torch.tensor([9]))
        with pytest.raises(StoreError, match="holds a 'Thing', expected a 'Other'"):
            load_arrays(path, kind="Other")


def test_rows_take_the_place_of_arrays_of_one_file(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(3)}, {}, kind="Thing", made_from={"weights": "v"})
    _written(tmp_path / "a")
    assert torch.equal(load_arrays(tmp_path / "a")[0]["y"], torch.arange(9))
    assert not (tmp_path / "a.safetensors").exists()


def test_rows_of_another_result_are_told(tmp_path: Path) -> None:
    _written(tmp_path / "a")
    _written(tmp_path / "b", size=3)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    with pytest.raises(StoreError, match=r"is not finished as a\.json says\. Delete that"):
        load_arrays(tmp_path / "a")
    for file in (tmp_path / "b").iterdir():
        file.rename(tmp_path / "a" / file.name)
    with pytest.raises(StoreError, match=r"are not those of a\.json"):
        load_arrays(tmp_path / "a")


def test_a_result_of_other_things_is_gone_before_its_rows_are(tmp_path: Path) -> None:
    path = _written(tmp_path / "a")

    def compute(ranges: object) -> list[Part]:
        assert not exists(path) and [x.name for x in path.iterdir()] == [".lock"]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill_rows(path, {"weights": "v"}, 9, 2, compute)
    assert not exists(path)


def test_a_removal_that_was_interrupted_is_ended_by_the_next(tmp_path: Path) -> None:
    other = {"weights": "v"}
    counted = _written(tmp_path / "counted")
    with trouble(-1, "interrupt") as changes:
        _written(counted, other, size=4)
    for at in range(0, changes.count, 3):
        path = _written(tmp_path / str(at))
        with pytest.raises(KeyboardInterrupt), trouble(at, "interrupt"):
            _written(path, other, size=4)
        _written(path, other, size=4)
        assert torch.equal(load_arrays(path)[0]["y"], torch.arange(9))
