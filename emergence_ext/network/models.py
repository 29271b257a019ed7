"""Networks by name, with weights."""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from emergence_ext.lookup import load_callable, nearest, optional, user_code
from emergence_ext.network.builtin import (
    small_vgg,
    small_vgg28,
    small_vgg64,
    vgg16_pooled,
)
from emergence_ext.network.calling import select_output
from emergence_ext.network.layers import known_layers
from emergence_ext.network.origin import read_origin
from emergence_ext.network.positions import require_size
from emergence_ext.network.preprocessing import PREPROCESSING
from emergence_ext.network.weights import check_and_load, load_weights, output_rows, read_weights

__all__ = [
    "BUILTIN",
    "LoadedModel",
    "load_model",
    "load_weights",
    "read_weights",
    "small_vgg",
    "vgg16_pooled",
]

logger = logging.getLogger(__name__)

BUILTIN: dict[str, Callable[..., nn.Module]] = {
    "small_vgg28": small_vgg28,
    "small_vgg64": small_vgg64,
    "vgg16_pooled": vgg16_pooled,
}
_FORMS = f"{', '.join(BUILTIN)}, torchvision:NAME, timm:NAME or module:callable"


@dataclass(frozen=True)
class LoadedModel:
    """A network that is ready to be analysed.

    Attributes:
        module: the network, in eval mode.
        name: what it was asked for by.
        layers: name to show -> dotted module name, from the input on; empty where none are known
            (`suggest_layers`).
        preprocess: what its images need, for `preprocessing.preprocess`.
    """

    module: nn.Module
    name: str
    layers: dict[str, str]
    preprocess: str


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

    torchvision's `resnet34` and `resnet50` get stride 1 in `layer4`, as in the paper. A module of
    the user's can carry `default_layers` (name -> dotted name) and `default_preprocess` as
    attributes.

    Args:
        spec: `small_vgg28`, `small_vgg64`, `vgg16_pooled`, `torchvision:NAME`, `timm:NAME`, or
            `module:callable` of a function that is called with `num_classes` if it takes that, and
            returns a module; or of a module, which is copied.
        num_classes: width of the output; None takes what the weights have, or else the network's
            own default.
        weights: `.safetensors`, or a file of torch.save that holds nothing but tensors; None leaves
            the network untrained.
        image_size: side of the images, for networks of timm that are built for one size; None takes
            what the weights were trained at, where they say it.
        output: key, field or index of the logits, for networks that give more than those; None: see
            `calling.logits`.
        random_state: seed of the initial weights.

    Raises:
        ValueError: an unknown network, or weights of another network.
        ImportError: torchvision or timm is needed and absent.
    """
    origin = read_origin(weights)
    image_size = image_size or origin.size
    if origin.model not in (None, spec):
        logger.warning("%s: these weights were trained as %r", spec, origin.model)
    source, _, name = spec.partition(":")
    if not name:
        if spec not in BUILTIN:
            raise ValueError(f"model: expected {_FORMS}, got {spec!r}.{nearest(spec, BUILTIN)}")
        build = BUILTIN[spec]
    elif source == "torchvision":
        build = _torchvision_builder(name)
    elif source == "timm":
        build = _timm_builder(name, image_size)
    else:
        build = load_callable(spec, "model")
    module = _build(build, num_classes, random_state)
    if weights is None and num_classes is None:
        # Who says how many classes there are is about to train it.
        logger.warning("%s: no weights given, the network is untrained", spec)
    elif weights is not None:
        state = read_weights(weights)
        rows = output_rows(module, state) if num_classes is None else None
        if rows is not None:
            module = _build(build, rows, random_state)
        require_size(module, state, str(weights), image_size, origin)
        check_and_load(module, state, str(weights), partial_ok=False)
    module.eval()
    if output is not None:
        select_output(module, output)
    return LoadedModel(
        module, spec, known_layers(module, source, name), _guess_preprocess(module, source)
    )


def _build(build: Callable[..., Any], num_classes: int | None, random_state: int) -> nn.Module:
    if isinstance(build, nn.Module):
        return copy.deepcopy(build)
    try:
        accepted = inspect.signature(build).parameters
    except ValueError:  # some callables that are not written in Python
        accepted = MappingProxyType({})
    takes = "num_classes" in accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    arguments = {"num_classes": num_classes} if takes and num_classes is not None else {}
    # Initial weights come from the global generator; its state belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        with user_code("model"):
            module = build(**arguments)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"model: expected a torch.nn.Module from the callable, got {type(module).__name__}"
        )
    return module


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    models = optional("torchvision.models", f"model: torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no {name!r}.{nearest(name, known)}")

    def build(**arguments: Any) -> nn.Module:
        module = models.get_model(name, weights=None, **arguments)
        if name in ("resnet34", "resnet50"):
            for submodule in module.layer4[0].modules():
                if isinstance(submodule, nn.Conv2d):
                    submodule.stride = (1, 1)
        return module

    return build


def _timm_builder(name: str, image_size: int | None) -> Callable[..., nn.Module]:
    timm = optional("timm", f"model: timm:{name}")
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest(name, timm.list_models())}")

    def build(**arguments: Any) -> nn.Module:
        if image_size is not None:
            try:
                return timm.create_model(name, pretrained=False, img_size=image_size, **arguments)
            except TypeError:
                logger.debug("%s is not built for one image size", name)
        return timm.create_model(name, pretrained=False, **arguments)

    return build


def _guess_preprocess(module: nn.Module, source: str) -> str:
    declared = getattr(module, "default_preprocess", None)
    if isinstance(declared, str):
        return declared
    if source == "torchvision":
        return "imagenet"
    config = getattr(module, "pretrained_cfg", None)
    if source == "timm" and isinstance(config, Mapping) and "mean" in config and "std" in config:
        for name, (mean, std) in PREPROCESSING.items():
            if torch.allclose(
                torch.tensor([*mean, *std]),
                torch.tensor([*config["mean"], *config["std"]]),
                atol=1e-3,
            ):
                return name
        logger.warning(
            "unknown normalisation %s, %s: taking ImageNet's", config["mean"], config["std"]
        )
        return "imagenet"
    logger.warning("no preprocessing is known for this network: images stay in 0..1")
    return "none"
