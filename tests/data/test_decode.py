"""TIFF of every kind, little memory, and a machine in trouble."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emergence_ext.data import ImageFolder, decode, image_set, mask_on_grid
from emergence_ext.data import reading as reader

RAMP = np.linspace(0, 65535, 24).astype(np.uint16)[None].repeat(24, 0)
EXPECTED = torch.from_numpy(np.rint(RAMP / 257).astype(np.uint8)).expand(3, 24, 24) / 255


def tiff(path: Path, values: np.ndarray, bits: int, **tags: int) -> Path:
    """Write grey pixels as they are, with the tags of baseline TIFF 6.0."""
    content = values.astype(f"<i{values.itemsize}").tobytes() if bits != 12 else _packed(values)
    known = {"photometric": 262, "format": 339, "highest": 281}
    height, width = values.shape
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: len(content)} | {known[name]: value for name, value in tags.items()}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    start = 8 + len(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, start) + content
        + struct.pack("<H", len(entries)) + body + bytes(4)
    )  # fmt: skip
    return path


def _packed(values: np.ndarray) -> bytes:
    bits = (values.reshape(-1, 1) >> np.arange(11, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def read(root: Path) -> Tensor:
    return ImageFolder(root, size=24)[0][0]


@pytest.mark.parametrize(
    ("values", "bits", "tags"),
    [
        (RAMP, 16, {}),
        (65535 - RAMP, 16, {"photometric": 0}),
        ((RAMP // 257).astype(np.uint8), 8, {}),
        (255 - (RAMP // 257).astype(np.uint8), 8, {"photometric": 0}),
        (RAMP // 16, 12, {}),
        (RAMP // 16, 16, {"highest": 4095}),
    ],
    ids=["16", "white is zero", "8", "8, white is zero", "12 packed", "12 in 16"],
)
def test_grey_of_any_depth_is_read_right(
    tmp_path: Path, values: np.ndarray, bits: int, tags: dict[str, int]
) -> None:
    tiff(tmp_path / "a" / "0.tif", values, bits, **tags)
    torch.testing.assert_close(read(tmp_path), EXPECTED, rtol=0, atol=0.0045)


@pytest.mark.parametrize(
    ("values", "bits", "tags", "words"),
    [
        ((RAMP // 257).astype(np.uint8), 8, {"format": 2}, "signed"),
        (RAMP, 16, {"format": 2}, "signed"),
        (RAMP.astype(np.uint32), 32, {}, "32 bits"),
        (RAMP // 16, 16, {}, "no value above 4095: 12 bits"),
    ],
)
def test_grey_of_unknown_range_is_refused_by_name(
    tmp_path: Path, values: np.ndarray, bits: int, tags: dict[str, int], words: str
) -> None:
    tiff(tmp_path / "a" / "0.tif", values, bits, **tags)
    with pytest.raises(ValueError, match=words):
        read(tmp_path)


def test_black_is_black(tmp_path: Path) -> None:
    tiff(tmp_path / "a" / "0.tif", 0 * RAMP, 16)
    assert torch.equal(read(tmp_path), torch.zeros(3, 24, 24))


def test_sixteen_bits_of_png_may_be_transparent(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "a" / "0.png", transparency=0)
    image = read(tmp_path)
    assert image[:, :, 0].min() == 1 and torch.equal(image[:, :, 1:], EXPECTED[:, :, 1:])


@pytest.mark.parametrize("mode", ["P", "LA", "1", "RGBA", "PA"])
def test_every_mode_of_pillow_is_read(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(((RAMP > 32767) * 255).astype(np.uint8))
    (tmp_path / "a").mkdir()
    suffix = "tif" if mode == "PA" else "png"
    image = grey.convert("LA").convert("PA") if mode == "PA" else grey.convert(mode)
    try:
        image.save(tmp_path / "a" / f"0.{suffix}")
    except (OSError, ValueError):
        image = image.convert("LA")
        image.save(tmp_path / "a" / f"0.{suffix}")
    expected = torch.from_numpy(RAMP > 32767).expand(3, 24, 24).float()
    assert torch.equal(read(tmp_path), expected)


def test_of_a_film_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    (tmp_path / "a").mkdir()
    frames[0].save(tmp_path / "a" / "0.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(read(tmp_path)[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_strips_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    generator = np.random.default_rng(0)
    for kind, mode in enumerate(("RGBA", "LA")):
        shape = (24, 24, len(mode))
        noise = generator.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(noise, mode).save(tmp_path / "a" / f"{kind}.png")
    Image.fromarray(RAMP).save(tmp_path / "a" / "2.png")
    whole = ImageFolder(tmp_path, size=24)
    monkeypatch.setattr("emergence_ext.data.pixels.STRIP", 24 * 5)
    strips = ImageFolder(tmp_path, size=24)
    for n in range(3):
        assert torch.equal(whole[n][0], strips[n][0])


MEASURE = """
import resource, sys
from pathlib import Path
from emergence_ext.data import ImageFolder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples = ImageFolder(Path(sys.argv[1]), size=32)
assert len(samples) == 4, samples.bad
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_large_images_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for n in range(4):  # 16 megapixels of 16 bits: 32 MB each
        Image.fromarray(np.full((4000, 4000), 40000, np.uint16)).save(
            tmp_path / "a" / f"{n}.png", compress_level=1
        )
    taken = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    scale = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert int(taken.stdout) * scale < 4 * 16_000_000 * 6  # 40 with int64 and float64 beside them


def test_large_images_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = decode._Budget(10)
    held, most, lock = [0], [0], threading.Lock()

    def work(size: int) -> None:
        with budget.hold(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.005)
            with lock:
                held[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 4, 4, 4, 9, 25, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert not held[0] and most[0] == 25  # the largest had to be alone


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reader, "WAITS", (0, 0, 0))
    for n in range(6):
        path = tmp_path / "data" / "a" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "data"


class Failing:
    """Fails on one file, for a number of times."""

    def __init__(self, error: BaseException, times: int, work: Any) -> None:
        self.error, self.left, self.work = error, times, work

    def __call__(self, path: Any, *given: Any, **more: Any) -> Any:
        if Path(path).name == "3.png" and self.left:
            self.left -= 1
            raise self.error
        return self.work(path, *given, **more)


TROUBLE = [
    *(OSError(getattr(errno, name), name) for name in ("EMFILE", "ENFILE", "EIO", "ESTALE")),
    OSError(errno.ENOMEM, "ENOMEM"),
    OSError("out of memory when reading image file"),
    MemoryError(),
]


@pytest.mark.parametrize("error", TROUBLE, ids=repr)
def test_a_machine_in_trouble_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Image, "open", Failing(error, 3, Image.open))
    samples = ImageFolder(root, size=8)
    assert len(samples) == 6 and not samples.bad


@pytest.mark.parametrize("error", TROUBLE, ids=repr)
def test_a_good_image_is_never_left_out_for_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | MemoryError
) -> None:
    monkeypatch.setattr(Image, "open", Failing(error, 99, Image.open))
    with pytest.raises((OSError, MemoryError), match=r"3\.png") as raised:
        ImageFolder(root, size=8)
    assert "not left out" in str(raised.value) and "\n" not in str(raised.value)
    if isinstance(raised.value, OSError):
        assert isinstance(error, OSError) and raised.value.errno == error.errno
    with pytest.raises((OSError, MemoryError)):
        mask_on_grid(root / "a" / "3.png", (2, 2))


def test_what_is_not_kept_is_tried_again_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = ImageFolder(root, size=8, max_memory=0)
    failing = Failing(OSError(errno.EIO, "EIO"), 2, Image.open)
    monkeypatch.setattr(Image, "open", failing)
    assert samples[3][0].shape == (3, 8, 8) and not failing.left


@pytest.mark.slow
def test_too_few_file_handles_stop_the_work(root: Path) -> None:
    code = (
        "import os, resource, sys; from pathlib import Path; from emergence_ext.data import "
        "ImageFolder, reading; from PIL import Image; Image.init(); reading.WAITS = (0,)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "work = Image.open\n"
        "def starve(*a, **k):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard)); return work(*a, **k)\n"
        "Image.open = starve\n"
        "try: ImageFolder(Path(sys.argv[1]), size=8)\n"
        "except OSError as error: print(error.errno)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(errno.EMFILE)


def test_an_image_that_is_changed_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    for n in range(3):
        pixels = np.full((9, 9, 3), 50 * n, np.uint8)
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{n}.png")
    images = ImageFolder(tmp_path, size=8, max_memory=0)
    before = list(images.read(range(3)))
    other = (tmp_path / "a" / "1.png").read_bytes()
    Image.fromarray(np.full((9, 9, 3), 51, np.uint8)).save(tmp_path / "a" / "1.png")
    said = (
        r"^the image a/1\.png \(.*1\.png\) is not the one that was there when it was checked\. Bri"
    )
    with pytest.raises(RuntimeError, match=said):
        list(images.read(range(3)))
    (tmp_path / "a" / "1.png").write_bytes(other)
    assert all(torch.equal(x, y) for x, y in zip(images.read(range(3)), before, strict=True))


def test_a_jpeg_that_is_not_kept_is_checked_to_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    random = np.random.default_rng(0)
    for name in ("good", "cut"):
        noise = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "a" / f"{name}.jpg", quality=90)
    whole = (tmp_path / "a" / "cut.jpg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) - 40])
    kept, not_kept = (ImageFolder(tmp_path, size=8, max_memory=most) for most in (2**20, 0))
    assert kept.names == not_kept.names == ["a/good.jpg"] and kept.bad == not_kept.bad
    assert torch.equal(kept[0][0], not_kept[0][0])


def test_what_is_there_in_place_of_an_image_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (tmp_path / "b.png").write_text(pointer)
    (tmp_path / "c.jpg").write_text("<!DOCTYPE html>")
    (tmp_path / "d.jpg").write_text("nothing")
    reasons = [reason for _, reason in image_set(tmp_path, size=8).bad]
    assert "a pointer of Git LFS, and git lfs pull" in reasons[0]
    assert reasons[1] == "cannot be read: a web page or other markup"
    assert "cannot identify" in reasons[2]
