"""What a network looks like to this package, and what this installation can do."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emergence_ext._version import __version__
from emergence_ext.network.hooks import find_head, live_statistics
from emergence_ext.network.layers import suggested_of, survey
from emergence_ext.network.receptive import ReceptiveField, receptive_field
from emergence_ext.network.rectifiers import RELU_MODULES, RectifierMode
from emergence_ext.ops import Standing, build_info, standings, why_not_fused


@dataclass(frozen=True)
class LayerInfo:
    """One module of a network, as it ran.

    Attributes:
        name: dotted name.
        kind: class of the module.
        shape: shape of its output for the example; None where that is no tensor, or it never ran.
        runs: how often it ran in one forward pass.
        relu_follows: its output has negative values and goes straight into a ReLU.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    runs: int
    relu_follows: bool


@dataclass(frozen=True)
class ModelReport:
    """What `inspect_model` found.

    Attributes:
        layers: every submodule, in the order of `named_modules()`.
        in_place: ReLU modules that work in place; extraction copies before they do.
        shared: ReLU modules that run more than once; hooks on them are ambiguous.
        functional: (module, function, times) of ReLUs that are no module; attribution methods that
            replace ReLU modules miss them.
        dtypes: dtypes of the parameters, as text.
        parameters: number of parameters.
        training: whether any submodule is in training mode.
        head: module whose input is the sample feature; None where no `nn.Linear` runs.
        head_gives_output: whether that module's output is the network's.
        suggested: name -> dotted name of the layers to analyse.
        beyond: the layer from which on the output depends on no place of the image any more, as it
            reads the class token alone; None where it depends on the last.
        live: normalisations that use statistics of the batch in eval mode too.
        fields: name -> receptive field of the suggested layers that have one.
        warnings: what to do about the above, in sentences.
    """

    layers: list[LayerInfo]
    in_place: list[str]
    shared: list[str]
    functional: list[tuple[str, str, int]]
    dtypes: list[str]
    parameters: int
    training: bool
    head: str | None
    head_gives_output: bool
    suggested: dict[str, str]
    fields: dict[str, ReceptiveField]
    beyond: str | None
    live: list[str]
    warnings: list[str]


def inspect_model(
    module: nn.Module, example: Tensor, layers: Mapping[str, str] | None = None
) -> ModelReport:
    """Run a network once on an example and report what matters for its analysis.

    Args:
        module: the network; it comes back as it was.
        example: images `[B, 3, height, width]` as the network takes them.
        layers: name -> dotted name of those that are known (`LoadedModel.layers`); by default, or
            where there are none, those of `suggest_layers`.

    Raises:
        ValueError: no layer that could be analysed.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import network
        >>> net = ee.load_model("small_vgg28", num_classes=10).module
        >>> report = network.inspect_model(net, torch.rand(1, 1, 28, 28))
        >>> report.head, list(report.suggested)
        ('fc2', ['conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3'])
    """
    watch = RectifierMode(module)
    watch.run(example)
    try:
        head, gives_output = find_head(module, example)
    except ValueError:
        head, gives_output = None, False
    found = survey(module, example)
    suggested = dict(layers or suggested_of(module, found))
    fields = {}
    problems = []
    for name, dotted in suggested.items():
        try:
            size = (example.shape[-2], example.shape[-1])
            fields[name] = receptive_field(module, dotted, size, layout=found.layers.get(dotted))
        except (RuntimeError, TypeError, ValueError) as error:
            problems.append(f"no receptive field for layer {dotted!r}: {error}")
    parts = [
        LayerInfo(
            name=name,
            kind=type(part).__name__,
            shape=watch.shapes.get(name),
            runs=watch.runs.get(name, 0),
            relu_follows=name in watch.before_relu,
        )
        for name, part in module.named_modules()
        if name
    ]
    in_place = [name for name, part in _relus(module) if getattr(part, "inplace", False) and name]
    shared = [name for name, _ in _relus(module) if watch.runs.get(name, 0) > 1]
    report = ModelReport(
        layers=parts,
        in_place=in_place,
        shared=shared,
        functional=[(owner, function, n) for (owner, function), n in watch.functional.items()],
        dtypes=sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()}),
        parameters=sum(p.numel() for p in module.parameters()),
        training=any(part.training for part in module.modules()),
        head=head,
        head_gives_output=gives_output,
        suggested=suggested,
        fields=fields,
        beyond=found.beyond,
        live=live_statistics(module),
        warnings=problems,
    )
    problems.extend(_advice(report))
    return report


def format_report(report: ModelReport) -> str:
    """Return a report as text for a terminal.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
        ... )
        >>> report = network.inspect_model(net.eval(), torch.rand(1, 3, 8, 8))
        >>> print(network.format_report(report).splitlines()[0])
        837 parameters, float32, eval mode
    """
    state = "training" if report.training else "eval"
    lines = [
        f"{report.parameters:,} parameters, {', '.join(report.dtypes) or 'none'}, {state} mode",
        f"sample feature: input of {report.head!r}"
        if report.head
        else "sample feature: none found",
        "",
        "layers (dotted name, class, output shape)",
    ]
    width = max((len(layer.name) for layer in report.layers), default=0)
    kinds = max((len(layer.kind) for layer in report.layers), default=0)
    for layer in report.layers:
        shape = "x".join(map(str, layer.shape)) if layer.shape else "-"
        notes = [] if layer.runs == 1 else [f"runs {layer.runs} times" if layer.runs else "not run"]
        notes += ["negative values, a ReLU follows"] if layer.relu_follows else []
        tail = f"  ({'; '.join(notes)})" if notes else ""
        lines.append(f"  {layer.name:<{width}}  {layer.kind:<{kinds}} {shape}{tail}")
    lines += ["", "ReLUs"]
    lines.append(f"  in place: {_listed(report.in_place)}")
    around = "; as a layer name the block around it" if report.shared else ""
    lines.append(f"  shared (run more than once): {_listed(report.shared)}{around}")
    calls = [f"{name} in {owner!r} x{n}" for owner, name, n in report.functional]
    lines.append(f"  functional (no module): {_listed(calls)}")
    lines += ["", "suggested layers (name, dotted name, map, receptive field, stride)"]
    for name, dotted in report.suggested.items():
        field = report.fields.get(name)
        seen = (
            "map {}x{}, field {}x{} px, stride {:g}x{:g}".format(
                *field.grid, *field.size, *field.stride
            )
            if field
            else "no receptive field"
        )
        lines.append(f"  {name}: {dotted}, {seen}")
    lines += ["", *(f"warning: {text}" for text in report.warnings)]
    return "\n".join(lines).rstrip()


def environment(*, prove: bool = False) -> dict[str, Any]:
    """Return versions, backends of the compiled library and optional packages.

    Args:
        prove: let the ways to match prove themselves again on every GPU first.

    Returns:
        `python`, `platform`, `package`, `torch`, `cuda_device` (name or None); `library`, see
        `build_info()`; `gpus`, see `ops.standings()`; `why_not_fused`: type of device -> why fits
        there use plain torch, None where they use the compiled ops; `extras`: name of the extra ->
        package -> version or None.

    Raises:
        RuntimeError: there is no GPU to prove on.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "package": __version__,
        "torch": torch.__version__,
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "library": build_info(),
        "gpus": standings(prove=prove),
        "why_not_fused": {
            device: why_not_fused(device, may_prove=False) for device in ("cpu", "cuda")
        },
        "extras": _extras(),
    }


def format_environment(brief: bool = False, *, prove: bool = False) -> str:
    """Return the environment as text for a terminal; `brief` leaves the build's flags out.

    Examples:
        >>> from emergence_ext import network
        >>> "torch" in network.format_environment(brief=True)
        True
    """
    facts = environment(prove=prove)
    library = facts["library"]
    device = facts["cuda_device"] or "no CUDA device"
    lines = [
        f"emergence_ext {facts['package']}, Python {facts['python']}, torch {facts['torch']}, "
        f"{device}"
    ]
    for backend, reason in library["why_not"].items():
        there = "compiled"
        if backend == "cpu" and "instruction_set" in library:
            sets = ", ".join(library["instruction_sets"])
            there += f", instruction set {library['instruction_set']} (here: {sets})"
        lines.append(f"  {backend} ops: {there if reason is None else f'not there: {reason}'}")
    for gpu, found in facts["gpus"].items():
        lines += [f"  {gpu}", *(f"    {each.way}: {_standing(each)}" for each in found)]
    for kind, reason in facts["why_not_fused"].items():
        taken = "fused" if reason is None else "reference (plain torch)"
        if reason is not None and (library["why_not"][kind] or "no reason") not in reason:
            taken += f": {reason}"
        lines.append(f"  backend auto on {kind}: {taken}")
    for extra, packages in facts["extras"].items():
        absent = [name for name, version in packages.items() if version is None]
        text = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        if absent:
            missing = f"no {', '.join(absent)} (pip install 'emergence_ext[{extra}]')"
            text = f"{text}; {missing}" if text else missing
        lines.append(f"  [{extra}] {text}")
    if not brief:
        lines.append(f"  platform: {facts['platform']}")
        above = ("why_not", "instruction_set", "instruction_sets")
        lines += [f"  {key}: {value}" for key, value in library.items() if key not in above]
    return "\n".join(lines)


def _standing(found: Standing) -> str:
    """How a way to match stands on a GPU, for a terminal."""
    if found.impossible is not None:
        return f"not here: {found.impossible}"
    verdict = found.verdict
    if verdict is None:
        return "not proved yet; that is done at its first use, or by emergence doctor --prove"
    taken = f"not taken: {verdict.reason}" if verdict.reason else "proved"
    if not verdict.reason and verdict.milliseconds is not None and verdict.plain is not None:
        taken += f", {verdict.milliseconds:.3g} ms where plain torch takes {verdict.plain:.3g}"
    return f"{taken} ({verdict.date})"


def _relus(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return ((n, part) for n, part in module.named_modules() if isinstance(part, RELU_MODULES))


def _advice(report: ModelReport) -> list[str]:
    advice = []
    chosen = set(report.suggested.values())
    for layer in report.layers:
        if layer.name in chosen and layer.relu_follows:
            advice.append(
                f"layer {layer.name!r} has negative values and a ReLU follows: name the module "
                "whose output is after the ReLU"
            )
    if report.training:
        advice.append("the network is in training mode; it is analysed in eval mode and put back")
    if report.functional:
        advice.append(
            "there are functional ReLUs: hooks on ReLU modules, by which guided backpropagation "
            "and deconvolution are usually made, miss them (those of emergence look do not)"
        )
    if report.beyond is not None:
        advice.append(
            f"the output does not depend on the patches after {report.beyond!r}, as where a class "
            "token alone is read: Grad-CAM and what else goes by the output show nothing there"
        )
    if report.live:
        advice.append(
            f"{_listed(report.live)} use statistics of the batch in eval mode too: what the "
            "network gives for an image depends on the images beside it"
        )
    if report.head is None:
        advice.append(
            "no nn.Linear runs and no convolution gives the output, so there is no sample feature"
        )
    elif not report.head_gives_output:
        advice.append(
            f"the network's output is not that of {report.head!r}: does it end in a softmax? "
            "Logits are expected"
        )
    if len(report.dtypes) > 1 or report.dtypes not in ([], ["float32"]):
        advice.append(
            f"parameters are {', '.join(report.dtypes)}: results are coarser than float32"
        )
    return advice


def _listed(names: Sequence[str], most: int = 8) -> str:
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text or "none"


def _extras() -> dict[str, dict[str, str | None]]:
    """Packages of each extra, as the installed package declares them."""
    try:
        requirements = importlib.metadata.requires("emergence_ext") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        match = re.match(r"([\w.-]+)[^;]*;.*extra == ['\"]([\w-]+)['\"]", requirement)
        # Extras that only gather others name this package itself.
        if match and match[1].replace("-", "_") != "emergence_ext" and match[2] != "dev":
            extras.setdefault(match[2], {})[match[1]] = _version(match[1])
    return extras


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
