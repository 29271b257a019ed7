"""Networks by name, with weights."""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from emergence_ext.lookup import load_callable, nearest, optional, user_code
from emergence_ext.network.builtin import (
    resnet34_stride1,
    resnet50_stride1,
    scene_vgg,
    small_vgg,
    small_vgg28,
    small_vgg64,
    vgg16_pooled,
)
from emergence_ext.network.calling import require_numbers, select_output
from emergence_ext.network.huggingface import hub_builder, hub_preprocess, output_names
from emergence_ext.network.layers import known_layers
from emergence_ext.network.origin import read_origin
from emergence_ext.network.positions import require_size
from emergence_ext.network.preprocessing import normalisation
from emergence_ext.network.published import weights_file
from emergence_ext.network.weights import check_and_load, load_weights, output_rows, read_weights
from emergence_ext.settings import require_count

__all__ = [
    "BUILTIN",
    "LoadedModel",
    "load_model",
    "load_weights",
    "read_weights",
    "small_vgg",
    "taken",
    "vgg16_pooled",
]

logger = logging.getLogger(__name__)

BUILTIN: dict[str, Callable[..., nn.Module]] = {
    "small_vgg28": small_vgg28,
    "small_vgg64": small_vgg64,
    "scene_vgg": scene_vgg,
    "vgg16_pooled": vgg16_pooled,
    "resnet34_stride1": resnet34_stride1,
    "resnet50_stride1": resnet50_stride1,
}
# Of these, and only these, the child `module` is the network itself.
_PARALLEL = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    torch.optim.swa_utils.AveragedModel,
)
_FORMS = f"{', '.join(BUILTIN)}, torchvision:NAME, timm:NAME, hf:NAME or module:callable"


@dataclass(frozen=True)
class LoadedModel:
    """A network that is ready to be analysed.

    Attributes:
        module: the network, in eval mode.
        name: what it was asked for by.
        layers: name to show -> dotted module name, from the input on; empty where none are known
            (`suggest_layers`).
        preprocess: what its images need, for `preprocessing.preprocess`; None: not known.
        description: what that name stands for, in words.
        outputs: for each output all of its names, where the network itself says them.

    Examples:
        >>> from emergence_ext import network
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
        >>> network.LoadedModel(net, "mine", layers={}, preprocess="none").description
        ''
    """

    module: nn.Module
    name: str
    layers: dict[str, str]
    preprocess: str | None
    description: str = ""
    outputs: Sequence[tuple[str, ...]] = ()


def load_model(
    spec: str,
    *,
    num_classes: int | None = None,
    weights: Path | str | None = None,
    image_size: int | None = None,
    output: str | None = None,
    random_state: int = 0,
) -> LoadedModel:
    """Build a network and load its weights.

    A network of torchvision or timm is their own, unchanged; the paper's ResNets, with stride 1 in
    `layer4`, are `resnet34_stride1` and `resnet50_stride1`. A module of the user's can carry
    `default_layers` (name -> dotted name) and `default_preprocess` as attributes. Wrappers of
    torch.compile and DataParallel are taken off, so that names and weights are those of the
    network itself.

    Args:
        spec: one of `settings.BuiltinModel`, `torchvision:NAME`, `timm:NAME`, `hf:NAME` (a
            repository or a folder of Hugging Face, with its own weights), or `module:callable` of
            a function that is called with `num_classes` if it takes that, and returns a module;
            or of a module, which is copied.
        num_classes: width of the output; None takes what the weights have, or else the network's
            own default.
        weights: `.safetensors`, or a file of torch.save, as `load_weights` takes it; "DEFAULT" for
            those that torchvision or timm publish, from their cache; None leaves the network as it
            is built: untrained, unless the user's own function does more.
        image_size: side of the images, for networks that are built for one size; None takes what
            the weights were trained at, where they say it. A transformer of torchvision or timm is
            built for it, and refuses weights of another.
        output: key, field or index of the logits, for networks that give more than those; None:
            that of the training, where the weights say it, or else see `calling.logits`.
        random_state: seed of the initial weights.

    Raises:
        ValueError: an unknown network, one that needs arguments beside `num_classes`, weights of
            another network, or attributes of another kind than above.
        FileNotFoundError: no such file of weights.
        ImportError: torchvision, timm or transformers is needed and absent.

    Examples:
        >>> import emergence_ext as ee
        >>> net = ee.load_model("small_vgg28", num_classes=10)
        >>> list(net.layers), net.preprocess
        (['conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3'], 'none')
    """
    if not isinstance(spec, str):
        raise TypeError(f"model: expected a name, got {type(spec).__name__}")
    for argument, number in (("num_classes", num_classes), ("image_size", image_size)):
        if number is not None:
            require_count(argument, number, 1)
    require_count("random_state", random_state, 0)
    weights = weights_file(spec, weights)
    origin = read_origin(weights)
    image_size = image_size or origin.size
    output = origin.output_for(output)
    if origin.model not in (None, spec):
        logger.warning("%s: these weights were trained as %r", spec, origin.model)
    source, _, name = spec.partition(":")
    build, description = _builder(spec, source, name, image_size)
    logger.info("model %s: %s", spec, description)
    module = _build(build, spec, num_classes, random_state)
    if weights is not None:
        module = _with_weights(module, build, spec, num_classes, weights, image_size, random_state)
    elif num_classes is None and source != "hf":  # which never comes without weights
        # Who says how many classes there are is about to train it.
        own = source not in ("", "torchvision", "timm") and name
        state = "as it is built" if own else "untrained"
        logger.warning("%s: no weights given, the network is %s", spec, state)
    module.eval()
    if output is not None:
        select_output(module, output)
    return LoadedModel(
        module,
        spec,
        known_layers(module, source, name),
        _guess_preprocess(module, source, name),
        description,
        output_names(module),
    )


def taken(module: nn.Module) -> LoadedModel:
    """Describe a network that the user has at hand as `load_model` describes one by its name.

    Wrappers of torch.compile and DataParallel are taken off. What it is preprocessed by follows
    from `default_preprocess`, timm's `pretrained_cfg`, or from being a network of torchvision,
    whose published weights have ImageNet's normalisation.

    Args:
        module: the network, with its weights.

    Raises:
        TypeError: no module, but its class, for example.
        ValueError: its weights are on the meta device.

    Examples:
        >>> from emergence_ext import network
        >>> network.taken(torch.nn.Linear(4, 2)).description
        'a Linear of torch.nn.modules.linear'
    """
    require_numbers(module, "model")
    module = _opened(module)
    kind = type(module)
    source = kind.__module__.partition(".")[0]
    return LoadedModel(
        module,
        kind.__name__,
        known_layers(module, source, kind.__name__.lower()),
        _guess_preprocess(module, source, ""),
        f"a {kind.__qualname__} of {kind.__module__}",
        output_names(module),
    )


def _builder(
    spec: str, source: str, name: str, image_size: int | None
) -> tuple[Callable[..., Any], str]:
    """What builds the network of this name, and in words what it is."""
    if not name:
        if spec not in BUILTIN:
            raise ValueError(f"model: expected {_FORMS}, got {spec!r}.{_meant(spec)}")
        build = BUILTIN[spec]
        first = (inspect.getdoc(build) or "").partition("\n")[0]
        return build, first.removeprefix("Return ")
    if source == "torchvision":
        return _torchvision_builder(name, image_size), f"torchvision's own {name}"
    if source == "timm":
        return _timm_builder(name, image_size), f"timm's own {name}"
    if source == "hf":
        return hub_builder(name), f"Hugging Face's {name}, with its own weights"
    return load_callable(spec, "model"), "a network of your own"


def _meant(spec: str) -> str:
    """What a name without a colon may have meant, as a sentence; nothing where nobody knows."""
    if Path(spec).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        return " A file of weights goes beside the name of its network: give it as `weights`."
    with suppress(ImportError):
        models = optional("torchvision.models", "")
        if spec in models.list_models(module=models):
            return f" Is it torchvision:{spec}?"
    with suppress(ImportError):
        if optional("timm", "").is_model(spec):
            return f" Is it timm:{spec}?"
    return nearest(spec, BUILTIN)


def _with_weights(
    module: nn.Module,
    build: Callable[..., Any],
    spec: str,
    num_classes: int | None,
    weights: Path | str,
    image_size: int | None,
    random_state: int,
) -> nn.Module:
    """Load weights into a network, of their number of outputs where nobody says another."""
    state = read_weights(weights)
    rows = output_rows(module, state) if num_classes is None else None
    if rows is not None:
        if not _takes_classes(build):
            raise ValueError(
                f"weights: {weights} is of a network with {rows} outputs, and {spec} takes no "
                "number of them. Give its function a parameter num_classes"
            )
        module = _build(build, spec, rows, random_state)
    require_size(module, state, weights, image_size)
    check_and_load(module, state, str(weights), partial_ok=False)
    return module


def _build(
    build: Callable[..., Any], spec: str, num_classes: int | None, random_state: int
) -> nn.Module:
    if isinstance(build, nn.Module):
        return copy.deepcopy(build)
    takes = _takes_classes(build)
    if num_classes is not None and not takes:
        logger.warning(
            "%s takes no num_classes, so its number of outputs is its own, not the %d asked for",
            spec, num_classes,
        )  # fmt: skip
    arguments = {"num_classes": num_classes} if takes and num_classes is not None else {}
    lacking = [
        name
        for name, parameter in _parameters(build).items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in arguments
    ]
    if lacking:
        raise ValueError(
            f"model: {spec} cannot be called without {', '.join(lacking)}. Give every parameter a "
            "default, or name a function that returns the whole network"
        )
    # Initial weights come from the global generator; its state belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        with user_code("model"):
            module = build(**arguments)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"model: expected a torch.nn.Module from the callable, got {type(module).__name__}"
        )
    return _unwrapped(module)


def _parameters(build: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(build).parameters
    except ValueError:  # some callables that are not written in Python
        return MappingProxyType({})


def _takes_classes(build: Callable[..., Any]) -> bool:
    accepted = _parameters(build)
    return "num_classes" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())


def _unwrapped(module: nn.Module) -> nn.Module:
    """Take what torch puts around a network, or a part of it, off."""
    for name, part in list(module._modules.items()):
        inner = part if part is None else _unwrapped(part)
        if inner is not part:
            setattr(module, name, inner)
    if getattr(module, "_compiled_call_impl", None) is not None:  # of module.compile()
        module._compiled_call_impl = None
    return _opened(module)


def _opened(module: nn.Module) -> nn.Module:
    """Return the network inside of what torch puts around a whole one."""
    while "_orig_mod" in module._modules or isinstance(module, _PARALLEL):
        module = module.module if isinstance(module, _PARALLEL) else module._orig_mod  # type: ignore[assignment]
    return module


def _torchvision_builder(name: str, image_size: int | None) -> Callable[..., nn.Module]:
    models = optional("torchvision.models", f"model: torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no {name!r}.{nearest(name, known)}")

    def create(**arguments: Any) -> nn.Module:
        return models.get_model(name, weights=None, **arguments)

    return _sized(f"torchvision:{name}", create, image_size, ("image_size", "input_size"))


def _timm_builder(name: str, image_size: int | None) -> Callable[..., nn.Module]:
    timm = optional("timm", f"model: timm:{name}")
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest(name, timm.list_models())}")

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(name, pretrained=False, **arguments)

    return _sized(f"timm:{name}", create, image_size, ("img_size",))


def _sized(
    spec: str, create: Callable[..., nn.Module], size: int | None, keys: Sequence[str]
) -> Callable[..., nn.Module]:
    """Build a network for images of one size where it is built for one.

    Args:
        spec: what it was asked for by.
        create: builds it, for images of its own size.
        size: of the images; None: the network's own.
        keys: parameters by which networks of that library take it.
    """

    def build(**arguments: Any) -> nn.Module:
        if size is None:
            return create(**arguments)
        for key in keys:
            try:
                return create(**_side(key, size), **arguments)
            except TypeError as error:
                if key not in str(error):
                    raise
            except (AssertionError, ValueError) as error:
                why = " ".join(str(error).split())
                fits = _size_that_fits(create, key, size)
                advice = "" if fits is None else f": --size {fits}"
                raise ValueError(
                    f"size: {spec} cannot be built for images of {size} pixels ({why:.120}){advice}"
                ) from error
        return create(**arguments)

    return build


def _side(key: str, size: int) -> dict[str, Any]:
    return {key: (size, size) if key == "input_size" else size}


def _size_that_fits(create: Callable[..., nn.Module], key: str, size: int) -> int | None:
    """The nearest size that a network can be built for, of whole patches and windows."""
    sizes = {step * max(round(size / step), 1) for step in (14, 16, 32, 7 * 32, 8 * 32)}
    for other in sorted(sizes, key=lambda x: abs(x - size)):
        try:
            with torch.device("meta"):
                create(**_side(key, other))
        except (AssertionError, ValueError):
            continue
        return other
    return None


def _guess_preprocess(module: nn.Module, source: str, name: str) -> str | None:
    declared = getattr(module, "default_preprocess", None)
    if declared is not None:
        if not isinstance(declared, str):
            raise ValueError(
                "model: default_preprocess must be a name as --preprocess takes it, as 'imagenet' "
                f"or 'module:callable', got a {type(declared).__name__}"
            )
        return declared
    if source == "torchvision":
        return _of_torchvision(name) if name else _of_its_class(module)
    if source == "hf" and (processor := hub_preprocess(name)) is not None:
        return processor
    config = getattr(module, "pretrained_cfg", None)
    if source == "timm" and isinstance(config, Mapping) and "mean" in config and "std" in config:
        return normalisation(config["mean"], config["std"])
    return None


def _of_its_class(module: nn.Module) -> str:
    """What a network of torchvision needs whose weights are not known."""
    # GoogLeNet and Inception turn ImageNet's normalisation into their own where this is set.
    name = "imagenet" if getattr(module, "transform_input", True) else "inception"
    logger.info("preprocessing %r, as the published weights of torchvision's networks need", name)
    return name


def _of_torchvision(name: str) -> str:
    """What the published weights of a network of torchvision were trained with."""
    # With their weights these two turn ImageNet's normalisation into this one by themselves
    # (torchvision, `transform_input`); built without, as here, they do not.
    if name in ("googlenet", "inception_v3"):
        return "inception"
    models = optional("torchvision.models", f"model: torchvision:{name}")
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    return normalisation(transforms.mean, transforms.std)
