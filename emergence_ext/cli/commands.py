"""The app, and how a command is added to it: in which group it is listed, and what all take."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from emergence_ext.cli.terminal import echo, leads, log_to_terminal

_Function = TypeVar("_Function", bound=Callable[..., None])

GROUPS: Final = {
    "Start": ("demo", "doctor"),
    "Analyse a network": ("train", "plan", "run"),
    "Read a run": ("open", "report", "compare", "apply", "animate", "export", "verify"),
    "Experiments of the paper": (
        "reproduce", "tables", "controls", "attack", "shapley", "distill", "foreground",
    ),
    "Look inside": ("look", "mindseye"),
}  # fmt: skip
"""Group -> its commands, both in the order of use, as `emergence --help` lists them."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells give it: 128 and the number of the signal."""


class Listed(TyperGroup):
    """Lists the commands under the names of their groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group."""
        width = max(map(len, self.commands))
        for group, names in GROUPS.items():
            with formatter.section(group):
                helps = [(n, self.commands[n].get_short_help_str(limit=1000)) for n in names]
                formatter.write_dl([(name.ljust(width), text) for name, text in helps])


class Quoting(TyperCommand):
    """Asks, of words that are too many, whether the shell made them of a pattern."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line."""
        given = {"--checkpoints", "--data"} & set(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's; which click typer brings is typer's matter
            said = getattr(error, "message", None)
            if isinstance(said, str) and "unexpected extra argument" in said and given:
                option = min(given)
                error.message = f"{said}. Is the pattern in quotes, as {option} 'x/*'?"  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    cls=Listed,
    rich_markup_mode=None,  # to load rich takes longer than everything else about --help
    help="See what a network has learned: where in the image, in which layer, when in training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

asked: ContextVar[str | None] = ContextVar("asked", default=None)
"""The command that was called."""


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Everything, tracebacks included.")]
_LOGGED: Final = {"quiet": Quiet, "verbose": Verbose}


def command(name: str | None = None, *, goes_on: bool = False) -> Callable[[_Function], _Function]:
    """Make a function a command, which takes -q and -v as `emergence` itself does.

    Args:
        name: of the command; None: the function's.
        goes_on: whether, called again after an interrupt, it goes on from what is kept.
    """

    def add(function: _Function) -> _Function:
        @wraps(function)
        def called(**kwargs: Any) -> None:
            if kwargs["quiet"]:
                log_to_terminal(logging.ERROR)
            elif kwargs["verbose"]:
                log_to_terminal(logging.DEBUG)
            given = {name: value for name, value in kwargs.items() if name not in _LOGGED}
            try:
                function(**given)
            except KeyboardInterrupt:
                if sys.stderr.isatty():
                    echo("", err=True)  # the terminal wrote ^C into a line, or behind a bar
                if leads():
                    echo("stopped; run again to go on" if goes_on else "stopped", err=True)
                raise typer.Exit(INTERRUPTED) from None

        hints = get_type_hints(function, include_extras=True) | _LOGGED
        flag = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(function).parameters.values()
        logged = [inspect.Parameter(name, flag, default=False) for name in _LOGGED]
        vars(called)["__signature__"] = inspect.Signature(
            [x.replace(annotation=hints[x.name]) for x in (*own, *logged)]
        )
        called.__annotations__ = hints
        app.command(name, cls=Quoting)(called)
        return function

    return add
