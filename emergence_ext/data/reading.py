"""Read files that people name: what is no file is refused, what fails for the machine is retried.

A full table of file handles, a network drive that is away or a lack of memory says nothing about
the file: it is tried again, and then the work stops, as an image left out would change the result.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from emergence_ext.lookup import path_named

__all__ = ["is_trouble", "patiently", "read_bytes", "require_file"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS: Final = (0.05, 0.2, 1.0)
"""Seconds before each further attempt."""

TROUBLE: Final = frozenset(
    getattr(errno, name)
    for name in (
        "EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "EAGAIN", "EBUSY", "EINTR", "ENOBUFS",
        "ENOLCK", "ENODEV", "EREMOTEIO", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED",
        "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
        "ESHUTDOWN", "EKEYEXPIRED", "EPROTO",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Of the machine, its disks and its network: the same file can be read at another time."""

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_trouble(error: BaseException) -> bool:
    """Say whether an error is the machine's and not the file's."""
    if isinstance(error, OSError) and error.errno is None:
        # Pillow's text for a decoder that was given no memory.
        return str(error).startswith("out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in TROUBLE)


def patiently(read: Callable[[], T], path: Path | str) -> T:
    """Read, and read again after a moment while the machine is in trouble.

    Args:
        read: what reads.
        path: what it reads, for the error.

    Raises:
        OSError: the machine stays in trouble; with its `errno`.
        MemoryError: it has no memory for that.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except (OSError, MemoryError) as error:
            if not is_trouble(error):
                raise
            if wait is None:
                raise _told(error, path) from error
            logger.debug("%s: %s; trying again in %g s", path, error, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def require_file(path: Path | str, argument: str = "") -> None:
    """Refuse what is no regular file: a pipe would be waited for, a device read for ever.

    Args:
        path: the file, or a link to one.
        argument: what to call it in an error.

    Raises:
        ValueError: a folder, pipe, socket or device.
        FileNotFoundError: nothing there.
    """
    start = f"{argument}: " if argument else ""
    path = path_named(path, argument or "path")
    try:
        mode = patiently(path.stat, path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{start}no file {path}") from None
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise ValueError(f"{start}{path} is {kind}, expected a file")


def read_bytes(path: Path | str, argument: str) -> bytes:
    """Return what is in a regular file.

    Raises:
        ValueError: a folder, pipe, socket or device.
        FileNotFoundError: no such file.
        OSError: it cannot be read.
    """
    path = path_named(path, argument)
    require_file(path, argument)
    return patiently(path.read_bytes, path)


def _told(error: OSError | MemoryError, path: Path | str) -> OSError | MemoryError:
    if isinstance(error, MemoryError) or error.errno in (None, errno.ENOMEM):
        return MemoryError(
            f"no memory is left to read {path}; it is no damaged file, so it is not left out: "
            "close other programs, and start again"
        )
    return OSError(
        error.errno,
        f"{os.strerror(error.errno)}, again and again; the file may be sound, so it is not left "
        "out: see to the disk, the network or the limit of open files, and start again",
        str(path),
    )
