"""Time the first reading of a store, which digests all of it, beside plain reading of its files.

python -m benchmarks.store --shards 8 --out large_folder

What the system keeps of the files is dropped before each turn, so both come from the disk; the ways
take turns, and medians are printed. `--out` says on which disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from emergence_ext.store import ShardStore, fill_rows

ROW: Final = (49, 64)
ROWS: Final = 5350
"""Of a shard: 64 MiB in float32."""


def write_store(path: Path, shards: int) -> None:
    """Fill a store with noise."""

    def compute(mine):  # type: ignore[no-untyped-def]
        for rows in mine:
            noise = torch.Generator().manual_seed(rows.start)
            content = torch.randn(len(rows), *ROW, generator=noise)
            yield slice(rows.start, rows.stop), {"F": content}

    fill_rows(path, {}, shards * ROWS, ROWS, compute)


def forget(folder: Path) -> None:
    """Have the system drop what it keeps of the files."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(folder: Path) -> None:
    """Read the files one after the other into one piece of memory."""
    buffer = bytearray(2**20)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def read_store(folder: Path) -> None:
    """Read all rows, shard by shard, and with them their digests."""
    store = ShardStore(folder)
    for start in range(0, len(store), ROWS):
        store.slice("F", start, min(len(store), start + ROWS))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8, help="of 64 MiB")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder on the disk that is asked about")
    options = parser.parse_args()
    ways: dict[str, Callable[[Path], None]] = {"plainly": read_plainly, "a store": read_store}
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir=options.out) as place:
        folder = Path(place) / "rows"
        write_store(folder, options.shards)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
        for _ in range(options.turns):
            for way, read in ways.items():
                forget(folder)
                clock, processor = time.perf_counter(), time.process_time()
                read(folder)
                took = time.perf_counter() - clock, time.process_time() - processor
                spent[way].append(took)
    print(f"{size:.0f} MiB, medians of {options.turns} turns\n")
    print("| read | MiB/s | ms of the processor a MiB |\n|--|--:|--:|")
    rates = {}
    for way, times in spent.items():
        clock, processor = (statistics.median(column) for column in zip(*times, strict=True))
        rates[way] = size / clock
        print(f"| {way} | {rates[way]:.0f} | {1e3 * processor / size:.2f} |")
    print(f"\n{rates['a store'] / rates['plainly']:.0%} of the plain rate")


if __name__ == "__main__":
    main()
