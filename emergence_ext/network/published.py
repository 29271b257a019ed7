"""Weights that torchvision and timm publish, and the names of the outputs of ImageNet."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

from emergence_ext.lookup import nearest, optional, path_named
from emergence_ext.network.huggingface import hub_size

__all__ = ["DEFAULT", "imagenet_names", "published_size", "weights_file"]

logger = logging.getLogger(__name__)

DEFAULT: Final = "DEFAULT"
"""In place of a file: the weights that the network's own library publishes for it."""

IMAGENET: Final = 1000  # outputs of a network of ImageNet's categories


def weights_file(model: str, weights: Path | str | None) -> Path | None:
    """Return the file of weights, of DEFAULT the one that was published for the network.

    Those lie in the cache of torch, or of timm's hub; what is not there is fetched.

    Args:
        model: name, as `load_model` takes it.
        weights: a file, "DEFAULT", or None.

    Raises:
        ValueError: no weights are published for that network.
        FileNotFoundError: they are not in the cache and cannot be fetched; says where they belong.
        ImportError: torchvision or timm is needed and absent.

    Examples:
        >>> from emergence_ext import network
        >>> network.weights_file("vgg16", "runs/vgg16.pt").as_posix()
        'runs/vgg16.pt'
    """
    if weights is None:
        return None
    weights = path_named(weights, "weights")
    if str(weights).upper() != DEFAULT or Path(weights).is_file():
        return Path(weights)
    source, _, name = model.partition(":")
    if source == "torchvision":
        return _of_torchvision(name)
    if source == "timm":
        return _of_timm(name)
    if source == "hf":  # it never comes without
        return None
    raise ValueError(
        f"weights: DEFAULT is for torchvision:NAME and timm:NAME; give {model} a file of weights"
    )


def published_size(model: str, weights: Path | str | None = None) -> int | None:
    """Return the side of the images that a network is published for; None where nobody says it.

    A network of timm says it, and the processor beside one of Hugging Face. Of torchvision it is
    that of the weights that DEFAULT stands for, which says nothing of others.

    Args:
        model: name, as `load_model` takes it; an unknown one has no size.
        weights: as `weights_file` takes them.

    Examples:
        >>> from emergence_ext import network
        >>> network.published_size("resnet18")
    """
    source, _, name = model.partition(":")
    if source == "hf":
        return hub_size(name)
    with suppress(ImportError, ValueError):  # what is said when the network is built
        if source == "timm":
            timm = optional("timm", f"model: {model}")
            config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
            size = getattr(config, "input_size", None)
            return int(size[-1]) if size else None
        if source == "torchvision" and str(weights).upper() == DEFAULT:
            models = optional("torchvision.models", f"model: {model}")
            crop = getattr(models.get_model_weights(name).DEFAULT.transforms(), "crop_size", None)
            return int(crop[0]) if crop else None  # what is no classifier crops nothing
    return None


def _of_torchvision(name: str) -> Path:
    models = optional("torchvision.models", f"model: torchvision:{name}")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model: torchvision has no {name!r}.{nearest(name, known)}")
    published = models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    logger.info("weights DEFAULT: torchvision's %s, %s", published, file)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Names end in the first digits of the file's SHA-256, which torch.hub compares.
        digits = file.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(published.url, str(file), digits, progress=False)
        except (OSError, RuntimeError) as error:
            raise _absent(f"torchvision:{name}", file, published.url, error) from error
    return file


def _of_timm(name: str) -> Path:
    timm = optional("timm", f"model: timm:{name}")
    if not timm.is_model(name):
        raise ValueError(f"model: timm has no {name!r}.{nearest(name, timm.list_models())}")
    config: Any = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        raise ValueError(f"weights: timm publishes none on its hub for {name}; give a file")
    hub = importlib.import_module("huggingface_hub")
    logger.info("weights DEFAULT: %s of timm's hub", repository)
    file = "model.safetensors"
    try:
        try:
            return Path(hub.hf_hub_download(repository, file, local_files_only=True))
        except FileNotFoundError:  # not in the cache
            return Path(hub.hf_hub_download(repository, file))
    except (OSError, ValueError) as error:
        place = Path(hub.constants.HF_HUB_CACHE)
        raise _absent(f"timm:{name}", place, f"{repository}/{file}", error) from error


def _absent(model: str, file: Path, url: str, error: Exception) -> FileNotFoundError:
    said = " ".join(str(error).split())
    return FileNotFoundError(
        f"weights: DEFAULT of {model} is not in {file} and cannot be fetched ({said:.120}). Fetch "
        f"{url} where there is a network and put it there, or name it by --weights"
    )


def imagenet_names(outputs: int) -> list[tuple[str, ...]]:
    """Return the names of ImageNet's categories by output: in English, and WordNet ids.

    English names are torchvision's, ids are timm's, as far as these are installed.

    Args:
        outputs: of the network; empty where these are not ImageNet's.

    Examples:
        >>> from emergence_ext import network
        >>> network.imagenet_names(10)  # ImageNet has 1000, a few networks 1001
        []
    """
    if outputs != IMAGENET:
        return []
    columns: list[tuple[str, ...]] = [()] * IMAGENET
    if importlib.util.find_spec("torchvision") is not None:
        models = importlib.import_module("torchvision.models")
        meta: Mapping[str, Any] = models.get_model_weights("resnet18").DEFAULT.meta
        columns = [(name,) for name in meta["categories"]]
    timm = importlib.util.find_spec("timm")
    for folder in [] if timm is None else timm.submodule_search_locations or []:
        # Its own reader loads all of timm, which takes seconds.
        file = Path(folder, "data", "_info", "imagenet_synsets.txt")
        ids = file.read_text().split() if file.is_file() else []
        if len(ids) == IMAGENET:
            columns = [(*names, x) for names, x in zip(columns, ids, strict=True)]
    return columns
