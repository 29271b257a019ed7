"""What the proofs found is kept for the next process: of the same GPU, driver, torch and code."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext.ops import verdicts
from emergence_ext.ops.verdicts import Verdict, Verdicts, cache_folder
from tests.gates import CARD, WRONG, YES, Prover, gate_of

pytestmark = pytest.mark.usefixtures("allowed")


def test_a_way_is_proved_once_for_all_processes(tmp_path: Path, allowed: dict) -> None:
    first, second = Prover(planes=WRONG), Prover()
    gate = gate_of(first, tmp_path / "new" / "cache")
    assert gate.why_not("narrow", 0) is None and gate.why_not("planes", 0) == WRONG
    assert gate.why_not("narrow", 0) is None
    assert allowed == {0: ["narrow"]}
    later = gate_of(second, tmp_path / "new" / "cache")
    assert later.why_not("planes", 3) == WRONG and later.why_not("narrow", 3) is None
    assert allowed[3] == ["narrow"]
    assert first.asked == ["narrow", "planes"] and second.asked == []
    assert later.verdict("narrow", 3) == YES


@pytest.mark.parametrize(
    "other",
    [
        {"name": "another card"},
        {"name": "a card MIG 1g.18gb"},
        {"multiprocessors": 14},
        {"driver": "590.11"},
        {"capability": (8, 9)},
    ],
    ids=str,
)
def test_what_another_device_or_driver_proved_is_not_believed(
    other: dict[str, Any], tmp_path: Path
) -> None:
    prover = Prover()
    gate_of(prover, tmp_path).why_not("narrow", 0)
    gate_of(prover, tmp_path, replace(CARD, **other)).why_not("narrow", 0)
    gate_of(prover, tmp_path).why_not("narrow", 0)
    assert len(prover.asked) == 2


def test_which_device_of_its_kind_it_was_is_no_matter(tmp_path: Path) -> None:
    # CUDA_VISIBLE_DEVICES may show another, or the same one at another index.
    prover = Prover()
    for uuid in ("GPU-1", "GPU-2"):
        assert gate_of(prover, tmp_path, replace(CARD, uuid=uuid)).why_not("narrow", 0) is None
    assert len(prover.asked) == 1


def test_another_torch_proves_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prover = Prover()
    gate_of(prover, tmp_path).why_not("narrow", 0)
    monkeypatch.setattr(torch, "__version__", "9.9")
    gate_of(prover, tmp_path).why_not("narrow", 0)
    assert len(prover.asked) == 2


@pytest.mark.parametrize("damage", ["", "{", "[" * 100_000, "[]", "null", "key", "reason", "ms"])
def test_a_damaged_verdict_is_proved_anew(damage: str, tmp_path: Path) -> None:
    prover = Prover(narrow=WRONG)
    gate_of(prover, tmp_path).why_not("narrow", 0)
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    kept["key"]["way"] = "wide" if damage == "key" else "narrow"
    kept["verdict"] |= {"reason": 5} if damage == "reason" else {}
    kept["verdict"] |= {"milliseconds": "fast"} if damage == "ms" else {}
    known = damage in ("key", "reason", "ms")
    file.write_text(json.dumps(kept) if known else damage)
    assert gate_of(prover, tmp_path).why_not("narrow", 0) == WRONG
    assert len(prover.asked) == 2
    assert gate_of(prover, tmp_path).why_not("narrow", 0) == WRONG  # and kept again
    assert len(prover.asked) == 2


def no_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("a file")


def read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)


def full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)


@pytest.mark.parametrize("spoil", [no_folder, read_only, full])
def test_where_nothing_can_be_kept_the_process_knows_and_says_so_once(
    spoil: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    spoil(folder, monkeypatch)
    prover = Prover()
    gate = gate_of(prover, folder)
    with pytest.warns(RuntimeWarning, match=r"for this process alone: .*cache.* cannot") as told:
        for way in ("narrow", "wide", "narrow"):
            assert gate.why_not(way, 0) is None
    assert len(told) == 1 and prover.asked == ["narrow", "wide"]
    assert not folder.is_dir() or not [*folder.glob("*.json"), *folder.glob(".*.tmp")]


def test_what_was_of_the_day_is_not_kept_but_not_asked_again(tmp_path: Path) -> None:
    prover = Prover(lasts=False, narrow="its proof did not begin")
    gate = gate_of(prover, tmp_path)
    assert gate.why_not("narrow", 0) == gate.why_not("narrow", 0) == "its proof did not begin"
    assert prover.asked == ["narrow"]
    assert gate_of(Prover(), tmp_path).why_not("narrow", 0) is None


def test_of_two_processes_one_proves_and_the_other_waits(tmp_path: Path) -> None:
    # A lock on a file is of its opening, so that two gates are as good as two processes.
    provers = [Prover(seconds=0.3), Prover(seconds=0.3)]
    gates = [gate_of(prover, tmp_path) for prover in provers]
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda gate=gate: found.append(gate.why_not("narrow", 0)))
        for gate in gates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None, None]
    assert sorted(len(prover.asked) for prover in provers) == [0, 1]


def test_of_two_threads_one_proves(tmp_path: Path) -> None:
    prover = Prover(seconds=0.2)
    gate = gate_of(prover, tmp_path)
    threads = [threading.Thread(target=gate.why_not, args=("narrow", 0)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prover.asked == ["narrow"]


def test_a_proof_can_be_had_again(tmp_path: Path, allowed: dict) -> None:
    gate_of(Prover(narrow=WRONG), tmp_path).why_not("narrow", 0)
    gate = gate_of(Prover(), tmp_path)
    assert gate.why_not("narrow", 0) == WRONG and allowed == {0: []}
    assert gate.verdict("narrow", 0, again=True) == YES
    assert gate.why_not("narrow", 0) is None and allowed == {0: ["narrow"]}
    assert gate_of(Prover(narrow=WRONG), tmp_path).why_not("narrow", 0) is None


def test_the_cache_is_the_users() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/emergence_ext")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == cache_folder({})


KEY, NO = {"way": "narrow"}, Verdict("wrong", "2026-11-30", 2.5, 1.0)


def test_who_has_no_folder_keeps_nothing_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Verdicts(None)
    assert nowhere.keep(KEY, NO) == "there is no cache folder" and nowhere.read(KEY) is None
    with nowhere.alone(KEY, 5):
        pass

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder({}) is None


def test_a_verdict_of_other_fields_is_none(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    assert kept.keep(KEY, NO) is None and kept.read(KEY) == NO and not NO.taken
    (file,) = tmp_path.glob("*.json")
    for verdict in ({"reason": "", "date": ""}, [], None):
        file.write_text(json.dumps({"key": KEY, "verdict": verdict}))
        assert kept.read(KEY) is None


def test_who_waits_longer_than_a_proof_can_take_goes_on(tmp_path: Path) -> None:
    kept = Verdicts(tmp_path)
    with kept.alone(KEY, 5), kept.alone(KEY, 0.15), kept.alone({"way": "wide"}, 5):
        assert len([*tmp_path.glob("*.lock")]) == 2


@pytest.mark.parametrize("lacks", ["locks", "fcntl", "a folder"])
def test_without_locks_two_may_prove_at_once(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if lacks == "locks":
        monkeypatch.setattr(verdicts.fcntl, "flock", refuse)
    elif lacks == "fcntl":
        monkeypatch.setattr(verdicts, "fcntl", None)
    else:
        (tmp_path / "file").write_text("")
    kept = Verdicts(tmp_path / "file" if lacks == "a folder" else tmp_path)
    with kept.alone(KEY, 5), kept.alone(KEY, 5):
        assert kept.read(KEY) is None
