"""Commands that look at a network: demo, train, run, report, doctor."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from emergence_ext.cli.common import (
    Checkpoints,
    ClassMap,
    Data,
    Device,
    Layers,
    ModelName,
    Out,
    Precision,
    Preprocess,
    RunDir,
    Seed,
    Size,
    Weights,
    app,
    as_text,
    command_line,
    device_name,
    numbers,
    reported,
)
from emergence_ext.settings import Backend, Settings, words


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 0) -> None:
    """Train a small network on 5,000 real digits and show what it learned, where and when.

    Example: emergence demo --out runs/demo
    """
    with reported():
        from emergence_ext import data, network, report, training
        from emergence_ext.run import DIGITS, SubjectSpec, run

        started = time.perf_counter()
        train_set, test_set = data.digits(train=True), data.digits(train=False)
        model = network.load_model("small_vgg28", num_classes=10, random_state=seed)
        recipe = training.RECIPES["small_vgg28"]
        log = training.train(
            model.module, train_set, test_set, recipe, out=out / "training",
            checkpoints=_kept_epochs(recipe.epochs), random_state=seed,
        )  # fmt: skip
        typer.echo(f"accuracy on 1,000 left-out digits: {log.val_accuracy[-1]:.1%}")
        spec = SubjectSpec(
            DIGITS,
            "small_vgg28",
            checkpoints=str(out / "training" / "epoch_*.safetensors"),
            size=28,
            random_state=seed,
        )
        settings = Settings(region_images=100, random_state=seed)
        page = report.write(run(spec.load(), out, settings, command=command_line()))
        typer.echo(f"{time.perf_counter() - started:.0f} s in all")
        typer.echo(page)


@app.command()
def train(
    data: Data,
    out: Out,
    model: ModelName = "small_vgg64",
    weights: Weights = None,
    size: Size = 64,
    preprocess: Preprocess = "auto",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images; default: the network's own.")
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
    with reported():
        from emergence_ext import network, training

        train_set, val_set = _both_splits(data, size)
        loaded = network.load_model(
            model, num_classes=len(train_set.categories), image_size=size, random_state=seed
        )
        if weights is not None:
            missing = network.load_weights(loaded.module, weights, partial=True)
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
            preprocess=network.preprocess(name),
            checkpoints=numbers(keep, int, "keep") if keep else _kept_epochs(recipe.epochs),
            random_state=seed,
            device=device_name(device),
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
    checkpoints: Checkpoints = None,
    layers: Layers = None,
    last_linear: Annotated[
        str | None,
        typer.Option(
            help="Module whose input is the sample feature; default: the one that gives the output."
        ),
    ] = None,
    size: Size = 224,
    preprocess: Preprocess = "auto",
    class_map: ClassMap = None,
    per_class: Annotated[int | None, typer.Option(help="Images of a category, at most.")] = None,
    region_images: Annotated[
        int, typer.Option(help="Images on which regions are learned.")
    ] = Settings.region_images,
    alpha: Annotated[
        float, typer.Option(help="Weight of the alignment of regions with their image.")
    ] = Settings.alpha,
    alphas: Annotated[
        str | None, typer.Option(help="Further weights to compare in the last layer, as 1,10.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Of the network's softmax.")
    ] = Settings.temperature,
    tau: Annotated[float, typer.Option(help="Threshold of knowledge points.")] = Settings.tau,
    dim: Annotated[int, typer.Option(help="Projected width.")] = Settings.dim,
    precision: Precision = "float32",
    backend: Annotated[
        str, typer.Option(help=f"What matches regions: {words(Backend)} (plain torch).")
    ] = "auto",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Analyse a network on a folder of images: features, fits, tables, figures and a report.

    Example: emergence run --data DIR --model torchvision:vgg16 --weights vgg16.pth --out runs/vgg16
    """
    with reported():
        from emergence_ext import report
        from emergence_ext.run import SubjectSpec
        from emergence_ext.run import run as analyse

        spec = SubjectSpec(
            data=str(data), model=model, weights=as_text(weights), checkpoints=checkpoints,
            layers=layers, last_linear=last_linear, size=size, preprocess=preprocess,
            class_map=as_text(class_map),
            per_class=per_class, precision=precision, random_state=seed,
        )  # fmt: skip
        settings = Settings(
            dim=dim, alpha=alpha, temperature=temperature, tau=tau, region_images=region_images,
            random_state=seed,
        )  # fmt: skip
        finished = analyse(
            spec.load(device_name(device)),
            out,
            settings,
            alphas=numbers(alphas, float, "alphas") if alphas else (),
            backend=backend,  # type: ignore[arg-type]  # refused there
            command=command_line(),
        )
        typer.echo(report.write(finished))


@app.command(name="report")
def redraw(run_dir: RunDir) -> None:
    """Make tables, figures and page of a finished run again, and of what was done with it.

    Neither network nor images are needed.

    Example: emergence report runs/demo
    """
    with reported():
        from emergence_ext import report

        typer.echo(report.write(run_dir))


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
    with reported():
        from emergence_ext import network

        typer.echo(network.format_environment(brief=brief))
        if model is not None:
            import torch

            loaded = network.load_model(model, weights=weights, image_size=size)
            typer.echo(f"preprocessing, as --preprocess auto takes it: {loaded.preprocess}")
            typer.echo(
                network.format_report(
                    network.inspect_model(
                        loaded.module, torch.rand(1, channels, size, size), loaded.layers
                    )
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
