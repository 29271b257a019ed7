"""What the proofs of the ways to match on a GPU found, kept from one process to the next.

A file for each device and way in the user's cache folder, named by all that it holds for: a GPU, a
driver, a torch or a library that is another one finds nothing and is proved anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no POSIX: then two processes may prove at once, and the last one is kept
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Verdict:
    """What the proof of a way found on a device.

    Attributes:
        reason: why the way is not taken, in one line; empty where it is.
        date: when, as YYYY-MM-DD.
        milliseconds: what the slowest of its problems, beside plain torch, took; None where the
            proof did not come so far.
        plain: what plain torch took for the same problem.
    """

    reason: str
    date: str
    milliseconds: float | None = None
    plain: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the ops take the way there."""
        return not self.reason


class Verdicts:
    """Verdicts on disk.

    Args:
        folder: made when something is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, key: Mapping[str, str]) -> Verdict | None:
        """The verdict of a key; None where there is none, or none that can be read."""
        if self.folder is None:
            return None
        try:
            kept = json.loads(self._file(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return _verdict(kept.get("verdict")) if _is_of(kept, key) else None

    def keep(self, key: Mapping[str, str], verdict: Verdict) -> str | None:
        """Write a verdict whole or not at all; say why where that fails, in one line."""
        if self.folder is None:
            return "there is no cache folder"
        file = self._file(key)
        temporary = file.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"key": dict(key), "verdict": asdict(verdict)}, indent=1)
            temporary.write_text(text)
            temporary.replace(file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return f"{self.folder} cannot be written: {error.strerror or error}"
        return None

    @contextmanager
    def alone(self, key: Mapping[str, str], seconds: float) -> Iterator[None]:
        """Let one process at a time prove a key; the others wait so long and then go on."""
        file = None
        if self.folder is not None and fcntl is not None:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                file = self._file(key).with_suffix(".lock").open("w")
        if file is None:
            yield
            return
        with file:  # closed, it is free, however the process ends
            until = time.monotonic() + seconds
            while not _locked(file.fileno()) and time.monotonic() < until:
                time.sleep(0.1)
            yield

    def _file(self, key: Mapping[str, str]) -> Path:
        assert self.folder is not None
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"gpu-{digest[:32]}.json"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The user's cache folder of this package; None where the user has no home."""
    if (named := environment.get("XDG_CACHE_HOME")) and Path(named).is_absolute():
        return Path(named) / "emergence_ext"
    try:
        return Path.home() / ".cache" / "emergence_ext"
    except RuntimeError:
        return None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _is_of(kept: Any, key: Mapping[str, str]) -> bool:
    return isinstance(kept, dict) and kept.get("key") == dict(key)


def _verdict(given: Any) -> Verdict | None:
    """A verdict from what a file holds; None where it is no verdict."""
    if not isinstance(given, dict) or given.keys() != {each.name for each in fields(Verdict)}:
        return None
    words = all(isinstance(given[name], str) for name in ("reason", "date"))
    numbers = all(isinstance(given[name], float | None) for name in ("milliseconds", "plain"))
    return Verdict(**given) if words and numbers else None
