"""No image is passed over, or counted twice, without a word."""

import errno
import json
import logging
import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from emergence_ext.data import (
    ImageFolder,
    class_map,
    find_masks,
    image_set,
    kinds,
    mask_on_grid,
    read_csv,
)
from emergence_ext.data import scan as scanning


def image(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, format=kind)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for category in ("a", "b"):
        for n in range(2):
            image(tmp_path / "data" / category / f"{n}.png")
    return tmp_path / "data"


def reasons(root: Path) -> dict[str, str]:
    return dict(ImageFolder(root, size=8).bad)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("a/.ipynb_checkpoints/0-checkpoint.png", "hidden"),
        ("a/.hidden.jpg", "hidden"),
        (".cache/x/0.png", "hidden"),
        ("a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "in @eaDir, of another program"),
        ("__MACOSX/a/._0.png", "in __MACOSX, of another program"),
        ("b/@EADIR/0.png", "in @EADIR, of another program"),
        ("0.png", "beside the folders of the categories"),
        ("a/0.png.bak", "a backup"),
        ("a/photo.heic", ".heic files are not read: save them as PNG or JPEG"),
        ("a/photo.NEF", ".nef files are not read: save them as PNG or JPEG"),
    ],
)
def test_what_is_passed_over_has_its_reason(
    root: Path, place: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    image(root / place)
    with caplog.at_level(logging.WARNING):
        samples = ImageFolder(root, size=8)
    assert samples.names == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert samples.categories == ["a", "b"] and samples.bad == [(place, reason)]
    assert f"1 image is left out: 1 {reason.partition(':')[0]} ({place})" in caplog.text


def test_every_folder_of_another_program_is_passed_over(root: Path) -> None:
    names = (
        "__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
        "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
    )  # fmt: skip
    for name in names:
        image(root / name / "0.png")
    assert reasons(root) == {f"{name}/0.png": f"in {name}, of another program" for name in names}


def test_every_kind_of_image_that_is_not_read_is_told(root: Path) -> None:
    text = (
        "heic heif hif jxl dib svg ico cur icns psd tga pcx dds eps exr hdr xcf wmf emf sgi qoi "
        "fits dcm dng nef nrw cr2 cr3 crw arw srf sr2 orf rw2 raf pef raw 3fr iiq"
    )
    suffixes = text.split()
    for suffix in suffixes:
        (root / "a" / f"x.{suffix}").write_bytes(b"of a camera")
    assert reasons(root) == {
        f"a/x.{suffix}": f".{suffix} files are not read: save them as PNG or JPEG"
        for suffix in suffixes
    }


def test_copies_of_images_that_editors_leave_are_backups(root: Path) -> None:
    ends = (".bak", ".orig", ".old", ".tmp", ".part", ".crdownload", ".swp", "~", ".BAK")
    for end in ends:
        image(root / "a" / f"0.png{end}")
    (root / "a" / "notes.bak").write_text("no image")
    assert reasons(root) == {f"a/0.png{end}": "a backup" for end in ends}


@pytest.mark.parametrize("brand", ["heic", "heix", "hevc", "heim", "mif1", "msf1"])
def test_heic_of_every_brand_is_known_by_content(root: Path, brand: str) -> None:
    content = b"\0\0\0\x18ftyp" + brand.encode() + bytes(40)
    for name, written in (("one", content), ("two", content[:12]), ("no", b"\0" + content)):
        (root / "a" / name).write_bytes(written)
    told = "HEIC files are not read: save them as PNG or JPEG"
    assert reasons(root) == {"a/one": told, "a/two": told}


@pytest.mark.parametrize("left", ["look.html", "mindseye.json"])
def test_what_other_commands_left_is_no_image(root: Path, left: str) -> None:
    image(root / "a" / "seen" / "0.png")
    (root / "a" / "seen" / left).write_text("{}")
    image(root / "shown" / "0.png")
    (root / "shown" / left).write_text("{}")
    samples = ImageFolder(root, size=8)
    told = "result of an earlier run"
    assert samples.categories == ["a", "b"] and len(samples) == 4
    assert dict(samples.bad) == {"a/seen/0.png": told, "shown/0.png": told}


@pytest.mark.parametrize("config", ["[]", "{", '{"format_version": 1}', "[" * 100_000])
def test_another_config_beside_images_is_no_result(root: Path, config: str) -> None:
    (root / "a" / "config.json").write_text(config)
    assert len(ImageFolder(root, size=8)) == 4


def test_reasons_are_counted_in_one_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(5):
        image(root / "a" / ".thumbs" / f"{n}.png")
    (root / "a" / "cut.png").write_bytes((root / "a" / "0.png").read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        samples = ImageFolder(root, size=8)
    assert {kind: len(names) for kind, names in kinds(samples.bad).items()} == {
        "hidden": 5,
        "cannot be read": 1,
    }
    (line,) = caplog.messages
    assert line.startswith("6 images are left out: 5 hidden (a/.thumbs/0.png, ")
    assert line.endswith(", ...), 1 cannot be read (a/cut.png)")


@pytest.mark.parametrize("name", ["2.PNG", "2.JPeG", "bare", "photo.jpg_large", "2.avif"])
def test_images_are_known_by_suffix_or_content(root: Path, name: str) -> None:
    kind = {"2.JPeG": "JPEG", "photo.jpg_large": "JPEG", "2.avif": "AVIF"}
    if name == "2.avif" and ".avif" not in scanning.EXTENSIONS:
        image(root / "a" / "2.avif", "PNG")
        assert "a/2.avif" in reasons(root)
        return
    image(root / "a" / name, kind.get(name, "PNG"))
    samples = ImageFolder(root, size=8)
    assert f"a/{name}" in samples.names and not samples.bad


def test_what_is_no_image_is_none(root: Path) -> None:
    for name in ("notes.txt", "Thumbs.db", "README", ".DS_Store", "P1.md"):
        (root / "a" / name).write_text("P1 is no image")
    assert len(ImageFolder(root, size=8)) == 4 and not reasons(root)


def test_links_are_followed_and_every_folder_counts_once(root: Path, tmp_path: Path) -> None:
    image(tmp_path / "more" / "x.png")
    image(tmp_path / "more" / "deep" / "y.png")
    (root / "a" / "batch1").symlink_to(tmp_path / "more")
    (root / "a" / "batch2").symlink_to(tmp_path / "more")
    (root / "a" / "deep").symlink_to(tmp_path / "more" / "deep")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "around").symlink_to(tmp_path)
    (root / "a" / "b").symlink_to(root / "b")
    (root / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    (root / "a" / "loop").symlink_to(root / "a" / "loop")
    samples = ImageFolder(root, size=8)
    new = ["a/batch1/deep/y.png", "a/batch1/x.png"]
    assert samples.names == ["a/0.png", "a/1.png", *new, "b/0.png", "b/1.png"]
    twice = {f"a/{name}" for name in ("batch2", "deep", "up", "around", "b")}
    assert dict(samples.bad) == {
        **dict.fromkeys(twice, "a link to what is counted already"),
        **dict.fromkeys(("a/gone.png", "a/loop"), "a link to nothing"),
    }


def test_categories_may_be_links(root: Path, tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "x.png")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(root, size=8).names[-1] == "c/x.png"
    (root / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"'d' .*d: a link to what is counted already"):
        ImageFolder(root, size=8)
    (tmp_path / "view").symlink_to(root / "a")
    assert len(image_set(tmp_path / "view", size=8)) == 2


def test_a_linked_image_counts_once(root: Path, tmp_path: Path) -> None:
    blob = image(tmp_path / "blob")
    for name in ("a/first.png", "b/second.png"):
        (root / name).symlink_to(blob)
    (root / "a" / "best.png").symlink_to(root / "a" / "0.png")
    samples = ImageFolder(root, size=8)
    assert samples.names == ["a/0.png", "a/1.png", "a/first.png", "b/0.png", "b/1.png"]
    assert set(dict(samples.bad)) == {"b/second.png", "a/best.png"}


@pytest.mark.parametrize("place", ["out", "runs/first", "a/run"])
def test_results_of_a_run_are_no_images(root: Path, place: str) -> None:
    image(root / place / "figures" / "one.png")
    config = {"format_version": 1, "hashes": {}, "bad_images": []}
    (root / place / "config.json").write_text(json.dumps(config))
    samples = ImageFolder(root, size=8)
    assert samples.categories == ["a", "b"] and len(samples) == 4
    assert samples.bad == [(f"{place}/figures/one.png", "result of an earlier run")]
    with pytest.raises(ValueError, match="results of an earlier run"):
        ImageFolder(root / place, size=8)


def test_a_folder_that_may_not_be_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(root / "a" / "closed" / "x.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reason = "a folder that cannot be read: Permission denied"
    assert reasons(root) == {"a/closed": reason}


def test_a_link_to_itself_is_no_category(root: Path) -> None:
    (root / "loop").symlink_to(root / "loop")
    assert scanning.subfolders(root) == [root / "a", root / "b"]


def test_trouble_of_the_machine_is_no_empty_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.EMFILE, "Too many open files")

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many"):
        patch.setattr(scanning, "listed", fail)
        scanning.subfolders(root)
    (root / "config.json").write_text("{}")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many"):
        patch.setattr(Path, "read_bytes", fail)
        scanning.is_result(root)
    error = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(scanning, "listed", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert scanning.subfolders(root) == [] and not scanning.is_result(root)


def test_what_is_no_file_is_not_waited_for(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "null.png").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(root / "a" / "socket.png"))
        assert set(reasons(root)) == {"a/pipe.png", "a/null.png", "a/socket.png"}
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"class_map: .*pipe\.png is a pipe, expected a file"):
        class_map(pipe, ["a"], 1)
    with pytest.raises(ValueError, match=r"boxes: .* is a pipe"):
        read_csv(pipe, "boxes")
    with pytest.raises(ValueError, match=r"masks: .* is a pipe"):
        mask_on_grid(pipe, (2, 2))


def test_a_set_passes_over_the_same(root: Path) -> None:
    image(root / "a" / ".ipynb_checkpoints" / "x.png")
    samples = image_set(root, size=8)
    assert len(samples) == 4
    assert samples.bad == [("a/.ipynb_checkpoints/x.png", "hidden")]


def test_masks_are_found_as_images_are(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(tmp_path / "masks" / "a" / "0.PNG")
    image(tmp_path / "masks" / "a" / "1.jpg", "JPEG")
    image(tmp_path / "masks" / ".old" / "a" / "1.png")
    os.mkfifo(tmp_path / "masks" / "a" / "1.png")
    with caplog.at_level(logging.WARNING):
        assert list(find_masks(tmp_path / "masks", ["a/0.png", "a/1.png"])) == ["a/0.png"]
    assert "3 images are left out" in caplog.text and "not lossless (a/1.jpg)" in caplog.text
    image(tmp_path / "masks" / "a" / "0.bmp", "BMP")
    with pytest.raises(ValueError, match="both of a/0"):
        find_masks(tmp_path / "masks", ["a/0.png"])
