"""What commands share: the app, options, and how errors are told."""

from __future__ import annotations

import errno
import logging
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from emergence_ext import __version__, settings
from emergence_ext.cli.commands import Quiet, Verbose, app, asked
from emergence_ext.cli.terminal import echo, leads, log_to_terminal, processes
from emergence_ext.lookup import UserCodeError, device_named, needed, told, user_place
from emergence_ext.settings import words

if TYPE_CHECKING:
    from emergence_ext.method import Interval

logger = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds after which a process that does not lead tells its error. One that they all meet is told
by the first of them, and torchrun ends the others meanwhile."""

RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="What `emergence run --out` wrote.")
]
RunDirs = Annotated[
    list[Path], typer.Argument(metavar="RUN_DIR", help="What `emergence run --out` wrote.")
]
Out = Annotated[Path, typer.Option("--out", help="Directory for everything that is written.")]

_data = typer.Option(
    "--data",
    help="A folder of images: one folder per category, or splits of them (train/, val/, test/); or "
    "WebDataset's tar files, as 'shards/{000..009}.tar'; or images that need no folder: "
    f"{words(settings.ShippedImages)}.",
)
Data = Annotated[Path, _data]
DataOrRun = Annotated[Path | None, _data]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split of the images to take: train, val, test, or its folder; default: val, else "
        "test.",
    ),
]
_model_name = typer.Option(
    "--model",
    help=f"{words(settings.BuiltinModel)}, torchvision:NAME, timm:NAME, hf:NAME or "
    "module:callable.",
)
ModelName = Annotated[str, _model_name]
ModelOrRun = Annotated[str | None, _model_name]
"""None where a run stands for images and network."""
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Weights: .safetensors, or tensors saved by torch.save; DEFAULT: those that "
        "torchvision or timm publish, from their cache.",
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option("--checkpoints", help="Pattern of files, as 'runs/x/epoch_*.safetensors'."),
]
Layers = Annotated[
    str | None,
    typer.Option("--layers", help="Layers by dotted or the paper's names, comma between."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        help="Key, field or index of the logits, where the network gives more than those.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Side of the images in pixels; default: that of the training, where the weights say "
        "it, that which the network is published for, or else 224 (64 to train).",
    ),
]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help=f"auto, {words(settings.Preprocessing)}, module:callable, or MEANS/DEVIATIONS.",
    ),
]
ClassMap = Annotated[
    Path | None,
    typer.Option(
        "--class-map",
        help="Which column of the output each folder is: JSON, CSV, or the outputs' names by line.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help=f"{words(settings.Precision)}, of the network's forward pass; float32 where "
        "the hardware has no such products.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Settle what is logged, before any command."""
    asked.set(context.invoked_subcommand)
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    log_to_terminal(level)
    if processes() > 1 and context.invoked_subcommand not in ("run", "plan"):
        with reported():
            raise ValueError(
                f"torchrun started {processes()} processes, and emergence run alone is shared "
                f"among them: call {context.invoked_subcommand} without torchrun"
            )


def numbers(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    """Read finite numbers with commas between; an error names the option."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: expected numbers with commas between, got {text!r}")
    return values


def as_text(path: Path | None) -> str | None:
    """Give a path as settings hold it."""
    return None if path is None else str(path)


def existing(**given: Path | None) -> dict[str, Path]:
    """Return the files that are given, all there; an error names the option."""
    files = {name: path for name, path in given.items() if path is not None}
    for name, path in files.items():
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no file {path}")
    return files


def device_name(name: str) -> str:
    """Settle what --device means here."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(device_named(name))


def with_interval(x: Interval | None, form: str) -> str:
    """Write a number with the ends of its interval; one of a single image has none."""
    if x is None or math.isnan(x.value):
        return "undefined"
    ends = f" ({x.low:{form}} to {x.high:{form}})"
    return f"{x.value:{form}}{'' if math.isnan(x.low) else ends}"


def command_line() -> str:
    """Give the command as it was called."""
    return shlex.join(["emergence", *sys.argv[1:]])


@contextmanager
def reported() -> Iterator[None]:
    """Errors as one line and an exit status: 2 for wrong use, 1 for a failure.

    What code of the user's raises is wrong use, too. A mistake of this package alone has its
    traceback, as all have with --verbose.
    """
    verbose = logging.getLogger("emergence_ext").level == logging.DEBUG
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, SystemExit) as error:
        line = None if verbose else _line(error)
        if line is None:
            raise
        if not leads():
            time.sleep(PATIENCE)
        echo(f"error: {line.text}", err=True)
        raise typer.Exit(line.status) from None


_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota
"""What systems say of a full disk."""


class _Line(NamedTuple):
    text: str
    status: int


def _line(error: BaseException) -> _Line | None:
    """What an error is told as; None for a mistake of this package."""
    missing = needed(error)
    if missing:
        return _Line(missing, 2)
    from emergence_ext.store import StoreError

    misuse = isinstance(error, ValueError | TypeError | ImportError | FileNotFoundError)
    misuse = misuse and not isinstance(error, StoreError)
    name = type(error).__name__
    if isinstance(error, UserCodeError):
        advice = in_options(error.advice)
        text = f"{error.text}. {advice}" if advice else error.text
    elif misuse:
        text = in_options(str(error))
    elif isinstance(error, MemoryError):
        said = f"{name}: {error}" if str(error) else name
        text = f"{said}. There is not enough memory: take smaller images, or fewer"
    elif isinstance(error, OSError) and error.errno in _FULL:
        text = f"{name}: {error}. Make room there, and give the same command again: what is "
        text += "finished is kept"
    elif isinstance(error, StoreError | OSError | RuntimeError):
        # What this package says begins with an argument, and needs no name of a class.
        ours = type(error) in (RuntimeError, StoreError) and re.match(r"[a-z_]+: ", str(error))
        said = in_options(str(error).removeprefix("path: "))  # which says the file itself
        text = said if ours else f"{name}: {said}"
    elif user_place(error):
        misuse, text = True, told(error)
    else:
        return None
    return _Line(" ".join(text.split()), 2 if misuse else 1)


_OTHERWISE: Final = {
    "random_state": "seed",
    "outputs": "class_map",
    "root": "data",
    "module": "model",
    "layers": "layer",
    "images": "data",
    "checkpoints": "keep",
}
"""Arguments that the command line calls something else."""


def in_options(text: str, command: str | None = None) -> str:
    """Give an error's text the names of the command's options for those of arguments.

    An argument stands at the beginning, before a colon or "must", or between backticks. A sentence
    that names one that is no option of the command is left out, unless the text begins with it and
    names its argument. A symbol in that place, as `z`, is left out.

    Args:
        text: as a function raises it.
        command: name of the command; None: the one that was called.
    """
    options = _options(asked.get() if command is None else command)
    head = re.match(r"[a-z_]+(?=: | must )", text)
    if head and head[0] in options:
        text = options[head[0]] + text[head.end() :]
    elif head and len(head[0]) == 1:  # a symbol of the method, which nobody gave on a command line
        text = text[head.end() :].removeprefix(": ")
    kept = []
    for place, sentence in enumerate(re.split(r"(?<=[.!?]) +(?=[A-Z`])", text)):
        named = re.findall(r"`([a-z_]+)`", sentence)
        if (head and not place) or all(name in options for name in named):
            kept.append(re.sub(r"`([a-z_]+)`", lambda m: options.get(m[1], m[1]), sentence))
    return " ".join(kept)


def _options(command: str | None) -> dict[str, str]:
    """Name of an argument -> the option of a command that sets it."""
    group: Any = typer.main.get_command(app)
    parameters = group.commands[command].params if command in group.commands else []
    options = {x.name: x.opts[-1] for x in parameters if x.opts[-1].startswith("--")}
    return {name: options[own] for name, own in _OTHERWISE.items() if own in options} | options
