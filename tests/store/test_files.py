"""Files are written whole or not at all, and one process at a time works in a folder."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from emergence_ext.store import (
    arrays,
    files,
    load_arrays,
    locked,
    replace_file,
    save_arrays,
    write_file,
)

# The system's own lock: it starts faster than the package.
HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def _other_process(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def test_two_processes_do_not_work_in_one_folder_and_a_dead_one_holds_none(tmp_path: Path) -> None:
    other = _other_process(tmp_path)
    try:
        with (
            pytest.raises(RuntimeError, match=f"^run: another process works in {tmp_path}; wait"),
            locked(tmp_path, "run"),
        ):
            raise AssertionError("it was held")
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with locked(tmp_path), locked(tmp_path / "." / ""):
        pass
    with locked(tmp_path):
        pass


def test_temporary_files_of_a_kill_are_swept_but_those_of_a_folder_with_its_own_lock(
    tmp_path: Path,
) -> None:
    left = [tmp_path / f".{'0a' * 8}.tmp", tmp_path / "fits" / f".{'1b' * 8}.tmp"]
    kept = [tmp_path / "mine.tmp", tmp_path / ".vimrc.tmp", tmp_path / "t" / f".{'2c' * 8}.tmp"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".lock").touch()
    (tmp_path / "fits").mkdir()
    for path in left + kept:
        path.write_bytes(b"half")
    with locked(tmp_path):
        assert [path.exists() for path in left + kept] == [False, False, True, True, True]
        left[0].write_bytes(b"being written")
        with locked(tmp_path):
            assert left[0].exists()


def test_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
        write_file(tmp_path / "b", b"")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_is_an_error_of_one_line_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")

    def fail(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(arrays, "save_file", fail)
    with pytest.raises(OSError, match=r"a\.safetensors") as failure:
        save_arrays(tmp_path / "a", {"x": torch.ones(2)}, {}, kind="test")
    assert failure.value.errno == code and "\n" not in str(failure.value)
    assert not list(tmp_path.glob(".*.tmp"))
    monkeypatch.undo()

    def flush(path: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "_flush", flush)
    with pytest.raises(OSError, match=r"b\.json") as failure:
        write_file(tmp_path / "b.json", b"{}")
    assert failure.value.errno == code and not (tmp_path / "b.json").exists()


def test_a_file_that_grows_too_large_inside_safetensors_is_told_in_one_line(tmp_path: Path) -> None:
    before, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"a\.safetensors") as failure:
            save_arrays(tmp_path / "a", {"x": torch.zeros(9000)}, {}, kind="test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(failure.value) == f"[Errno {errno.EFBIG}] File too large: '{tmp_path}/a.safetensors'"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "I/O error: No space left (os error 28)",
        'IoError(Os { code: 28, kind: StorageFull, message: "" })',
    ],
)
def test_every_release_of_safetensors_is_understood(tmp_path: Path, text: str) -> None:
    def write(path: Path) -> None:
        raise SafetensorError(f"Error while serializing: {text}")

    with pytest.raises(OSError, match=r"No space left on device: '.*a'$") as failure:
        replace_file(tmp_path / "a", write)
    assert failure.value.errno == errno.ENOSPC


def test_a_failure_without_a_number_keeps_its_words(tmp_path: Path) -> None:
    def of_safetensors(path: Path) -> None:
        raise SafetensorError("header too large")

    def bare(path: Path) -> None:
        raise OSError("no number")

    with pytest.raises(OSError, match=r"a cannot be written: header too large"):
        replace_file(tmp_path / "a", of_safetensors)
    with pytest.raises(OSError, match=r"^no number$"):
        replace_file(tmp_path / "a", bare)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_warned_of_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = errno.ENOLCK

    def acquire(self: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.FileLock, "acquire", acquire)
    with locked(tmp_path):
        write_file(tmp_path / "a", b"written")
    assert f"{tmp_path} cannot be locked here" in caplog.text
    code = errno.EACCES
    with pytest.raises(PermissionError), locked(tmp_path):
        raise AssertionError("not reached")


def test_a_folder_that_cannot_be_made_names_who_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match="is a file, or lies below one; name a folder"):
            locked(tmp_path / place, "a").__enter__()


def test_a_pipe_in_place_of_a_result_is_not_waited_for(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
    for suffix in ("safetensors", "json"):
        file = tmp_path / f"a.{suffix}"
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(arrays.StoreError, match=f"a.{suffix}"):
            load_arrays(tmp_path / "a")
        file.unlink()
        save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
