"""What commands share: the app, options, and how errors are told."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from emergence_ext import __version__
from emergence_ext.store import StoreError

if TYPE_CHECKING:
    from emergence_ext.studies.finished import FinishedRun
    from emergence_ext.subject import Subject

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="See what a network has learned: where in the image, in which layer, when in training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="Directory for everything that is written.")]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="A folder of images: one folder per category, or train/ and val/ of them."
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="small_vgg28, small_vgg64, vgg16_pooled, torchvision:NAME, timm:NAME or "
        "module:callable.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Weights: .safetensors, or tensors saved by torch.save."),
]
Size = Annotated[int, typer.Option("--size", help="Side of the images in pixels.")]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess", help="auto, none, imagenet, caffe, inception, clip, or module:callable."
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", help="float32 or bfloat16, of the network's forward pass.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Everything, tracebacks included.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Settle what is logged, before any command."""
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(
        format="%(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr
    )
    logging.getLogger("emergence_ext").setLevel(level)


def numbers(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    """Read numbers with commas between; an error names the option."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}: expected numbers with commas between, got {text!r}") from None


def device_name(name: str) -> str:
    """Settle what --device means here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: there is no CUDA device here; use --device cpu")
    return str(device)


def command_line() -> str:
    """Give the command as it was called."""
    return shlex.join(["emergence", *sys.argv[1:]])


def subject_of(run: FinishedRun) -> Subject | None:
    """Load the network and images of a run; None, and why, where figures have to do without."""
    try:
        return run.subject()
    except (ValueError, ImportError, OSError) as error:
        logger.warning("images are left out: %s", error)
        return None


def update_report(run_dir: Path) -> None:
    """Put what was written beside a run into its report; where that cannot be, say why."""
    from emergence_ext.report import write_report

    try:
        typer.echo(write_report(run_dir))
    except (ValueError, ImportError, OSError) as error:
        logger.warning("the report is left as it was: %s", error)


@contextmanager
def reported() -> Iterator[None]:
    """Errors as one line and an exit status: 2 for wrong use, 1 for a failure."""
    verbose = logging.getLogger("emergence_ext").level == logging.DEBUG
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, MemoryError) as error:
        if verbose:
            raise
        misuse = isinstance(error, ValueError | TypeError | ImportError | FileNotFoundError)
        misuse = misuse and not isinstance(error, StoreError)
        kind = "" if misuse else f"{type(error).__name__}: "
        typer.echo(f"error: {kind}{error}", err=True)
        raise typer.Exit(2 if misuse else 1) from None
