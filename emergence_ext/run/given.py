"""A subject of what is at hand: a network or its name, images or their folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from emergence_ext import data, network
from emergence_ext.data import MapStyle
from emergence_ext.lookup import path_named
from emergence_ext.network import LoadedModel, load_checkpoints
from emergence_ext.run.subject import Subject, SubjectSpec, assembled
from emergence_ext.settings import Precision


def subject_of(
    model: nn.Module | str,
    images: MapStyle | Iterable[Any] | Path | str,
    layers: Mapping[str, str] | Sequence[str] | str | None = None,
    checkpoints: Path | str | Sequence[Path | str] | None = None,
    *,
    weights: Path | str | None = None,
    split: str | None = None,
    size: int | None = None,
    preprocess: str | Callable[[Tensor], Tensor] = "auto",
    class_map: Mapping[str, int] | Path | str | None = None,
    masks: Path | str | None = None,
    boxes: Path | str | None = None,
    precision: Precision = "float32",
    device: str = "cpu",
) -> Subject:
    """Bring a network and images together.

    Where both are named, and everything else in words, the subject knows how it was loaded, and
    what is done with it can be taken up again by commands.

    Args:
        model: the network, or its name as `network.load_model` takes it.
        images: a folder or tar files, as `emergence run --data` takes them; samples; or a data set
            of (image, label), map-style or iterable, see `data.as_samples`.
        layers: dotted names, or name to show -> dotted name; None: those of the network, or
            suggested ones.
        checkpoints: files of weights or a pattern of them; the last is the finished network.
        weights: a file, or "DEFAULT", where the network is named.
        split: of a folder of images; None: validation, else test.
        size: side of the images of a folder; None: that of the training where the weights say it,
            that of the network where it says one, or else 224.
        preprocess: from images `[B, 3, H, W]` in 0..1 to the network's input: a module, a function,
            or a name as `network.preprocess` takes it; `auto`: what the weights or the network say.
        class_map: category -> column of the output, or a file, see `data.class_map`; None: by the
            names that the weights say or ImageNet's, or one to one.
        masks: folder of masks of the objects, `NAME.png` for `NAME.jpg`: outside of them no region
            counts.
        boxes: in their place, a CSV file, see `data.read_boxes`.
        precision, device: of the network's forward pass.

    Raises:
        ValueError: weights for a network that has its own, or anything about network or images that
            does not fit.
        FileNotFoundError: a file or folder that is not there.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> subject = run.subject_of(net, ee.ImageFolder("photos", size=16, per_class=4), ["0"])
        >>> len(subject.dataset), dict(subject.layers)
        (12, {'0': '0'})
    """
    if weights is not None and not isinstance(model, str):
        raise ValueError(
            "weights: load them into the network, or name the network that they are of"
        )
    if split is not None and not isinstance(images, str | Path):
        raise ValueError("split: it is of a folder of images; give the data set of that split")
    in_words = (
        isinstance(model, str)
        and isinstance(images, str | Path)
        and (checkpoints is None or isinstance(checkpoints, str | Path))
        and isinstance(preprocess, str)
        and not isinstance(layers, Mapping)
        and not isinstance(class_map, Mapping)
    )
    if in_words:
        names = layers if layers is None or isinstance(layers, str) else ",".join(layers)
        spec = SubjectSpec(
            str(images),
            str(model),
            weights=_text(weights),
            checkpoints=_text(checkpoints),
            layers=names,
            size=size,
            preprocess=str(preprocess),
            class_map=_text(class_map),
            precision=precision,
            split=split,
            masks=_text(masks),
            boxes=_text(boxes),
        )
        return spec.load(device)
    states = [] if checkpoints is None else load_checkpoints(checkpoints)
    first = states[-1].path if states else network.weights_file(str(model), weights)
    origin = network.read_origin(first)
    loaded = _network(model, first, size)
    size = origin.size_for(size, _own_size(loaded.module))
    if isinstance(images, str | Path):
        dataset = SubjectSpec(str(images), loaded.name, split=split).images(size)
    else:
        dataset = data.as_samples(images)
    if isinstance(preprocess, str):
        preprocess = origin.preprocess_for(preprocess, loaded.preprocess)
    return assembled(
        loaded,
        dataset,
        network.preprocess(preprocess),
        layers=layers,
        class_map=origin.class_map(dataset.categories) if class_map is None else class_map,
        checkpoints=states,
        precision=precision,
        device=device,
        masks=data.Masks.read(
            dataset.names,
            boxes=None if boxes is None else path_named(boxes, "boxes"),
            masks=None if masks is None else path_named(masks, "masks"),
        ),
    )


def _network(model: nn.Module | str, weights: Path | str | None, size: int | None) -> LoadedModel:
    if isinstance(model, str):
        return network.load_model(model, weights=weights, image_size=size)
    return network.taken(model)


def _own_size(module: nn.Module) -> int | None:
    """Side of the images that a network of timm says it is made for."""
    config = getattr(module, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    return int(size[-1]) if size else None


def _text(path: Any) -> str | None:
    return None if path is None else str(path)
