"""Image classifiers of Hugging Face's `transformers`, with their weights, preprocessing and names.

A name is a repository of the hub, taken from its cache, or a folder that `save_pretrained` wrote.
Code that lies beside weights is never run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from emergence_ext.lookup import optional
from emergence_ext.network.preprocessing import normalisation

__all__ = ["hub_builder", "hub_preprocess", "hub_size", "output_names"]


def hub_builder(name: str) -> Callable[..., nn.Module]:
    """Return what builds a network with its own weights; its head begins anew for other outputs.

    Args:
        name: a folder, or a repository of the hub.

    Raises:
        ImportError: transformers is absent.
        ValueError: what is there is no image classifier that transformers knows.
        FileNotFoundError: neither such a folder nor, in the cache or on the hub, such a repository.
    """
    transformers = optional("transformers", f"model: hf:{name}")
    config = _read(name, transformers.AutoConfig.from_pretrained)
    classifiers = transformers.AutoModelForImageClassification
    if type(config) not in classifiers._model_mapping:
        raise ValueError(
            f"model: hf:{name} is a {config.model_type}, which transformers has no image "
            "classifier of"
        )

    def build(num_classes: int | None = None) -> nn.Module:
        given: dict[str, Any] = {}
        if num_classes is not None and num_classes != config.num_labels:
            given = {"num_labels": num_classes, "ignore_mismatched_sizes": True}
        module: nn.Module = _read(name, classifiers.from_pretrained, use_safetensors=True, **given)
        return module

    return build


def hub_preprocess(name: str) -> str | None:
    """Name the normalisation that the processor beside the weights does, for `preprocess`.

    None where there is no processor.
    """
    processor = _processor(name)
    if processor is None:
        return None
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", mean is not None) or mean is None or std is None:
        return "none"
    # Processors scale 0..255 by 1/255 before, or by another factor: images here are in 0..1.
    scale = 255 * processor.get("rescale_factor", 1 / 255)
    if not processor.get("do_rescale", True):
        scale = 255
    return normalisation([x / scale for x in mean], [x / scale for x in std])


def hub_size(name: str) -> int | None:
    """Return the side of the images that the processor beside the weights makes; None: unknown."""
    processor = _processor(name) or {}
    cropped = processor.get("do_center_crop", True) and processor.get("crop_size")
    side = cropped or processor.get("size")
    if isinstance(side, Mapping):
        side = side.get("height") or side.get("shortest_edge")
    return side if isinstance(side, int) and side > 0 else None


def _processor(name: str) -> Mapping[str, Any] | None:
    """What the processor beside the weights does; None where there is none."""
    try:
        transformers = optional("transformers", f"model: hf:{name}")
        read = transformers.BaseImageProcessor.get_image_processor_dict
        processor: Mapping[str, Any] = _read(name, read)[0]
    except (ImportError, ValueError, FileNotFoundError):
        return None
    return processor


def output_names(module: nn.Module) -> list[tuple[str, ...]]:
    """Return what a network's own configuration calls its outputs; empty where it says nothing."""
    names = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or not names:
        return []
    if sorted(names) != list(range(len(names))):
        return []
    if all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names.values()):  # nobody named them
        return []
    # ImageNet's are lists of synonyms: "tabby, tabby cat".
    texts = [str(names[column]) for column in range(len(names))]
    return [tuple(dict.fromkeys([text, *text.split(", ")])) for text in texts]


def _read(name: str, how: Callable[..., Any], **given: Any) -> Any:
    """Read from a folder or the cache, and only what is not there from the hub."""
    folder = Path(name).is_dir()
    if not folder and name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"model: no folder {name} for hf:{name}")
    try:
        try:
            return how(name, local_files_only=True, **given)
        except OSError:
            if folder:
                raise
            return how(name, **given)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        kind = ValueError if folder else FileNotFoundError
        place = f"the folder {name}" if folder else f"Hugging Face's cache for {name}"
        raise kind(
            f"model: no network can be read from {place} ({said:.160}). Give a folder that "
            "save_pretrained wrote, as hf:./FOLDER, or fetch it where there is a network"
        ) from error
