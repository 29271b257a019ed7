"""Files that are replaced whole or not at all, and folders in which one process works at a time."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from emergence_ext import parallel

__all__ = ["locked", "replace_file", "write_file"]

logger = logging.getLogger(__name__)

LOCK: Final = ".lock"
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{16}\.tmp")
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # of some network file systems


def write_file(path: Path | str, content: bytes) -> None:
    """Replace a file whole or not at all: temporary name, flush, rename.

    Raises:
        OSError: it cannot be written, a full disk among the reasons; names the file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import store
        >>> store.write_file("note.txt", b"whole or not at all")
        >>> Path("note.txt").read_bytes()
        b'whole or not at all'
    """
    replace_file(Path(path), lambda temporary: temporary.write_bytes(content))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Replace a file by what `write` puts into the temporary one that it is given.

    Raises:
        OSError: it cannot be written; names the file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import store
        >>> store.replace_file(Path("note.txt"), lambda temporary: temporary.write_text("whole"))
        >>> Path("note.txt").read_text()
        'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the name: names may already be as long as the file system allows.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # the umask's; safetensors writes 0600
        write(temporary)
        temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent)
    except SafetensorError as error:
        # The cause is in the text alone: "No space left on device (os error 28)", or in older
        # releases "Os { code: 28, ...".
        number = re.search(r"(?:os error |Os \{ code: )(\d+)", str(error))
        if number is None:
            raise OSError(f"{path} cannot be written: {error}") from error
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path | str, what: str = "out") -> Iterator[None]:
    """Hold a folder for writing; a process that died holds none, and a thread may hold it twice.

    Temporary files that a killed process left in it are removed, but for folders below that have a
    lock of their own. In a job of several processes the first holds it for all of them.

    Args:
        folder: made if it is not there.
        what: the argument or option that named it, for the error.

    Raises:
        ValueError: it is a file, or lies below one.
        RuntimeError: another process holds it.
        OSError: it cannot be made or written.

    Examples:
        >>> from emergence_ext import store
        >>> with store.locked("out"):
        ...     store.write_file("out/note.txt", b"written by one process at a time")
        ...
    """
    folder = Path(folder)
    if not parallel.leads():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{what}: {folder} is a file, or lies below one; name a folder") from None
    except PermissionError as error:
        raise PermissionError(
            f"{what}: {folder} cannot be made ({error.strerror}); choose another"
        ) from error
    lock = FileLock(folder.resolve() / LOCK, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"{what}: another process works in {folder}; wait for it or choose another"
        ) from None
    except OSError as error:
        if isinstance(error, PermissionError):
            raise PermissionError(
                f"{what}: {folder} cannot be written ({error.strerror}); choose another"
            ) from error
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s cannot be locked here (%s): let one process work in it", folder, error)
        yield
        return
    try:
        if lock.lock_counter == 1:
            _sweep(folder)
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Remove the temporary files of a killed process."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, LOCK).exists()]
        for name in filter(_TEMPORARY.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
