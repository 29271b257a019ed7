"""Time `extract` on a folder of JPEGs beside the bare loop "load, decode, forward".

python -m benchmarks.input --model small_vgg64 --size 64

The ways take turns, so that what else the machine does meets all of them; medians are printed, by
the clock and of the processor's time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from emergence_ext.data import ImageFolder
from emergence_ext.network import extract, load_model, preprocess

WIDTH, HEIGHT = 500, 375
CATEGORIES: Final = 10
BATCH: Final = 32


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs of noise over smooth colours, about 55 kB each, in ten categories."""
    random = np.random.default_rng(0)
    for n in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        pixels = smooth.astype(int) + random.integers(-8, 9, smooth.shape)
        path = folder / str(n % CATEGORIES) / f"{n:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


class Bare(Dataset[Tensor]):
    """What anybody writes: open, convert, cut, resize."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


class Network(NamedTuple):
    """What the images go through."""

    module: nn.Module
    layers: dict[str, str]
    prepare: nn.Module


def bare(network: Network, images: Bare, workers: int) -> None:
    """Load, decode, forward; with workers, as `DataLoader` does it."""
    network.module.eval()
    batches: Iterator[Tensor] | DataLoader[Tensor]
    if workers:
        batches = DataLoader(images, BATCH, num_workers=workers)
    else:
        starts = range(0, len(images), BATCH)
        batches = (
            torch.stack([images[n] for n in range(k, min(k + BATCH, len(images)))]) for k in starts
        )
    with torch.no_grad():
        for batch in batches:
            prepared = network.prepare(batch).to(memory_format=torch.channels_last)
            network.module(prepared)


def ways(
    network: Network, folder: Path, size: int, workers: int
) -> dict[str, Callable[[], object]]:
    """Name what is timed."""
    images = Bare(folder, size)
    checked = ImageFolder(folder, size=size, max_memory=0)

    def ours(samples: ImageFolder) -> object:
        return extract(
            network.module, samples, network.layers, preprocess=network.prepare, batch_size=BATCH
        )

    return {
        "bare loop": lambda: bare(network, images, 0),
        f"bare loop, DataLoader({workers})": lambda: bare(network, images, workers),
        "folder and extract, kept": lambda: ours(ImageFolder(folder, size=size)),
        "extract, not kept": lambda: ours(checked),
        "folder and extract, not kept": lambda: ours(ImageFolder(folder, size=size, max_memory=0)),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small_vgg64")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the loop with DataLoader")
    options = parser.parse_args()
    loaded = load_model(options.model, num_classes=CATEGORIES, image_size=options.size)
    network = Network(loaded.module, dict(loaded.layers or {}), preprocess(loaded.preprocess))
    spent: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), options.images)
        timed = ways(network, Path(name), options.size, options.workers)
        for turn in range(options.turns + 1):
            for way, call in timed.items():
                clock, processor = time.perf_counter(), sum(os.times()[:4])
                call()
                if turn:  # the first warms up
                    spent.setdefault(way, []).append(
                        (time.perf_counter() - clock, sum(os.times()[:4]) - processor)
                    )
    print(
        f"{options.model}, {options.images} JPEGs of {WIDTH} x {HEIGHT} to {options.size} pixels, "
        f"{torch.get_num_threads()} threads of torch: ms an image"
    )
    print("| way | clock | of the bare rate | processor | of the bare rate |")
    print("|---|---|---|---|---|")
    medians = {
        way: [statistics.median(x) / options.images * 1e3 for x in zip(*pairs, strict=True)]
        for way, pairs in spent.items()
    }
    base = medians["bare loop"]
    for way, (clock, processor) in medians.items():
        print(
            f"| {way} | {clock:.2f} | {base[0] / clock:.0%} | {processor:.2f} "
            f"| {base[1] / processor:.0%} |"
        )


if __name__ == "__main__":
    main()
