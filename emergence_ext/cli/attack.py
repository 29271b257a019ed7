"""The command `attack`: what an adversarial attack does to regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from emergence_ext.cli.common import (
    Device,
    RunDir,
    Seed,
    app,
    device_name,
    reported,
    update_report,
    without_old,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from emergence_ext.figures import Band
    from emergence_ext.method import Interval
    from emergence_ext.report.tables import Row
    from emergence_ext.studies.attacked import Attack


@app.command()
def attack(
    run_dir: RunDir,
    eps: Annotated[
        float,
        typer.Option(
            help="Most that a pixel in 0..1 may change; default: 1/255.", show_default=False
        ),
    ] = 1 / 255,
    step: Annotated[
        float | None, typer.Option(help="Change of a pixel in a step; default: a tenth of eps.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 20,
    images: Annotated[
        str, typer.Option(help="held-out, all, or a number: so many of the held-out ones.")
    ] = "held-out",
    tau: Annotated[
        float | None, typer.Option(help="Threshold of important regions; default: the run's.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Attack a run's network by PGD and follow its regions: what changes, in which layer.

    Images that are right before and wrong after are followed (the paper's Fig. 7, 8, 15). Tables
    and figures go into attack/ of the run, in place of an earlier attack's, and into its report.

    Example: emergence attack runs/demo --eps 0.1
    """
    with reported():
        from emergence_ext.report import drawing, tables
        from emergence_ext.run import FinishedRun
        from emergence_ext.studies.attack import AttackSettings
        from emergence_ext.studies.attack import attack as run_attack

        settings = AttackSettings(eps, step, steps, tau, images, seed)
        run = FinishedRun.open(run_dir)
        result = run_attack(run.subject(device_name(device)), run.found, run.learned(), settings)
        out = without_old(run_dir / "attack")
        result.save(out / "attack")
        rate = result.success()
        typer.echo(
            f"{len(result.astray)} of {len(result.names)} images that were right are wrong after "
            f"the attack: {rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
        )
        if len(result.astray):
            for name, draw in _figures(result).items():
                drawing.save(draw(), out / "figures" / name)
        else:
            typer.echo(
                f"no adversarial success: the network withstands eps = {255 * eps:g}/255 in "
                f"{steps} steps, so there are no regions to compare and no figures. Give a larger "
                "--eps or more --steps.",
                err=True,
            )
        for name, table in _tables(result).items():
            tables.write(out / "tables" / f"{name}.csv", table)
        update_report(run_dir)
        typer.echo(out)


def _tables(a: Attack) -> dict[str, list[Row]]:
    """Tables of what was attacked and, where an image was led astray, of its regions."""
    from emergence_ext.report import tables

    rows = {"success": tables.attack_success(a), "images": tables.attack_images(a)}
    if len(a.astray):
        rows |= {
            "points": tables.attack_points(a),
            "changes": tables.attack_changes(a),
            "types": tables.attack_types(a),
            "utility": tables.attack_utility(a),
        }
    return rows


def _figures(a: Attack) -> dict[str, Callable[[], Figure]]:
    """Draw what there is to see of an attack that succeeded; what is left out is told."""
    from emergence_ext import figures
    from emergence_ext.studies.attacked import TYPE_TAU, TYPES

    layers, mu = range(len(a.layers)), a.frame.directions
    shown = a.images.shape[1]
    before, after = a.original[:shown], a.adversarial[:shown]
    p = a.p[:, :, -1, :shown]
    important = (p > a.tau).flatten(0, 1).any(0)
    utility = [a.utility(k) for k in layers]
    drawn: dict[str, Callable[[], Figure]] = {
        "curves": lambda: figures.attack_curves(
            _band([[a.important(k, 0, state) for k in layers] for state in (0, 1)]),
            _band([[a.important(k, 1, state) for k in layers] for state in (0, 1)]),
            _band([
                [a.cosine(k) for k in layers],
                [a.strength(k) for k in layers],
                [a.strength(k, relative=True) for k in layers],
            ]),
            _band([[a.of_type(k, kind) for k in layers] for kind in range(1, len(TYPES))]),
            a.layers,
            tau=a.tau,
        ),
        "utility": lambda: figures.attack_utility(utility, a.layers, tau=a.tau),
        "images": lambda: figures.attack_images(
            a.images, p, before, after, a.grid, a.categories, eps=a.eps, tau=a.tau
        ),
        "paths": lambda: figures.attack_paths(
            a.path[:, -1], important, before, after, mu, a.categories
        ),
        "types": lambda: figures.attack_types(
            a.typed_path, a.typed_p, a.typed[:, 0], a.original[a.typed[:, 1]],
            a.adversarial[a.typed[:, 1]], mu, a.categories, tau=TYPE_TAU,
        ),
    }  # fmt: skip
    left_out = {}
    if not any(len(x) for x in utility):
        left_out["utility"] = f"no region has p(c_adv | h_adv) > {a.tau:g} in any layer"
    if not bool(important.any()):
        left_out["paths"] = f"no region of the images shown has p > {a.tau:g} in {a.layers[-1]}"
    if not len(a.typed):
        left_out["types"] = f"in {a.layers[-1]} every region is of the type unchanged"
    if a.frame.dim > 3:
        left_out |= dict.fromkeys(("paths", "types"), f"dim = {a.frame.dim} cannot be drawn")
    if not bool((a.p > a.tau).any()):
        typer.echo(
            f"no knowledge points at all: no region has p > {a.tau:g} for the category before or "
            "after, in any layer; lower --tau",
            err=True,
        )
    for name, reason in left_out.items():
        typer.echo(f"no figure {name}: {reason}", err=True)
    return {name: draw for name, draw in drawn.items() if name not in left_out}


def _band(rows: Sequence[Sequence[Interval | None]]) -> Band:
    """Values and the ends of their intervals, `[rows, columns]`; NaN where there is none."""
    from emergence_ext.figures import Band

    nan = float("nan")
    return Band(
        *(
            [[nan if x is None else getattr(x, end) for x in row] for row in rows]
            for end in ("value", "low", "high")
        )
    )
