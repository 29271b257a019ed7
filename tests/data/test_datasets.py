"""What a user's own data set gives is read right, or refused with what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, random_split

from emergence_ext.data import ArraySamples, as_samples

RAMP = np.linspace(0, 65535, 32).astype(np.uint16)[None].repeat(8, 0)  # [8, 32]
GREY = (RAMP // 257).astype(np.uint8)
UNIT = torch.from_numpy(GREY)[None] / 255


class Own:
    def __init__(self, image: Any, given: Any = (0, 1), **attributes: Any) -> None:
        self.image, self.given = image, given
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self.given):
            raise IndexError(index)
        return self.image, self.given[index]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(RAMP),
        Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)])),
        GREY,
        RAMP,
        RAMP.astype(">u2"),
        GREY[..., None],
        GREY / 255,
        torch.from_numpy(RAMP)[None],
        torch.from_numpy(GREY)[None],
        UNIT.double(),
    ],
)
def test_images_of_known_range_are_recognised(image: Any) -> None:
    got = as_samples(Own(image))[0][0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, UNIT, rtol=0, atol=0.004)


def test_transparency_is_laid_over_white_as_for_files() -> None:
    clear = Image.fromarray(np.dstack([GREY, GREY, GREY, 0 * GREY]))
    assert torch.equal(as_samples(Own(clear))[0][0], torch.ones(3, 8, 32))


def test_bool_is_black_and_white() -> None:
    assert torch.equal(as_samples(Own(UNIT > 0.5))[0][0], (UNIT > 0.5).float())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (UNIT * 255, "values from 0 to 255, expected 0..1; divide by 255"),
        (UNIT * 4 - 2, "values from -2 to 2, .* leave the normalisation out"),
        (UNIT.where(UNIT > 0.5, torch.nan), "not finite"),
        (torch.from_numpy(GREY.astype(np.int64))[None], "of int64, whose white is not known"),
        (GREY.astype(np.int32), "of int32"),
        (RAMP // 16, "no value above 4095: 12 bits"),
        (Image.fromarray(RAMP // 16), "no value above 4095: 12 bits"),
        (Image.fromarray(GREY.astype(np.float32)), "floating-point"),
        (torch.zeros(32, 32, 3), r"tensor of \[32, 32, 3\], .* x\.permute\(2, 0, 1\)"),
        (np.zeros((3, 32, 32)), r"array of \[3, 32, 32\], .* x\.transpose\(1, 2, 0\)"),
    ],
)
def test_images_of_unknown_range_are_refused_by_name(image: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"sample 0.*{words}") as error:
        as_samples(Own(image))[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [np.zeros((2, 2), complex), np.array([["a"]]), UNIT[0], "x.png"])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(TypeError, match="sample 0"):
        as_samples(Own(image))[0]


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0],
        [torch.tensor(2), torch.tensor([0])],
        [np.int64(2), np.array([0])],
        np.array([2.0, 0.0]),
    ],
)
def test_labels_are_integers_of_any_kind(labels: Any) -> None:
    assert as_samples(Own(UNIT, labels)).labels == [2, 0]


@pytest.mark.parametrize("label", [1.5, "cat", "1", None, torch.eye(3)[1]])
def test_other_labels_are_refused(label: Any) -> None:
    with pytest.raises(TypeError, match="sample 1 is none"):
        as_samples(Own(UNIT, [0, label]))


def test_labels_are_those_of_the_items_and_not_of_a_list_beside_them() -> None:
    own = Own(UNIT, [1, 0], targets=[0, 1], labels=[0, 1], classes=["a", "b"])
    assert as_samples(own).labels == [1, 0]


def test_items_may_be_mappings(tmp_path: Path) -> None:
    class Feature:
        names = ("cat", "dog")

    rows = [{"image": UNIT, "label": 1, "id": 7}, {"image": UNIT, "label": 0, "id": 8}]

    class Rows(list[dict[str, Any]]):
        features = {"label": Feature()}  # noqa: RUF012

    samples = as_samples(Rows(rows))
    assert samples.labels == [1, 0] and samples.categories == ["cat", "dog"]
    assert torch.equal(samples[0][0], UNIT)
    with pytest.raises(TypeError, match=r"mappings of pixels, y; .* name these keys 'image'"):
        as_samples([{"pixels": UNIT, "y": 1}])


def test_items_as_models_of_hugging_face_take_them_are_known() -> None:
    tracked = UNIT.clone().requires_grad_()
    samples = as_samples([{"pixel_values": tracked, "labels": 1}, {"img": UNIT, "target": 0}])
    assert samples.labels == [1, 0]
    assert torch.equal(samples[0][0], UNIT) and not samples[0][0].requires_grad


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (UNIT, r"the item is a Tensor of \[1, 8, 32\]; give"),
        (GREY, r"the item is a ndarray of \[8, 32\]; give"),
        (Image.fromarray(GREY), "the item is a Image; give"),
        (None, "the item is a NoneType; give"),
        ((UNIT, "cat"), "the label is 'cat', expected an integer; number the categories"),
    ],
)
def test_what_is_no_pair_is_said(item: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"sample 1 is none .{words}"):
        as_samples([(UNIT, 0), item])


@pytest.mark.parametrize(
    "part",
    [
        lambda own: Subset(own, [1, 0]),
        lambda own: Subset(Subset(own, [0, 1]), [1, 0]),
        lambda own: ConcatDataset([Subset(own, [1]), Subset(own, [0])]),
        lambda own: random_split(own, [2], torch.Generator().manual_seed(0))[0],
    ],
)
def test_parts_of_a_set_keep_its_categories(part: Callable[[Any], Any]) -> None:
    dataset = part(Own(UNIT, [0, 2], classes=["a", "b", "c"]))
    samples = as_samples(dataset)
    assert samples.categories == ["a", "b", "c"]
    assert samples.labels == [label for _, label in (dataset[0], dataset[1])]


def test_parts_of_different_categories_are_refused() -> None:
    parts = [Own(UNIT, classes=["a", "b"]), Own(UNIT, classes=["b", "c"])]
    with pytest.raises(ValueError, match="parts have different categories"):
        as_samples(ConcatDataset(parts))  # type: ignore[arg-type]


def test_names_go_with_a_part() -> None:
    own = Own(UNIT, [0, 1, 1], names=["x", "y", "z"])
    assert as_samples(Subset(own, [2, 0])).names == ["z", "x"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "labels", "categories"),
    [
        (None, [0, 1, 2], ["a", "b", "c"]),
        (lambda y: 2 - y, [2, 1, 0], ["c", "b", "a"]),
        (lambda y: torch.tensor(y), [0, 1, 2], ["a", "b", "c"]),
        (lambda y: int(y > 0), [0, 1, 1], ["0", "1"]),
    ],
)
def test_a_target_transform_is_heeded(
    tmp_path: Path,
    change: Callable[[int], Any] | None,
    labels: list[int],
    categories: list[str],
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.fromarray(GREY).save(tmp_path / name / "0.png")
    dataset = datasets.ImageFolder(tmp_path, target_transform=change)
    samples = as_samples(dataset)
    assert samples.labels == labels == [int(dataset[n][1]) for n in range(3)]
    assert samples.categories == categories
    assert as_samples(Subset(dataset, [2, 0])).labels == [labels[2], labels[0]]


def test_labels_that_torchvision_lists_are_taken_without_reading_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def read(path: str) -> Tensor:
        raise AssertionError(f"{path} was read")

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    dataset = datasets.ImageFolder(tmp_path, loader=read)
    assert as_samples(dataset).labels == [0, 1]
    assert as_samples(ConcatDataset([dataset, dataset])).labels == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.full((2, 1, 4, 4), 200.0), "from 200 to 200, expected 0..1; divide by 255"),
        (torch.full((2, 1, 4, 4), -1.5), "leave the normalisation out"),
        (torch.full((2, 1, 4, 4), 200), "int64, whose white is not known"),
        (torch.full((2, 1, 4, 4), torch.nan), "not finite"),
    ],
)
def test_arrays_whose_white_is_not_known_are_refused(images: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=f"^images: .*{re.escape(said)}"):
        ArraySamples(images, [0, 1], ["a", "b"])


class _Breaks:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 2:
            raise FileNotFoundError("moved.png")
        return torch.zeros(1, 4, 4), index


def test_what_a_data_set_raises_is_told_by_sample_and_place() -> None:
    said = r"^dataset: sample 2: .*test_datasets\.py:\d+ in __getitem__: FileNotFoundError: moved"
    with pytest.raises(ValueError, match=said):
        as_samples(_Breaks())
    samples = as_samples(Subset(_Known(_Breaks()), [0, 2]))
    with pytest.raises(ValueError, match=said.replace("sample 2", "sample 1")):
        samples[1]


class _Known(_Breaks):
    """Says its labels, so that no item is read before its image is wanted."""

    def __init__(self, inner: _Breaks) -> None:
        self.inner, self.images = inner, 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.images += 1
        return (torch.zeros(1, 4, 4), index) if self.images <= 2 else self.inner[index]
