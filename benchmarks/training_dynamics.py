"""How much of a network's training a picture of its samples keeps: ours beside other projections.

python -m benchmarks.training_dynamics FOLDER --data mnist --epochs 14

FOLDER is the `data` folder of the Grand Tour (Li, Zhao, Scheidegger, "Visualizing Neural Networks
with the Grand Tour", Distill 2020, CC BY 4.0; its repository has it as public/data-no-cors/data):

    softmax/DATA/softmax-SPLIT.bin   float32, [epochs, images, categories]
    comparison/DATA/NAME.bin         float32, [epochs, images, 2]: positions by a method NAME

Every method places each image at each epoch; the network's own softmax is what is kept or lost:

- neighbours: share of the 15 nearest images by softmax that are among the picture's 15 nearest;
- temporal: Spearman correlation, over all pairs of epochs, of how far an image moved in the softmax
  with how far it moved in the picture, mean over images;
- prediction: share of images for which most of their 15 nearest of the picture have their answer;
- trustworthiness of the picture's 15 nearest (Venna and Kaski), as scikit-learn has it.

All but the second are means over the epochs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emergence_ext.method import PCA, SampleProjection, spearman

NEIGHBOURS: Final = 15
LEAST: Final = 1e-9
"""Of a probability whose logarithm is taken."""


class Kept(NamedTuple):
    """What a picture keeps of a training, see the module."""

    neighbours: float
    temporal: float
    prediction: float
    trustworthiness: float


def read_softmax(
    folder: Path, data: str, split: str, images: int = 1000, categories: int = 10
) -> Tensor:
    """Read the softmax of a training, `[T, N, C]`, of so many images and categories.

    Raises:
        FileNotFoundError: it is not in the folder.
        ValueError: a file that is no such array.
    """
    path = folder / "softmax" / data / f"softmax-{split}.bin"
    if not path.is_file():
        there = sorted(str(x.relative_to(folder)) for x in folder.glob("softmax/*/softmax-*.bin"))
        held = ", ".join(there) or "none like it"
        raise FileNotFoundError(f"folder: there is no {path}; it holds {held}")
    numbers = torch.from_numpy(np.fromfile(path, dtype="<f4"))
    if not len(numbers) or len(numbers) % (images * categories):
        raise ValueError(
            f"folder: {path} holds {len(numbers)} numbers, which are no epochs of {images} images "
            f"and {categories} categories"
        )
    P = numbers.view(-1, images, categories)
    if not bool(((P.sum(-1) - 1).abs() < 1e-3).all()):
        raise ValueError(f"folder: {path} holds rows that do not sum to 1, so they are no softmax")
    return P


def read_positions(folder: Path, data: str, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Read the pictures of other methods, name -> `[T, N, 2]`, of so many epochs and images.

    Raises:
        ValueError: a file that is no such array.
    """
    found = {}
    for path in sorted((folder / "comparison" / data).glob("*.bin")):
        if path.stem == "labels":
            continue
        numbers = torch.from_numpy(np.fromfile(path, dtype="<f4"))
        if len(numbers) != 2 * shape[0] * shape[1]:
            raise ValueError(
                f"folder: {path} holds {len(numbers)} numbers, expected {shape[0]} epochs of "
                f"{shape[1]} images in the plane"
            )
        found[path.stem] = numbers.view(*shape, 2)
    return found


def ours(P: Tensor, dim: int, seed: int = 0) -> Tensor:
    """Place images by `SampleProjection`, in the frame of the last epoch, `[T, N, dim]`.

    A network's feature is its softmax, as it is for the other methods.
    """
    z = P.clamp_min(LEAST).log()
    last = SampleProjection(dim, random_state=seed).fit(P[-1], z[-1])
    fits = [last.refit(f, logits) for f, logits in zip(P[:-1], z[:-1], strict=True)]
    return torch.stack([fit.transform(f) for fit, f in zip([*fits, last], P, strict=True)])


def by_components(P: Tensor, dim: int) -> Tensor:
    """Place images by the principal components of the last epoch, `[T, N, dim]`."""
    fit = PCA(dim).fit(P[-1])
    return torch.stack([fit.transform(f) for f in P])


def by_tsne(P: Tensor, seed: int = 0) -> Tensor:
    """Place images by t-SNE, each epoch on its own, `[T, N, 2]`."""
    from sklearn.manifold import TSNE

    return _each(P, lambda f: TSNE(2, init="pca", random_state=seed).fit_transform(f))


def by_umap(P: Tensor, seed: int = 0) -> Tensor:
    """Place images by UMAP, each epoch on its own, `[T, N, 2]`.

    Raises:
        ImportError: umap-learn is absent.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("umap: --umap wants umap-learn: pip install umap-learn") from error
    return _each(P, lambda f: UMAP(random_state=seed).fit_transform(f))


def _each(P: Tensor, place: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    return torch.stack([torch.from_numpy(np.asarray(place(f.numpy()), np.float32)) for f in P])


def kept(P: Tensor, x: Tensor, neighbours: int = NEIGHBOURS) -> Kept:
    """Say what a picture keeps.

    Args:
        P: softmax, `[T, N, C]`.
        x: positions, `[T, N, d]`.
        neighbours: that are compared.
    """
    from sklearn.manifold import trustworthiness

    rates = []
    for high, low in zip(P, x, strict=True):
        theirs, own = _nearest(high, neighbours), _nearest(low, neighbours)
        shared = (theirs[:, :, None] == own[:, None, :]).any(-1).float().mean()
        answer = high.argmax(1)
        votes = torch.nn.functional.one_hot(answer[own], high.shape[1]).sum(1)
        same = (votes.argmax(1) == answer).float().mean()
        trust = trustworthiness(high.numpy(), low.numpy(), n_neighbors=neighbours)
        rates.append((float(shared), float(same), float(trust)))
    shared, same, trust = np.mean(rates, axis=0)
    return Kept(float(shared), temporal(P, x), float(same), float(trust))


def temporal(P: Tensor, x: Tensor) -> float:
    """Correlate how far images moved between any two epochs, in the softmax and in the picture.

    An image that never moved has no ranks, and is left out; NaN where none did.
    """
    a, b = torch.triu_indices(len(P), len(P), 1)
    moved = [(y[a] - y[b]).norm(dim=-1).t() for y in (P, x)]  # [N, pairs]
    return float(spearman(*moved).nanmean())


def _nearest(x: Tensor, count: int) -> Tensor:
    """Indices of the nearest others of each row, `[N, count]`."""
    distance = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    return distance.topk(count, largest=False).indices


def pictures(
    P: Tensor, given: dict[str, Tensor], *, tsne: bool = False, umap: bool = False
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield every method with what places images by it, `[T, N, d]`."""
    yield "ours, 3-D", lambda: ours(P, 3)
    yield "ours, 2-D", lambda: ours(P, 2)
    yield "principal components, 3-D", lambda: by_components(P, 3)
    yield "principal components, 2-D", lambda: by_components(P, 2)
    for name, positions in given.items():
        yield f"{name} (given)", lambda positions=positions: positions  # type: ignore[misc]
    if tsne:
        yield "t-SNE, each epoch", lambda: by_tsne(P)
    if umap:
        yield "UMAP, each epoch", lambda: by_umap(P)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the `data` folder of the Grand Tour")
    parser.add_argument("--data", default="mnist", help="mnist, fashion-mnist or cifar10")
    parser.add_argument("--split", default="test", help="test or train")
    parser.add_argument("--images", type=int, default=1000, help="how many there are of an epoch")
    parser.add_argument("--epochs", type=int, default=14, help="so many, evenly over the training")
    parser.add_argument("--tsne", action="store_true", help="t-SNE too, of each epoch on its own")
    parser.add_argument("--umap", action="store_true", help="UMAP too, which wants umap-learn")
    asked = parser.parse_args(arguments)
    if asked.epochs < 2:
        parser.error("--epochs must be at least 2: one has no training")
    P = read_softmax(asked.folder, asked.data, asked.split, asked.images)
    given = read_positions(asked.folder, asked.data, (P.shape[0], P.shape[1]))
    some = torch.linspace(0, len(P) - 1, min(asked.epochs, len(P))).round().long()
    P, given = P[some], {name: x[some] for name, x in given.items()}
    print(f"{asked.data}, {len(P)} epochs of {P.shape[1]} images, {NEIGHBOURS} neighbours")
    print("method | neighbours | temporal | prediction | trustworthiness | seconds to place")
    for name, place in pictures(P, given, tsne=asked.tsne, umap=asked.umap):
        began = time.perf_counter()
        x = place()
        took = time.perf_counter() - began
        rates = " | ".join(f"{rate:.2f}" for rate in kept(P, x))
        print(f"{name} | {rates} | {took:.1f}", flush=True)


if __name__ == "__main__":
    main()
