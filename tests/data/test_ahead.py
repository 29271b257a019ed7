"""What is read ahead is in order, bounded, told as it was raised, and gone when it is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from emergence_ext import parallel
from emergence_ext.data import ImageFolder, ahead, as_samples, subset
from emergence_ext.data.ahead import in_processes, in_threads
from emergence_ext.lookup import UserCodeError


def slow_where_even(n: int) -> int:
    time.sleep(0.002 if n % 2 == 0 else 0)
    return n


def fail_at_seven(n: int) -> int:
    if n == 7:
        raise ZeroDivisionError("seven")
    return n


class UnsendableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_unsendably(n: int) -> int:
    raise UnsendableError(n, n)


Reader = Callable[[Callable[[int], int], Any], Generator[int, None, None]]


def by_threads(work: Callable[[int], int], items: Any) -> Generator[int, None, None]:
    return in_threads(work, items, most=4)


def by_processes(work: Callable[[int], int], items: Any) -> Generator[int, None, None]:
    return in_processes(work, items, 2)


def nothing_is_left() -> bool:
    return not multiprocessing.active_children() and not [
        thread for thread in threading.enumerate() if thread.name.startswith("reading")
    ]


@pytest.mark.parametrize("read", [by_threads, by_processes])
def test_results_are_in_order_and_nothing_stays(read: Reader) -> None:
    assert list(read(slow_where_even, iter(range(41)))) == list(range(41))
    assert list(read(slow_where_even, [])) == []
    assert nothing_is_left()


@pytest.mark.parametrize("read", [by_threads, by_processes])
def test_an_error_comes_in_its_turn_and_as_it_was_raised(read: Reader) -> None:
    taken = []
    with pytest.raises(ZeroDivisionError, match=r"^seven$") as said:
        for n in read(fail_at_seven, range(100)):
            taken.append(n)
    assert taken == list(range(7)) and type(said.value) is ZeroDivisionError
    assert nothing_is_left()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in the foreground: a shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("read", [by_threads, by_processes])
def test_an_interrupt_leaves_no_thread_and_no_process(read: Reader, interruptible: None) -> None:
    results = read(slow_where_even, range(10_000))
    with pytest.raises(KeyboardInterrupt):
        for n in results:
            if n == 20:
                signal.raise_signal(signal.SIGINT)
    results.close()
    assert nothing_is_left()


def test_an_error_that_cannot_be_sent_is_told_nevertheless() -> None:
    with pytest.raises(RuntimeError, match=r"test_ahead\.py:\d+ in fail_unsendably: .* 0 and 0"):
        list(in_processes(fail_unsendably, range(20), 2))


def test_a_process_that_is_killed_ends_the_reading() -> None:
    def work(n: int) -> int:
        if n == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(RuntimeError, match=r"ended from outside, .* fewer `workers`"):
        list(in_processes(work, range(100), 2))
    assert nothing_is_left()


def test_processes_of_a_job_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    alone = ahead.threads()
    monkeypatch.setattr(parallel, "neighbours", lambda: 4)
    assert (alone, ahead.threads()) == (6, 1)
    # A launcher that has given each process cores of its own is not asked to share them again.
    monkeypatch.setattr(os, "cpu_count", lambda: 24)
    assert ahead.threads() == 6


def test_no_more_is_in_flight_than_was_asked_for() -> None:
    begun, most = [0], 6

    def work(n: int) -> int:
        begun[0] += 1
        return n

    results = in_threads(work, iter(range(100)), most)
    for n in range(50):
        assert next(results) == n
        time.sleep(0.001)
        assert begun[0] <= n + 1 + most
    results.close()
    assert begun[0] <= 50 + most


def test_processes_do_not_touch_the_random_state_of_the_network() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(in_processes(fail_at_seven, range(3), 1))
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for n in range(24):
        path = root / "ab"[n % 2] / f"{n:02}.png"
        path.parent.mkdir(exist_ok=True)
        # Of different sizes, so that later ones are done before earlier ones.
        side = 300 if n % 5 == 0 else 9
        Image.fromarray(random.integers(0, 256, (side, 12, 3), dtype=np.uint8)).save(path)
    (root / "a" / "04.png").write_bytes(b"damaged")
    (root / "b" / "11.png").write_bytes(b"")
    return root


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_files_are_the_same_in_one_thread_and_in_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    def read(count: int) -> tuple[Any, ...]:
        monkeypatch.setattr("emergence_ext.data.ahead.threads", lambda: count)
        monkeypatch.setattr("emergence_ext.data.decode.threads", lambda: count)
        samples = ImageFolder(folder, size=8, max_memory=memory)
        order = [5, 3, 3, 0, 21, 20]
        pixels = torch.stack([*samples.read(range(22)), *samples.read(order)])
        assert torch.equal(pixels, torch.stack([samples[n][0] for n in [*range(22), *order]]))
        some = subset(samples, per_class=4)
        assert torch.equal(torch.stack([*some.read([7, 1])]), torch.stack([some[7][0], some[1][0]]))
        return samples.names, samples.labels, samples.bad, samples.digest(), some.digest(), pixels

    *one, pixels = read(1)
    *many, same = read(7)
    assert one == many and torch.equal(pixels, same)
    assert [name for name, _ in one[2]] == ["a/04.png", "b/11.png"]


def test_what_is_not_kept_is_digested_from_the_same_bytes_as_ever(folder: Path) -> None:
    from emergence_ext.store import digest

    samples = ImageFolder(folder, size=8, max_memory=0)
    files = [digest([(folder / name).read_bytes(), None, 8, "center"]) for name in samples.names]
    whole = digest([samples.categories, samples.names, samples.labels, files])
    assert samples.digest() == whole


class Squares:
    """Items made when they are asked for."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 21

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index == self.bad:
            raise ZeroDivisionError("no such square")
        return np.full((4, 4, 3), 10 * index, np.uint8), index % 3


def test_worker_processes_change_nothing_for_a_users_data_set() -> None:
    here, there = as_samples(Squares()), as_samples(Squares(), workers=2)
    assert there.labels == here.labels and there.digest() == here.digest()
    order = [20, 0, 7, 7]
    assert torch.equal(torch.stack([*there.read(order)]), torch.stack([here[n][0] for n in order]))
    with pytest.raises(ValueError, match="workers: expected at least 0"):
        as_samples(Squares(), workers=-1)


def test_what_a_data_set_raises_in_a_worker_is_told_as_without() -> None:
    told = []
    for workers in (0, 2):
        with pytest.raises(UserCodeError) as said:
            as_samples(Squares(bad=12), workers=workers)
        told.append(str(said.value))
    assert told[0] == told[1] and told[0].startswith("dataset: sample 12: ")
    assert "ZeroDivisionError: no such square" in told[0] and "\n" not in told[0]


class Stream(IterableDataset[Any]):
    """Of a length that nobody knows; its memory is used again."""

    def __init__(self, count: int = 5, keys: bool = False) -> None:
        self.count, self.keys = count, keys

    def __iter__(self) -> Iterator[Any]:
        pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
        for n in range(self.count):
            pixels.fill_(10 * n)
            label = n % 2
            yield (
                {"__key__": f"k{n}", "jpg": pixels, "cls": label} if self.keys else (pixels, label)
            )


@pytest.mark.parametrize("stream", [Stream(), Stream(keys=True), iter(Stream()), list(Stream(0))])
def test_an_iterable_data_set_is_read_in_one_pass(stream: Any) -> None:
    if stream == []:
        with pytest.raises(ValueError, match="dataset: it is empty"):
            as_samples(iter(stream))
        return
    samples = as_samples(stream, categories=["even", "odd"])
    assert samples.labels == [0, 1, 0, 1, 0] and samples.categories == ["even", "odd"]
    keyed = getattr(stream, "keys", False)
    assert samples.names == [f"k{n}" if keyed else str(n) for n in range(5)]
    for _ in range(2):
        assert [int(x.mean() * 255 + 0.5) for x in samples.read(range(5))] == [0, 10, 20, 30, 40]


def test_an_iterable_data_set_of_the_same_items_is_the_same_set() -> None:
    assert (
        as_samples(map(Squares().__getitem__, range(21))).digest() == as_samples(Squares()).digest()
    )


def test_an_iterable_data_set_is_kept_up_to_max_memory_and_no_further() -> None:
    assert len(as_samples(Stream(10), max_memory=480)) == 10
    with pytest.raises(ValueError, match="the first 11 take more than 480 bytes") as said:
        as_samples(Stream(10**12), max_memory=480)
    assert "`max_memory`" in str(said.value) and "\n" not in str(said.value)
    with pytest.raises(ValueError, match="workers: an iterable data set is read"):
        as_samples(Stream(), workers=2)
    with pytest.raises(TypeError, match="sample 0 is none"):
        as_samples(iter([5]))
