"""Commands that look at a network: train, run, report, doctor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_type_hints

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import (
    Checkpoints,
    ClassMap,
    Data,
    Device,
    Layers,
    ModelName,
    Out,
    Output,
    Precision,
    Preprocess,
    RunDir,
    Seed,
    Size,
    Split,
    Weights,
    as_text,
    command_line,
    device_name,
    numbers,
    reported,
)
from emergence_ext.cli.terminal import closing, echo, echo_lines, leads
from emergence_ext.settings import CHOICES, Backend, Recipe, Settings, words

if TYPE_CHECKING:
    from emergence_ext.run import SubjectSpec

logger = logging.getLogger(__name__)

_PATHS: Final = ("data", "weights", "class_map", "masks", "boxes")  # options of `run`


@command(goes_on=True)
def train(
    data: Annotated[
        Path,
        typer.Option(
            help="A folder of images with train/ and val/ (or test/), one folder per category each."
        ),
    ],
    out: Out,
    model: ModelName = "small_vgg64",
    weights: Weights = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split to measure the accuracy on; default: val, else test."),
    ] = None,
    size: Size = None,
    preprocess: Preprocess = "auto",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images; default: the network's own.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Regular expression of parameters that stay as they are; none: all are trained. "
            "Default: the network's own."
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Epochs to keep, as 0,1,4,16; 0 is before training.")
    ] = None,
    output: Output = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Train a network on a folder of images, or fit a head on frozen layers, and keep checkpoints.

    Example: emergence train --data DIR --model vgg16_pooled --weights W.safetensors --out runs/head
    """
    with reported():
        from emergence_ext import network, training
        from emergence_ext.run import check_place

        check_place(out, data)
        weights = network.weights_file(model, weights)
        origin = network.read_origin(weights)
        size = origin.size_for(size, default=64)
        output = origin.output_for(output)
        train_set, val_set = _both_splits(data, split, size)
        loaded = network.load_model(
            model, num_classes=len(train_set.categories), image_size=size, output=output,
            random_state=seed,
        )  # fmt: skip
        if weights is not None:
            for part in network.load_pretrained(loaded.module, weights):
                echo(part)
        given: dict[str, Any] = {"epochs": epochs, "lr": lr, "freeze": freeze}
        given = {name: value for name, value in given.items() if value is not None}
        if freeze == "none":
            given["freeze"] = None
        recipe = replace(training.RECIPES.get(model, training.Recipe()), **given)
        name = origin.preprocess_for(preprocess, loaded.preprocess)
        log = training.train(
            loaded.module,
            train_set,
            val_set,
            recipe,
            out=out,
            preprocess=network.preprocess(name),
            checkpoints=numbers(keep, int, "keep") if keep else kept_epochs(recipe.epochs),
            random_state=seed,
            device=device_name(device),
            model=model,
            output=output,
        )
        took = f"{sum(log.seconds):.0f} s"
        accuracy = f"{log.val_accuracy[-1]:.1%}"
        echo(f"accuracy on {len(val_set)} left-out images: {accuracy} in {took}")
        closing(out)


@command(goes_on=True)
def run(
    data: Data,
    out: Out,
    model: ModelName,
    weights: Weights = None,
    split: Split = None,
    checkpoints: Checkpoints = None,
    layers: Layers = None,
    last_linear: Annotated[
        str | None,
        typer.Option(
            help="Module whose input is the sample feature; default: the one that gives the output."
        ),
    ] = None,
    size: Size = None,
    preprocess: Preprocess = "auto",
    class_map: ClassMap = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks (PNG), named as the images; what is not 0 is the object, and no "
            "region outside of it counts."
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="In their place a CSV file: name, left, top, right, bottom, the latter in shares "
            "of the image."
        ),
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="Images of a category, at most.")] = None,
    sample_images: Annotated[
        int, typer.Option(help="Images on which M and the frame are learned, at most.")
    ] = Settings.sample_images,
    region_images: Annotated[
        int, typer.Option(help="Images on which regions are learned.")
    ] = Settings.region_images,
    recipe: Annotated[
        str,
        typer.Option(
            help=f"Settings of the fits that go together: {words(Recipe)}; an option beside it "
            "stands (docs/method.md)."
        ),
    ] = Settings.recipe,
    pairs: Annotated[
        int | None,
        typer.Option(
            help="Others that each image is scored against, drawn anew in rounds; default: the "
            "recipe's, else all."
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the fits, as kappa_p=5; once for each (docs/method.md). Of "
            f"words: {'; '.join(f'{name}: {words(x)}' for name, x in CHOICES.items())}.",
        ),
    ] = None,
    keep_features: Annotated[
        int,
        typer.Option(
            help="MiB up to which the features of all images are kept; of more images only those "
            "that fits need (docs/large.md)."
        ),
    ] = Settings.keep_features,
    alpha: Annotated[
        float, typer.Option(help="Weight of the alignment of regions with their image.")
    ] = Settings.alpha,
    alphas: Annotated[
        str | None, typer.Option(help="Further weights to compare in the last layer, as 1,10.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of the network's softmax; default: the recipe's (1; authors: 4)."),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            help="Threshold of knowledge points; default: 0.4, or 1.2 / C where that is more."
        ),
    ] = Settings.tau,
    dim: Annotated[int, typer.Option(help="Projected width.")] = Settings.dim,
    output: Output = None,
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
    given = locals()
    with reported():
        from emergence_ext import parallel, report
        from emergence_ext.run import check_place
        from emergence_ext.run import run as analyse

        check_place(out, data)  # before any image is read
        spec, settings, others = analysis(given)
        with parallel.job():  # which shares the reading of the images, too
            finished = analyse(
                spec.load(device_name(device)),
                out,
                settings,
                alphas=others,
                backend=backend,  # type: ignore[arg-type]  # refused there
                command=command_line(),
            )
        if leads():
            closing(report.write(finished))


@command("report")
def redraw(run_dir: RunDir) -> None:
    """Make tables, figures and page of a finished run again, and of what was done with it.

    Neither network nor images are needed.

    Example: emergence report runs/demo
    """
    with reported():
        from emergence_ext import report

        closing(report.write(run_dir))


@command("open")
def open_page(run_dir: RunDir) -> None:
    """Open the report of a finished run in the browser; print its address.

    Example: emergence open runs/demo
    """
    with reported():
        import webbrowser

        from emergence_ext.run import Config, RunFolder

        page = RunFolder(run_dir).report.resolve()
        if not page.is_file():
            Config.read(RunFolder(run_dir).config)  # which says where there is no run at all
            raise FileNotFoundError(
                f"run: {run_dir} holds no report; `emergence report {run_dir}` makes it"
            )
        echo(page.as_uri())
        webbrowser.open(page.as_uri())


@command()
def doctor(
    model: Annotated[str | None, typer.Option("--model", help="A network to inspect.")] = None,
    weights: Weights = None,
    size: Size = None,
    channels: Annotated[
        int | None, typer.Option(help="Channels of the images; default: of the first convolution.")
    ] = None,
    output: Output = None,
    brief: Annotated[
        bool, typer.Option("--brief", help="Only what is there and what is not.")
    ] = False,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Let the kernels prove themselves on every GPU again."),
    ] = False,
) -> None:
    """Say what this installation can do, and what a network looks like.

    Example: emergence doctor --model torchvision:resnet34
    """
    with reported():
        from emergence_ext import network

        echo_lines(network.format_environment(brief=brief, prove=prove))
        if model is not None:
            import torch

            published = size or network.published_size(model, weights)
            weights = network.weights_file(model, weights)
            origin = network.read_origin(weights)
            size = origin.size_for(size, published)
            loaded = network.load_model(model, weights=weights, image_size=size, output=output)
            if channels is None:
                channels = network.input_channels(loaded.module)
            example = torch.rand(1, channels, size, size)
            network.first_logits(loaded.module, example)
            echo(f"network: {model}, {loaded.description}")
            auto = origin.preprocess or loaded.preprocess or "none (no other is known)"
            echo(f"preprocessing, as --preprocess auto takes it: {auto}")
            echo_lines(
                network.format_report(network.inspect_model(loaded.module, example, loaded.layers))
            )


def analysis(given: Mapping[str, Any]) -> tuple[SubjectSpec, Settings, list[float]]:
    """What is looked at, the settings of its fits, and further alphas, of the options of `run`."""
    from emergence_ext.run import SubjectSpec

    paths = {name: as_text(given[name]) for name in _PATHS}
    values = {**given, **paths, "random_state": given["seed"]}
    spec = SubjectSpec(**{x.name: values[x.name] for x in fields(SubjectSpec)})
    named = {x.name: values[x.name] for x in fields(Settings) if x.name in values}
    of_recipe = ("pairs", "temperature")  # where none is given
    named = {n: x for n, x in named.items() if n not in of_recipe or x is not None}
    settings = Settings(**{**_also(given["also"] or [], named), **named})
    alphas = given["alphas"]
    return spec, settings, numbers(alphas, float, "alphas") if alphas else []


def _also(texts: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """Read settings that are given as NAME=VALUE, each of the kind of its field."""
    kinds = get_type_hints(Settings)
    read: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in kinds or name in named or not value:
            known = ", ".join(sorted(kinds.keys() - named.keys()))
            raise ValueError(f"also: expected NAME=VALUE of {known}; got {text!r}")
        if name in read:
            raise ValueError(f"also: {name} is given twice")
        read[name] = _value(value, kinds[name], text)
    return read


def _value(value: str, kind: Any, text: str) -> Any:
    """One value, of a number, a word, yes or no, or none where a field may be that."""
    kinds = get_args(kind) if NoneType in get_args(kind) else (kind,)
    if NoneType in kinds and value == "none":
        return None
    if bool in kinds:
        if value not in ("yes", "no"):
            raise ValueError(f"also: expected yes or no, got {text!r}")
        return value == "yes"
    if float in kinds or int in kinds:
        return numbers(value, int if int in kinds else float, "also")[0]
    return value


def kept_epochs(epochs: int) -> list[int]:
    """Before training, ever farther apart, and the end: what is learned early is learned fast."""
    kept = [0]
    step = 1
    while step < epochs:
        kept.append(step)
        step *= 2
    return [*kept, epochs]


def _both_splits(root: Path, split: str | None, size: int) -> tuple[Any, Any]:
    """Training images of a folder that is split, and those to measure on: validation, else test."""
    from emergence_ext import data

    if str(root) in data.SHIPPED:
        if split is not None:
            raise ValueError(f"split: {root} has none to choose; leave --split out")
        images = data.SHIPPED[str(root)]
        return images(True), images(False)
    present = data.splits(root)
    if not {"train"} < set(present):
        holds = " and ".join(f"{name}/" for name in present.values()) or "no splits"
        raise ValueError(
            f"data: {root} must hold train/ and val/ (or test/), each with one folder per "
            f"category; it holds {holds}"
        )
    left_out = split or data.held_out(root)
    if split is None:
        logger.info("trained on %s/, measured on %s/", present["train"], left_out)
    train_set, val_set = (
        data.ImageFolder(root, split=name, size=size) for name in ("train", left_out)
    )
    if train_set.categories != val_set.categories:
        raise ValueError(
            f"data: {root}/{present['train']} and {root}/{left_out} hold different categories"
        )
    return train_set, val_set
