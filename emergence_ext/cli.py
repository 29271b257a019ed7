"""The command line: parse, call, print."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from emergence_ext import __version__
from emergence_ext.store import StoreError

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


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 0) -> None:
    """Train a small network on 5,000 real digits and show what it learned, where and when.

    Example: emergence demo --out runs/demo
    """
    with _reported():
        from emergence_ext import data, models, training
        from emergence_ext.run import Settings, Subject, run

        started = time.perf_counter()
        train_set, test_set = data.digits(train=True), data.digits(train=False)
        model = models.load_model("small_vgg28", num_classes=10, random_state=seed)
        recipe = training.RECIPES["small_vgg28"]
        log = training.train(
            model.module, train_set, test_set, recipe, out=out / "training",
            checkpoints=_kept_epochs(recipe.epochs), random_state=seed,
        )  # fmt: skip
        typer.echo(f"accuracy on 1,000 left-out digits: {log.val_accuracy[-1]:.1%}")
        checkpoints = training.load_checkpoints(out / "training" / "epoch_*.safetensors")
        subject = Subject(model.module, model.layers, test_set, checkpoints=checkpoints)
        settings = Settings(region_images=100, random_state=seed)
        report = run(subject, out, settings, command=_command())
        typer.echo(f"{time.perf_counter() - started:.0f} s in all")
        typer.echo(report)


@app.command()
def train(
    data: Data,
    out: Out,
    model: ModelName = "small_vgg64",
    weights: Weights = None,
    size: Size = 64,
    preprocess: Preprocess = "auto",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images; the network's own default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Regular expression of parameters that stay as they are.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Epochs to keep, as 0,1,4,16; 0 is before training.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Train a network on a folder of images, or fit a head on frozen layers, and keep checkpoints.

    Example: emergence train --data DIR --model vgg16_pooled --weights W.safetensors --out runs/head
    """
    with _reported():
        from emergence_ext import models, preprocessing, training

        train_set, val_set = _both_splits(data, size)
        loaded = models.load_model(
            model, num_classes=len(train_set.categories), image_size=size, random_state=seed
        )
        if weights is not None:
            missing = models.load_weights(loaded.module, weights, partial=True)
            if missing:
                typer.echo(f"not in {weights.name}, trained from scratch: {', '.join(missing)}")
        given: dict[str, Any] = {"epochs": epochs, "lr": lr, "freeze": freeze}
        given = {name: value for name, value in given.items() if value is not None}
        recipe = replace(training.RECIPES.get(model, training.Recipe()), **given)
        name = loaded.preprocess if preprocess == "auto" else preprocess
        log = training.train(
            loaded.module,
            train_set,
            val_set,
            recipe,
            out=out,
            preprocess=preprocessing.preprocess(name),
            checkpoints=_numbers(keep, int, "keep") if keep else _kept_epochs(recipe.epochs),
            random_state=seed,
            device=_device(device),
        )
        took = f"{sum(log.seconds):.0f} s"
        accuracy = f"{log.val_accuracy[-1]:.1%}"
        typer.echo(f"accuracy on {len(val_set)} left-out images: {accuracy} in {took}")
        typer.echo(out)


@app.command()
def run(
    data: Data,
    out: Out,
    model: ModelName,
    weights: Weights = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Pattern of files, as 'runs/x/epoch_*.safetensors'.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers by dotted or the paper's names, comma between.")
    ] = None,
    size: Size = 224,
    preprocess: Preprocess = "auto",
    class_map: Annotated[
        Path | None, typer.Option(help="JSON file: folder name -> column of the output.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of a category, at most.")] = None,
    region_images: Annotated[int, typer.Option(help="Images on which regions are learned.")] = 200,
    alpha: Annotated[
        float, typer.Option(help="Weight of the alignment of regions with their image.")
    ] = 0.1,
    alphas: Annotated[
        str | None, typer.Option(help="Further weights to compare in the last layer, as 1,10.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the network's softmax.")] = 1.0,
    tau: Annotated[float, typer.Option(help="Threshold of knowledge points.")] = 0.4,
    dim: Annotated[int, typer.Option(help="Projected width.")] = 3,
    precision: Precision = "float32",
    backend: Annotated[
        str,
        typer.Option(help="What matches regions: auto, fused (compiled) or reference (torch)."),
    ] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Analyse a network on a folder of images: features, fits, tables, figures and a report.

    Example: emergence run --data DIR --model torchvision:vgg16 --weights vgg16.pth --out runs/vgg16
    """
    with _reported():
        from emergence_ext import data as datasets
        from emergence_ext import models, preprocessing
        from emergence_ext.checkpoints import load_checkpoints
        from emergence_ext.run import Settings, Subject
        from emergence_ext.run import run as analyse

        split = "val" if "val" in datasets.splits(data) else None
        dataset = datasets.ImageFolder(
            data, split=split, size=size, per_class=per_class, random_state=seed
        )
        if checkpoints and weights:
            raise ValueError("weights: give either --weights or --checkpoints, not both")
        states = load_checkpoints(checkpoints) if checkpoints else []
        first = states[-1].path if states else weights
        loaded = models.load_model(model, weights=first, image_size=size, random_state=seed)
        name = loaded.preprocess if preprocess == "auto" else preprocess
        prepare = preprocessing.preprocess(name)
        example = prepare(dataset[0][0][None])
        subject = Subject(
            loaded.module,
            _layers(layers, loaded, example),
            dataset,
            preprocess=prepare,
            checkpoints=states,
            outputs=datasets.class_map(
                class_map, dataset.categories, _width(loaded.module, example)
            ),
            precision=_precision(precision),
            device=_device(device),
        )
        settings = Settings(
            dim=dim,
            alpha=alpha,
            temperature=temperature,
            tau=tau,
            region_images=region_images,
            random_state=seed,
        )
        report = analyse(
            subject,
            out,
            settings,
            alphas=_numbers(alphas, float, "alphas") if alphas else (),
            backend=backend,
            described={"model": model, "size": size, "preprocess": name},
            command=_command(),
        )
        typer.echo(report)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="What `emergence run --out` wrote.")],
) -> None:
    """Write the report of a finished run again.

    Example: emergence report runs/demo
    """
    with _reported():
        from emergence_ext.report import write_report

        typer.echo(write_report(run_dir))


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option("--model", help="A network to inspect.")] = None,
    weights: Weights = None,
    size: Size = 224,
    channels: Annotated[int, typer.Option(help="Channels of the images.")] = 3,
    brief: Annotated[
        bool, typer.Option("--brief", help="Only what is there and what is not.")
    ] = False,
) -> None:
    """Say what this installation can do, and what a network looks like.

    Example: emergence doctor --model torchvision:resnet34
    """
    with _reported():
        from emergence_ext import doctor as checks
        from emergence_ext import models

        typer.echo(checks.format_environment(brief=brief))
        if model is not None:
            loaded = models.load_model(model, weights=weights, image_size=size)
            typer.echo(f"preprocessing, as --preprocess auto takes it: {loaded.preprocess}")
            typer.echo(
                checks.format_report(
                    checks.inspect_model(loaded.module, torch.rand(1, channels, size, size))
                )
            )


def _kept_epochs(epochs: int) -> list[int]:
    """Before training, ever farther apart, and the end: what is learned early is learned fast."""
    kept = [0]
    step = 1
    while step < epochs:
        kept.append(step)
        step *= 2
    return [*kept, epochs]


def _both_splits(root: Path, size: int) -> tuple[Any, Any]:
    """Training and validation images of a folder that has train/ and val/."""
    from emergence_ext import data

    if data.splits(root) != ["train", "val"]:
        raise ValueError(
            f"data: {root} must hold train/ and val/, each with one folder per category"
        )
    train_set, val_set = (
        data.ImageFolder(root, split=split, size=size) for split in ("train", "val")
    )
    if train_set.categories != val_set.categories:
        raise ValueError(f"data: {root}/train and {root}/val hold different categories")
    return train_set, val_set


def _layers(text: str | None, loaded: Any, example: torch.Tensor) -> dict[str, str]:
    """The layers that were asked for, the network's known ones, or suggested ones."""
    from emergence_ext.models import suggest_layers

    if text:
        return {
            name.strip(): loaded.layers.get(name.strip(), name.strip()) for name in text.split(",")
        }
    return loaded.layers or suggest_layers(loaded.module, example)


def _width(module: torch.nn.Module, example: torch.Tensor) -> int:
    """Number of outputs of the network."""
    with torch.no_grad():
        z = module(example)
    if not isinstance(z, torch.Tensor) or z.ndim != 2:
        got = list(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(f"model: expected logits [B, C] as the network's output, got {got}")
    return z.shape[1]


def _numbers(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}: expected numbers with commas between, got {text!r}") from None


def _precision(name: str) -> Literal["float32", "bfloat16"]:
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    raise ValueError(f"precision: expected float32 or bfloat16, got {name!r}")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: there is no CUDA device here; use --device cpu")
    return str(device)


def _command() -> str:
    return shlex.join(["emergence", *sys.argv[1:]])


@contextmanager
def _reported() -> Iterator[None]:
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
