"""Tar files in WebDataset's layout are hostile input, and give what a folder of the same gives."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emergence_ext.data import ImageFolder, TarFiles, tar_paths, tars

Member = tuple[str | tarfile.TarInfo, bytes]


def image(value: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(path: Path, members: Sequence[Member], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pairs(first: int, count: int) -> list[Member]:
    members: list[Member] = []
    for n in range(first, first + count):
        members += [(f"{n:06}.png", image(n)), (f"{n:06}.cls", b"%d" % (n % 2))]
    return members


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("max_memory", [1 << 30, 0])
def test_a_tar_gives_what_a_folder_of_the_same_files_gives(
    tmp_path: Path, kind: int, max_memory: int
) -> None:
    for n in range(7):
        path = tmp_path / "folder" / str(n % 2) / f"{n:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(n))
    folder = ImageFolder(tmp_path / "folder", size=8)
    write(tmp_path / "s" / "0.tar", pairs(0, 3), kind)
    write(tmp_path / "s" / "1.tar", pairs(3, 4), kind)
    samples = TarFiles(tmp_path / "s" / "{0..1}.tar", size=8, max_memory=max_memory)
    assert samples.categories == folder.categories == ["0", "1"] and not samples.bad
    assert samples.labels == [0, 1, 0, 1, 0, 1, 0]
    assert samples.names[:4] == ["0.tar/000000.png", "0.tar/000001.png", "0.tar/000002.png",
                                 "1.tar/000003.png"]  # fmt: skip
    by_key = {Path(name).name: n for n, name in enumerate(folder.names)}
    for n, (name, pixels) in enumerate(zip(samples.names, samples.read(range(7)), strict=True)):
        assert torch.equal(pixels, folder[by_key[Path(name).name]][0])
        assert torch.equal(pixels, samples[n][0])
    again = TarFiles([tmp_path / "s" / "0.tar", tmp_path / "s" / "1.tar"], size=8,
                     max_memory=max_memory)  # fmt: skip
    assert again.digest() == samples.digest()


def test_labels_are_also_in_json_and_categories_may_be_named(tmp_path: Path) -> None:
    members: list[Member] = [
        ("a/x.PNG", image(0)), ("a/x.json", json.dumps({"label": 1, "caption": "c"}).encode()),
        ("a/y.v2.png", image(1)), ("a/y.jpeg", image(2, "JPEG")), ("a/y.cls", b" 0\n"),
        ("a/y.txt", b"x"),
    ]  # fmt: skip
    path = write(tmp_path / "0.tar", members)
    samples = TarFiles(path, size=4, categories=["no", "yes"])
    assert list(zip(samples.names, samples.labels, strict=True)) == [
        ("0.tar/a/x.PNG", 1), ("0.tar/a/y.jpeg", 0)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"categories: 1 are given, but 0.tar/a/x.PNG has label 1"):
        TarFiles(path, size=4, categories=["no"])


def test_what_cannot_be_a_sample_is_listed_by_name_and_reason(tmp_path: Path) -> None:
    loop = linked("link.png", "../../etc/passwd")
    twin = ("good.png", image(5))
    path = write(
        tmp_path / "0.tar",
        [
            ("good.png", image(0)), ("good.cls", b"0"), twin, ("good.jpg", image(1, "JPEG")),
            ("lone.png", image(2)),
            ("word.png", image(3)), ("word.cls", b"cat"),
            ("two.png", image(3)), ("two.cls", b"0"), ("two.cls", b"1"),
            (loop, b""), (linked("pipe.png", "", tarfile.FIFOTYPE), b""),
            ("._good.png", image(4)),
            ("raw.heic", b"x"), ("raw.cls", b"0"),
            ("damaged.png", image(6)[:60]), ("damaged.cls", b"0"),
            ("\x1b[2Jevil\n.png", image(7)), ("\x1b[2Jevil\n.cls", b"0"),
            ("../up.png", image(8)), ("../up.cls", b"0"),
            ("long" * 300 + ".png", image(9)),
            ("big.png", image(10)), ("big.json", b" " * (tars.LABEL + 1)),
        ],
    )  # fmt: skip
    samples = TarFiles(path, size=8)
    assert samples.names == ["0.tar/good.png", r"0.tar/\x1b[2Jevil\n.png", "0.tar/../up.png"]
    assert torch.equal(samples[0][0], TarFiles(
        write(tmp_path / "1.tar", [("good.png", image(0)), ("good.cls", b"0")]), size=8
    )[0][0])  # fmt: skip
    reasons = dict(samples.bad)
    assert reasons["0.tar/good.png"] == "its name comes twice in the tar"
    assert reasons["0.tar/good.jpg"] == "a second image of its key"
    assert "no .cls and no .json" in reasons["0.tar/lone.png"]
    assert "b'cat', expected a number" in reasons["0.tar/word.png"]
    assert "the labels 0 and 1" in reasons["0.tar/two.png"]
    assert reasons["0.tar/link.png"] == reasons["0.tar/pipe.png"]
    assert "a link" in reasons["0.tar/link.png"]
    assert reasons["0.tar/._good.png"] == "hidden"
    assert "heic files are not read" in reasons["0.tar/raw.heic"]
    assert reasons["0.tar/damaged.png"].startswith("cannot be read: ")
    assert f"{tars.LABEL + 1} bytes" in reasons["0.tar/big.png"]
    assert reasons["0.tar/" + ("long" * 250)] == "a name of 1204 characters"
    assert len(samples.bad) == 12
    assert all(name.isprintable() and len(name) < 1100 for name in reasons)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "1.tar"]


@pytest.mark.parametrize("length", [600, 1748, 1048, 2048, 2148])
def test_a_tar_that_is_cut_off_is_named_with_its_place(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "0.tar", pairs(0, 2))
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(
        ValueError, match=r"0\.tar is damaged or cut off at byte \d+, after"
    ) as said:
        TarFiles(path, size=4)
    place = int(str(said.value).split("byte ")[1].split(",")[0])
    assert place <= length < place + 1024 and "\n" not in str(said.value)


def _head(kind: bytes, size: bytes) -> bytes:
    """A head of a tar whose size may be anything."""
    info = tarfile.TarInfo("a.png")
    info.type = kind
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    "damage",
    [
        _head(tarfile.REGTYPE, b"\xff" * 11 + b"\x00"),  # a negative size leads back, for ever
        _head(tarfile.REGTYPE, b"\x80" + b"\x7f" * 11),
        _head(tarfile.GNUTYPE_LONGNAME, b"77777777777\0"),  # a name of 8 GB
        _head(tarfile.XHDTYPE, b"\xff" * 12),
        _head(tarfile.GNUTYPE_LONGNAME, b"00000000001\0") * 3000,  # each within the last
        b"\x01" * 512,
    ],
    ids=["backwards", "beyond", "long name", "negative head", "nested", "noise"],
)
def test_heads_that_lie_are_refused(tmp_path: Path, damage: bytes) -> None:
    path = write(tmp_path / "0.tar", pairs(0, 2))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        tar.getmembers()
        end = tar.offset
    path.write_bytes(whole[:end] + damage + bytes(1024))
    with pytest.raises(
        ValueError, match=rf"damaged or cut off at byte {end}, after 4 files"
    ) as said:
        TarFiles(path, size=4)
    assert "\n" not in str(said.value) and "000001.cls" in str(said.value)


def test_what_is_no_tar_or_holds_no_labels_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    with pytest.raises(ValueError, match="a compressed one, which has to be unpacked"):
        TarFiles(tmp_path / "0.tar.gz", size=4)
    with pytest.raises(ValueError, match=r"no image with a label.*1 no \.cls"):
        TarFiles(write(tmp_path / "1.tar", [("a.png", image(0))]), size=4)
    gap = [("a.png", image(0)), ("a.cls", b"999999999")]
    with pytest.raises(ValueError, match=r"no image has label 0, but 2.tar/a.png has 999999999"):
        TarFiles(write(tmp_path / "2.tar", gap), size=4)
    with pytest.raises(ValueError, match="no image with a label"):
        TarFiles(write(tmp_path / "3.tar", []), size=4)
    with pytest.raises(ValueError, match="no tar file"):
        TarFiles([], size=4)


def test_patterns_and_folders_name_tars_in_order(tmp_path: Path) -> None:
    for name in ("08", "09", "10", "x"):
        write(tmp_path / "s" / f"{name}.tar", [])
    names = [path.name for path in tar_paths(tmp_path / "s" / "{08..10}.tar")]
    assert names == ["08.tar", "09.tar", "10.tar"]
    assert [path.name for path in tar_paths(tmp_path / "s" / "*.tar")] == [*names, "x.tar"]
    assert [path.name for path in tar_paths(tmp_path / "s")] == [*names, "x.tar"]
    assert tar_paths(tmp_path) == [] == tar_paths("digits") == tar_paths(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"data: no file .*s/11\.tar"):
        tar_paths(tmp_path / "s" / "{08..11}.tar")
