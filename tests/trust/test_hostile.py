"""Files that mean harm: refused in words, soon, in little memory; nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trust import readers
from tests.trust.forked import forked

SECONDS, MEMORY = 5, 500 << 20
REFUSED = (ValueError, OSError, RuntimeError, TypeError)


class Runs:
    """Unpickled, it runs a command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def _safetensors(header: bytes, claimed: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + body


def _claims(shape: list[int], end: int) -> bytes:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    return json.dumps({"conv1_1.weight": entry}).encode()


def _torch_bomb(path: Path, mark: Path) -> None:
    """A gigabyte of zeros, deflated to a megabyte."""
    saved = io.BytesIO()
    torch.save({"conv1_1.weight": torch.zeros(4)}, saved)
    with zipfile.ZipFile(saved) as small, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as big:
        for name in small.namelist():
            if "/data/" not in name:
                big.writestr(name, small.read(name))
                continue
            with big.open(name, "w", force_zip64=True) as out:
                for _ in range(1024):
                    out.write(bytes(1 << 20))


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 << 20)) for _ in range(64)) + rows.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _write(content: bytes) -> Callable[[Path, Path], None]:
    return lambda path, mark: path.write_bytes(content) and None


ANYTHING: dict[str, Callable[[Path, Path], None]] = {
    "empty": lambda path, mark: path.touch(),
    "a folder": lambda path, mark: path.mkdir(),
    "a pipe": lambda path, mark: os.mkfifo(path),
    "a device": lambda path, mark: path.symlink_to("/dev/zero"),
    "a loop": lambda path, mark: path.symlink_to(path),
    "a pickle that runs": lambda path, mark: path.write_bytes(pickle.dumps(Runs(mark))) and None,
    "nested JSON": _write(b'{"a":' * 100_000),
    "a huge number": _write(b'{"epoch": 1' + b"0" * 1_000_000 + b"}"),
    "a list": _write(b"[1, 2, 3]"),
    "NaN": _write(b'{"format_version": NaN, "a": Infinity}'),
    "no UTF-8": _write(b'{"a": "\xff\xfe"}'),
    "NUL": _write(bytes(1000)),
    "quotes without an end": _write(b'name,left\n"' + b"x" * 5_000_000),
    "many columns": _write(b",".join(b"c%d" % k for k in range(50_000)) + b"\n"),
    "a header of many bytes": _write(_safetensors(b"{}", claimed=1 << 62)),
    "a shape of many bytes": _write(_safetensors(_claims([1 << 40], 4), body=bytes(4))),
    "a shape below zero": _write(_safetensors(_claims([-1], 4), body=bytes(4))),
    "an end beyond the file": _write(_safetensors(_claims([1], 1 << 50), body=bytes(4))),
    "a bomb of torch": _torch_bomb,
    "a bomb of pixels": _write(_png(60_000, 60_000)),
    "a large picture": _write(_png(9_400, 9_400)),
    "PostScript": _write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n"),
}


@pytest.mark.parametrize("reader", readers.READERS)
def test_hostile_files_are_refused(reader: str, tmp_path: Path, cases: int) -> None:
    """Every kind of file is given to every reader, whatever suffix it wants."""
    kinds = list(ANYTHING)
    random.Random(reader).shuffle(kinds)
    for kind in kinds[: 3 * cases]:
        folder = tmp_path / kind
        folder.mkdir()
        path, mark = folder / readers.NAMES[reader], folder / "mark"
        path.parent.mkdir(exist_ok=True, parents=True)
        ANYTHING[kind](path, mark)
        before = _tree(tmp_path)
        ending = forked(readers.read, reader, path)
        what = f"{kind} given to {reader}: {ending}"
        assert ending.killed_by is None, what
        assert ending.error is None or isinstance(ending.error, REFUSED), what + ending.trace
        if ending.error is not None:
            assert str(ending.error), what
            assert "\n" not in str(ending.error), what
        assert ending.seconds < SECONDS, what
        assert ending.peak < MEMORY, what
        assert not mark.exists(), what
        assert _tree(tmp_path) == before, what


def _tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}
