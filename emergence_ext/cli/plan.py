"""The command that says what a run would take: plan."""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import device_name, reported
from emergence_ext.cli.network import analysis, run
from emergence_ext.cli.terminal import echo, leads, processes

if TYPE_CHECKING:
    from emergence_ext.run import Forecast


@command()
@wraps(run, assigned=("__annotations__",))  # the options of `run`
def plan(**given: Any) -> None:
    """Predict time, memory and disk of each stage of a run from what a few images take.

    It takes the options of `emergence run`, and writes nothing. Under torchrun it is what as many
    processes take; the first measures.

    Example: emergence plan --data DIR --model torchvision:vgg16 --weights vgg16.pth --out runs/x
    """
    with reported():
        from emergence_ext.run import forecast, free_space

        if not leads():
            return
        spec, settings, alphas = analysis(given)
        subject = spec.load(device_name(given["device"]), partial(spec.images, listed=True))
        out, backend = given["out"], given["backend"]
        found = forecast(
            subject, out, settings, alphas=alphas, backend=backend, processes=processes()
        )
        _tell(found)
        network = found.largest.name in ("features", "features of fits", "all images projected")
        if network and spec.precision == "float32":
            echo("with --precision bfloat16: not measured; less where the hardware multiplies it")
        echo(f"{_size(free_space(out))} are free on the disk of {out}")


def _tell(found: Forecast) -> None:
    """Print what a run will take, and what of it most."""
    x, passes = found.sizes, found.passes
    together = f"; {found.processes} processes" if found.processes > 1 else ""
    kept = f"features are kept of {x.kept:,}" if x.streamed else "features of all are kept"
    echo(
        f"{x.images:,} images, {x.checkpoints} checkpoint{'s' * (x.checkpoints > 1)}, "
        f"{len(x.layers)} layers of {x.regions} regions; {kept}; regions are learned on "
        f"{x.region_images:,}{together}"
    )
    echo(f"{'stage':<26}{'pass':<8}{'time':>10}{'memory':>12}{'disk':>12}")
    for stage in found.stages:
        row = f"{stage.name:<26}{stage.of:<8}{_time(stage.seconds):>10}"
        echo(f"{row}{_size(stage.memory):>12}{_size(stage.disk):>12}")
    row = f"{'in all':<26}{'':<8}{_time(found.seconds):>10}"
    echo(f"{row}{_size(found.memory):>12}{_size(found.disk):>12}")
    echo(
        f"memory in all: {_size(found.resident)} of torch, network and images beside the largest "
        f"stage; {_size(found.report_memory)} while the report is drawn, whose time is not "
        "counted. w, v and Lambda take at most what is said, M by chance less or more"
    )
    if found.rates.gpu:
        echo(
            f"of the GPU torch takes {_size(found.rates.gpu)}, for the network and a batch, beside "
            "what its driver does; nothing else of a run is there"
        )
    first = max(passes, key=passes.__getitem__)
    of = "of the images that fits need" if first == "fit" else "over all images"
    share = f"{passes[first] / found.seconds:.0%}"
    longest = found.largest
    echo(f"the {first} pass ({of}) dominates with {share} of the time; longest: {longest.name}")
    for option, seconds in found.cures().items():
        echo(f"with {option}: {_time(seconds)} in all")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    if count < 2**30:
        return f"{count / 2**20:,.1f} MiB"
    return f"{count / 2**30:,.1f} GiB"
