"""All that commands write to the terminal: no name in it commands it or begins a line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType

import typer

from emergence_ext.names import printable


def echo(message: object, *, err: bool = False) -> None:
    """Print one line, of which names may be a part; of the processes of a job the first does."""
    if not err and not leads():
        return
    typer.echo(printable(message), err=err)


def closing(path: Path) -> None:
    """Print the last line of a command: where to look, or what was written."""
    path = path.resolve()
    echo(f"Report: {path.as_uri()}" if path.suffix == ".html" else f"Written to: {path}")


def echo_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines."""
    typer.echo(_lines(text), err=err)


def log_to_terminal(level: int) -> None:
    """Send what is logged, warned of, or raised and not caught to standard error, made printable.

    Args:
        level: of the package's own messages.
    """
    if not leads():
        level = logging.ERROR
        warnings.simplefilter("ignore")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING if leads() else logging.ERROR, handlers=[handler])
    logging.getLogger("emergence_ext").setLevel(level)
    warnings.formatwarning = _warning
    sys.excepthook = _show


def leads() -> bool:
    """Whether this is the process that prints, of those that torchrun started."""
    return processes() == 1 or os.environ["RANK"] == "0"


def processes() -> int:
    """How many torchrun started: as `parallel.launched`, without torch, which takes seconds."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


class _Printable(logging.Formatter):
    """A message on one line, and the lines of its traceback if it has one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return _lines(super().format(record))


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: object = None
) -> str:
    return f"{printable(filename)}:{lineno}: {category.__name__}: {printable(message)}\n"


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    echo_lines("".join(traceback.format_exception(kind, error, trace)), err=True)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
