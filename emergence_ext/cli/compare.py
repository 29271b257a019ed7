"""The command that compares two runs, or two checkpoints of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import app, reported, subject_of, with_interval

if TYPE_CHECKING:
    from emergence_ext.method import Interval
    from emergence_ext.run import Emergence

_Name = Annotated[str, typer.Argument(help="A run directory, or RUN_DIR@CHECKPOINT.")]


@app.command()
def compare(a: _Name, b: _Name) -> None:
    """Say what moved from A to B: two runs of the same regions, or two checkpoints of one.

    Tables and figures go into compare/ of A.

    Example: emergence compare runs/demo@epoch1 runs/demo@epoch8
    """
    with reported():
        from emergence_ext.report import drawing, tables
        from emergence_ext.run import FinishedRun, file_name
        from emergence_ext.studies import compare as study

        folders, labels = zip(*map(split_name, (a, b)), strict=True)
        runs = [FinishedRun.open(folder) for folder in folders]
        places = [
            find_checkpoint(run.found, label) for run, label in zip(runs, labels, strict=True)
        ]
        if places[0] == places[1] and folders[0].resolve() == folders[1].resolve():
            label = runs[0].found.labels[places[0]]
            raise ValueError(
                f"compare: A and B are both {label!r} of {folders[0]}, so nothing moved; give two "
                "runs, or RUN_DIR@CHECKPOINT twice"
            )
        names = _names(folders, [r.found.labels[t] for r, t in zip(runs, places, strict=True)])
        found = study.compare(runs[0].found, runs[1].found, *places, names=names)
        rows = study.differences(found)
        out = folders[0] / "compare" / file_name(" to ".join(names))
        found.save(out / "compare")
        for name, table in (
            ("differences", tables.differences(rows)),
            ("regions", tables.moved_regions(found)),
            ("images", tables.moved_images(found)),
            ("frames", tables.frames(found)),
        ):
            tables.write(out / "tables" / f"{name}.csv", table)
        drawn = drawing.draw_comparison(out / "figures", found, rows, subject_of(runs[0]))
        images = int(found.held_out.sum())
        typer.echo(f"from {names[0]} to {names[1]}, {images} held-out images, 95 % intervals")
        for line in study.comparable(found):
            typer.echo(line)
        for row in rows:
            if row.category is None:
                reweighed = _told(row.reweighed) if row.reweighed else "in no image of both"
                typer.echo(
                    f"{row.layer}: 1 - cos {_told(row.turned)}, |h| {_told(row.stronger)}, "
                    f"reliable points of an image {_told(row.reliable)}, w moved {reweighed}"
                )
        typer.echo(f"wrote 4 tables and {len(drawn)} figures")
        typer.echo(out)


def split_name(text: str) -> tuple[Path, str | None]:
    """Take `RUN_DIR@CHECKPOINT` apart; None without a checkpoint, or where it is part of a folder.

    Raises:
        ValueError: nothing before or after the @.
    """
    if "@" not in text or Path(text).is_dir():
        return Path(text), None
    folder, _, label = text.rpartition("@")
    if not folder or not label:
        raise ValueError(f"compare: expected RUN_DIR or RUN_DIR@CHECKPOINT, got {text!r}")
    return Path(folder), label


def find_checkpoint(found: Emergence, label: str | None) -> int:
    """Return the place of a checkpoint by its label, with or without its spaces, or by its epoch.

    Args:
        found: of the run.
        label: as "epoch 3", "epoch3" or "3"; None for the last checkpoint.

    Raises:
        ValueError: no such checkpoint, or several.
    """
    if label is None:
        return len(found.labels) - 1
    if label in found.labels:
        return found.labels.index(label)

    def plain(text: str) -> str:
        return re.sub(r"[\W_]+", "", text).lower()

    places = [t for t, name in enumerate(found.labels) if plain(name) == plain(label)]
    if not places and label.strip().isdigit():
        places = [t for t, epoch in enumerate(found.epochs) if epoch == int(label)]
    if len(places) != 1:
        raise ValueError(
            f"compare: {'several' if places else 'no'} checkpoints {label!r}; there are "
            f"{', '.join(found.labels)}"
        )
    return places[0]


def _names(folders: tuple[Path, ...], labels: list[str]) -> tuple[str, str]:
    """Call checkpoints of one run by their labels, others by their run too."""
    if folders[0].resolve() == folders[1].resolve():
        return labels[0], labels[1]
    first, second = (
        f"{folder.resolve().name} {label}" for folder, label in zip(folders, labels, strict=True)
    )
    if first == second:
        first, second = (
            f"{folder.resolve()} {label}" for folder, label in zip(folders, labels, strict=True)
        )
    return first, second


def _told(x: Interval) -> str:
    if x.value != x.value:
        return "undefined"
    return with_interval(x.value, x.low, x.high, "+.2f")
