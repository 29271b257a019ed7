"""A store of rows: what is appended comes back, whoever is killed loses a shard at most."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.store import (
    Part,
    ShardStore,
    StoreError,
    fill_rows,
    rows_per_shard,
    shards,
    write_document,
)
from tests.trust.disk import Trouble, trouble

MADE_FROM = {"weights": "w", "images": "i"}
ROWS = 11


def _rows(count: int = ROWS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layers/conv.1": torch.randn(count, 2, 3, generator=generator),
        "f": torch.randn(count, 5, generator=generator).bfloat16(),
        "half": torch.randn(count, generator=generator).half(),
        "y": torch.arange(count),
        "small": torch.arange(count).to(torch.uint8),
    }


def _write(folder: Path, rows: dict[str, Tensor], batch: int = 2, size: int = 4) -> list[range]:
    """Fill a store; return the rows that were asked for."""
    asked = []

    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        asked.extend(ranges)
        yield from _parts(ranges, rows, batch)

    fill_rows(folder, MADE_FROM, len(rows["y"]), size, compute)
    return asked


def _parts(ranges: Iterable[range], rows: dict[str, Tensor], batch: int = 2) -> Iterator[Part]:
    for shard in ranges:
        for start in range(shard.start, shard.stop, batch):
            part = slice(start, min(start + batch, shard.stop))
            yield part, {name: array[part] for name, array in rows.items()}


def _store(folder: Path) -> Path:
    _write(folder, _rows())
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in folder.iterdir() if x.name != ".lock"}


def test_rows_come_back_by_slices_in_any_order_and_in_blocks(tmp_path: Path) -> None:
    store, rows = ShardStore(_store(tmp_path), MADE_FROM), _rows()
    assert len(store) == ROWS and store.made_from == MADE_FROM
    assert sorted(x.name for x in tmp_path.glob("*.safetensors")) == [
        f"shard-0000{k}.safetensors" for k in range(3)
    ]
    index = [10, 0, 4, 3, 4, 7]
    for name, array in rows.items():
        assert store.dtypes[name] == array.dtype and store.shapes[name] == array.shape
        for start, stop in ((0, ROWS), (3, 9), (4, 8), (5, 6), (2, 2), (ROWS, ROWS)):
            assert torch.equal(store.slice(name, start, stop), array[start:stop])
        assert torch.equal(store.rows(name, index), array[index])
        assert torch.equal(store.rows(name, torch.tensor([], dtype=torch.int64)), array[:0])
    blocks = list(store.blocks(5))
    assert [len(block["y"]) for block in blocks] == [5, 5, 1]
    assert torch.equal(torch.cat([block["f"] for block in blocks]), rows["f"])
    store.verify()


def test_what_is_read_is_memory_of_its_own(tmp_path: Path) -> None:
    store = ShardStore(_store(tmp_path))
    part = store.slice("layers/conv.1", 0, 4)
    for file in tmp_path.iterdir():
        file.unlink()
    assert torch.equal(part.mul_(2), 2 * _rows()["layers/conv.1"][:4])


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_files_do_not_depend_on_how_rows_come(tmp_path: Path, batch: int) -> None:
    _write(tmp_path / "one", _rows(), 2)
    _write(tmp_path / "other", _rows(), batch)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "other")


def test_shards_are_made_in_any_order_and_only_those_that_are_not_there(tmp_path: Path) -> None:
    whole = _bytes(_store(tmp_path / "a"))
    folder = _store(tmp_path / "b")
    for number in (0, 2):
        (folder / f"shard-0000{number}.json").unlink()
    assert _write(folder, _rows()) == [range(4), range(8, 11)]
    assert _bytes(folder) == whole
    assert _write(folder, _rows()) == []
    assert _bytes(folder) == whole


def test_rows_are_appended_to_a_finished_store(tmp_path: Path) -> None:
    rows = _rows(23)
    _write(tmp_path / "once", rows)
    for end, asked in ((6, 6), (8, 4), (8, 0), (23, 15)):
        made = _write(tmp_path / "often", {name: array[:end] for name, array in rows.items()})
        assert sum(map(len, made)) == asked
        assert len(ShardStore(tmp_path / "often")) == end
    assert _bytes(tmp_path / "once") == _bytes(tmp_path / "often")


def test_a_store_of_no_rows(tmp_path: Path) -> None:
    fill_rows(tmp_path, MADE_FROM, 0, 4, lambda ranges: [])
    assert len(ShardStore(tmp_path)) == 0 and list(ShardStore(tmp_path).blocks(3)) == []


@pytest.mark.parametrize("kind", ["interrupt", "no space"])
def test_interrupted_at_any_change_of_the_disk_it_goes_on_to_the_same_bytes(
    kind: Trouble, tmp_path: Path
) -> None:
    whole = _bytes(_store(tmp_path / "whole"))
    with trouble(-1, kind) as changes:
        _write(tmp_path / "counted", _rows())
    for at in range(0, changes.count, 2 if kind == "interrupt" else 5):
        folder = tmp_path / str(at)
        with trouble(at, kind):
            try:
                _write(folder, _rows())
            except KeyboardInterrupt:
                assert kind == "interrupt"
            except OSError as error:
                assert kind == "no space" and error.errno == errno.ENOSPC
        done = len(list(folder.glob("shard-*.json")))
        assert len(_write(folder, _rows())) == 3 - done, "a full shard was lost"
        assert _bytes(folder) == whole, f"at change {at}"


def test_left_by_an_error_it_keeps_full_shards_and_is_not_finished(tmp_path: Path) -> None:
    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        yield from _parts(ranges[:2], _rows())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill_rows(tmp_path, MADE_FROM, ROWS, 4, compute)
    with pytest.raises(
        FileNotFoundError, match=r"no index\.json\. Bring that back, or compute it again"
    ):
        ShardStore(tmp_path)
    assert _write(tmp_path, _rows()) == [range(8, 11)]


def test_two_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process would hold it
        with pytest.raises(RuntimeError, match="another process works in"):
            _write(tmp_path, _rows())


def test_rows_of_something_else_are_never_mixed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = _store(tmp_path), {**MADE_FROM, "images": "j"}
    (folder / "shard-00000.json").unlink()  # what is left says it too
    with pytest.raises(StoreError, match="made from other images than"):
        ShardStore(folder, other)
    asked = []

    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        asked.extend(ranges)
        return _parts(ranges, _rows())

    fill_rows(folder, other, ROWS, 4, compute)
    assert len(asked) == 3 and "is made anew: it was of other images" in caplog.text
    fill_rows(folder, other, ROWS, 6, compute)
    assert len(asked) == 5 and "it was of other rows_per_shard" in caplog.text
    assert len(list(folder.glob("shard-*.json"))) == 2
    assert ShardStore(folder, other).made_from == other


@pytest.mark.parametrize(
    "rows",
    [
        {"x": torch.zeros(2, 3), "y": torch.zeros(3)},
        {},
        {"x": torch.tensor(1.0)},
        {"x": torch.zeros(2, 4)},
        {"x": torch.zeros(2, 3).double()},
        {"x": torch.zeros(2, 3), "y": torch.zeros(2)},
        {"x": torch.zeros(3, 3)},
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, rows: dict[str, Tensor]) -> None:
    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        yield slice(0, 2), {"x": torch.zeros(2, 3)}
        yield slice(2, 4), rows

    with pytest.raises(ValueError, match=r"^rows: expected"):
        fill_rows(tmp_path, MADE_FROM, 8, 4, compute)
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.parametrize("parts", [[], [(0, 3), (3, 5)], [(0, 2), (3, 4)], [(1, 4)]])
def test_rows_that_were_not_asked_for_are_refused(
    tmp_path: Path, parts: list[tuple[int, int]]
) -> None:
    def compute(ranges: Sequence[range]) -> Iterator[Part]:
        for start, stop in parts:
            yield slice(start, stop), {"x": torch.zeros(stop - start)}

    with pytest.raises(ValueError, match=r"^rows: expected arrays of the rows from"):
        fill_rows(tmp_path, MADE_FROM, 8, 4, compute)


def test_shards_that_differ_in_what_they_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has other arrays than the first shard"):
        fill_rows(
            tmp_path,
            MADE_FROM,
            2,
            1,
            lambda ranges: [(slice(k, k + 1), {"x": torch.zeros(1, k)}) for k in range(2)],
        )


@pytest.mark.parametrize(
    ("count", "row_bytes", "batch_size", "expected"),
    [
        (10, 8, 32, 32),  # a batch at least
        (320, 8, 10, 20),  # sixteen shards, so that as many processes can share them
        (100_000, 8, 30, 1020),  # what a kill costs
        (100_000, 2**20, 32, 64),  # 64 MiB
        (100_000, 2**30, 32, 32),
    ],
)
def test_a_shard_is_of_whole_batches(
    count: int, row_bytes: int, batch_size: int, expected: int
) -> None:
    assert rows_per_shard(count, row_bytes, batch_size) == expected


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    store = ShardStore(_store(tmp_path))
    with pytest.raises(ValueError, match="no array 'z'; there are"):
        store.slice("z", 0, 1)
    for start, stop in ((-1, 2), (0, 12), (3, 2)):
        with pytest.raises(IndexError, match=f"rows {start} to {stop} of 11"):
            store.slice("y", start, stop)
    with pytest.raises(IndexError, match="rows -1 to 2 of 11"):
        store.rows("y", [2, -1])


def _missing(file: Path) -> None:
    file.unlink()


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def _of_another_version(file: Path) -> None:
    content = json.loads(file.read_bytes())
    content.pop("sha256")
    write_document(file, {**content, "format_version": 99})


@pytest.mark.parametrize(
    ("name", "harm", "told"),
    [
        ("shard-00001.safetensors", _missing, "is missing or damaged .*Delete shard-00001.json"),
        ("shard-00001.safetensors", _truncated, "is missing or damaged .*compute it again"),
        ("shard-00001.safetensors", _flipped, "is not the one that was written"),
        ("shard-00001.json", _missing, "lacks the shard shard-00001.json"),
        ("shard-00001.json", _truncated, "no JSON that can be read"),
        ("shard-00001.json", _of_another_version, "has format version 99"),
    ],
)
def test_a_damaged_shard_is_told_when_it_is_first_used(
    name: str, harm: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    file = _store(tmp_path) / name
    harm(file)
    store = ShardStore(tmp_path)  # opening reads no shard
    assert torch.equal(store.slice("y", 0, 4), torch.arange(4))
    uses: tuple[Callable[[], Any], ...] = (
        store.verify,
        lambda: [store.slice(n, 3, 6) for n in store.shapes],
        lambda: [store.rows(n, [9, 5]) for n in store.shapes],
    )
    for use in uses:
        with pytest.raises(StoreError, match=f"^path: .*{told}") as error:
            use()
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_what_the_error_tells_to_delete_is_computed_again(tmp_path: Path) -> None:
    whole = _bytes(_store(tmp_path))
    _flipped(tmp_path / "shard-00001.safetensors")
    (tmp_path / "shard-00001.json").unlink()
    (tmp_path / "index.json").unlink()
    _write(tmp_path, _rows())
    assert _bytes(tmp_path) == whole


def test_a_shard_of_another_store_is_told(tmp_path: Path) -> None:
    _store(tmp_path / "a")
    _write(tmp_path / "b", {name: array.flip(0) for name, array in _rows().items()})
    for ending in ("json", "safetensors"):
        file = f"shard-00001.{ending}"
        (tmp_path / "a" / file).write_bytes((tmp_path / "b" / file).read_bytes())
    with pytest.raises(StoreError, match=r"is of another store than index\.json"):
        ShardStore(tmp_path / "a").slice("y", 5, 6)


@pytest.mark.parametrize("harm", [_truncated, _of_another_version])
def test_a_damaged_index_is_told_when_it_is_opened(
    harm: Callable[[Path], None], tmp_path: Path
) -> None:
    harm(_store(tmp_path) / "index.json")
    with pytest.raises(StoreError, match=r"index\.json"):
        ShardStore(tmp_path)


def test_an_array_is_hashed_once_and_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    store = ShardStore(_store(tmp_path))
    real = shards._read

    def read(file: Path, name: str, *given: Tensor | None) -> tuple[Tensor, str]:
        hashed.append((file.stem, name))
        return real(file, name, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_read", read)
    for _ in range(3):
        store.slice("y", 0, 6)
        store.rows("y", [1, 5])
    assert hashed == [("shard-00000", "y"), ("shard-00001", "y")]
