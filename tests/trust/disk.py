"""Trouble at the n-th time that a program changes a disk: killed there, or told that it cannot."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

Trouble = Literal["kill", "interrupt", "terminate", "no space", "input/output error"]


class Changes:
    """Counts what changes a disk, and makes trouble at one of them.

    Args:
        at: the number of the change, from 0 on; -1 for none.
        trouble: what happens there, instead of the change.
    """

    def __init__(self, at: int, trouble: Trouble) -> None:
        self.at, self.trouble, self.count = at, trouble, 0

    def happened(self) -> None:
        """Count one, and make trouble if it is the one."""
        number, self.count = self.count, self.count + 1
        if number != self.at:
            return
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.trouble == "terminate":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.trouble == "interrupt":
            raise KeyboardInterrupt
        else:
            number = errno.ENOSPC if self.trouble == "no space" else errno.EIO
            raise OSError(number, os.strerror(number))

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function that changes a disk."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.happened()
            return function(*args, **kwargs)

        return counted

    def opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `open`, which changes a disk in modes that write."""

        def counted(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wax+") and not isinstance(file, int):
                self.happened()
            return function(file, mode, *args, **kwargs)

        return counted


@contextmanager
def trouble(at: int, kind: Trouble) -> Iterator[Changes]:
    """Have trouble at one of the changes within the block, made through Python or safetensors."""
    from emergence_ext.store import arrays

    changes = Changes(at, kind)
    with (
        mock.patch.object(os, "replace", changes.before(os.replace)),
        mock.patch.object(os, "rename", changes.before(os.rename)),
        mock.patch.object(os, "unlink", changes.before(os.unlink)),
        mock.patch.object(os, "mkdir", changes.before(os.mkdir)),
        mock.patch.object(os, "fsync", changes.before(os.fsync)),
        mock.patch.object(io, "open", changes.opening(io.open)),
        mock.patch.object(builtins, "open", changes.opening(builtins.open)),
        mock.patch.object(arrays, "save_file", changes.before(arrays.save_file)),
    ):
        yield changes
