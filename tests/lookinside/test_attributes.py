"""Accuracy by attributes: exact measures, planted dependence, bins that never part equal values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import ndimage
from torch import nn

from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookinside.attributes import (
    accuracy_by,
    image_attributes,
    object_attributes,
    odd_word,
    read_attributes,
)
from emergence_ext.method.intervals import proportion
from emergence_ext.report.look.attributes import attributes as sheet
from emergence_ext.report.look.sheet import Scene
from emergence_ext.run.subject import Subject


def test_measures_of_images_are_exact(generator) -> None:
    images = torch.rand(2, 3, 9, 11, generator=generator).double()
    found = image_attributes(images)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1)
    assert torch.allclose(found["brightness"], luma.mean(dim=(1, 2)))
    assert torch.allclose(found["contrast"], luma.std(dim=(1, 2), correction=0))
    for n in range(2):
        expected = ndimage.laplace(luma[n].numpy())[1:-1, 1:-1].var()
        assert found["sharpness"][n] == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_blurred_image_is_less_sharp_and_as_bright(channels, generator) -> None:
    image = torch.rand(channels, 16, 16, generator=generator)
    blurred = torch.tensor(ndimage.uniform_filter(image.numpy(), (0, 3, 3), mode="wrap"))
    found = image_attributes(torch.stack([image, blurred]))
    assert found["brightness"][0] == pytest.approx(float(found["brightness"][1]), rel=1e-4)
    assert found["sharpness"][1] < 0.1 * found["sharpness"][0]
    flat = image_attributes(torch.full((1, channels, 8, 8), 0.25))
    assert flat["brightness"] == pytest.approx(0.25) and flat["contrast"] < 1e-9


def test_the_largest_box_is_the_object() -> None:
    boxes = {"a": [(0.0, 0.0, 0.2, 0.2), (0.25, 0.5, 0.75, 1.0)], "c": [(0.4, 0.4, 0.6, 0.6)]}
    found = object_attributes(boxes, ["a", "b", "c"])
    assert found["object: size"][0] == 0.25 and found["object: size"][1].isnan()
    assert found["object: left to right"][0] == 0.5 and found["object: top to bottom"][0] == 0.75
    assert found["object: off centre"][0] == pytest.approx(0.5 / 2**0.5)
    assert found["object: off centre"][2] == pytest.approx(0)
    with pytest.raises(ValueError, match="boxes: none of the 1 images"):
        object_attributes(boxes, ["x"])


def test_bins_hold_equal_counts_and_wilsons_interval() -> None:
    values = torch.randperm(100, generator=torch.Generator().manual_seed(0)).double()
    right = values >= 40
    groups = accuracy_by(values, right, 5)
    assert [g.images for g in groups] == [20] * 5
    assert [g.accuracy.value for g in groups] == [0, 0, 1, 1, 1]
    assert [(g.low, g.high) for g in groups] == [(20 * b, 20 * b + 19) for b in range(5)]
    # Wilson (1927): centre (k + z^2/2) / (n + z^2), here of none in 20.
    assert groups[0].accuracy == proportion(0, 20)
    assert groups[0].accuracy.high == pytest.approx(1.959964**2 / (20 + 1.959964**2), rel=1e-5)


def test_equal_values_share_a_bin_and_unknown_ones_are_left_out() -> None:
    values = torch.tensor([0.0] * 6 + [1.0] * 2 + [float("nan")] * 2)
    groups = accuracy_by(values, torch.ones(10, dtype=torch.bool), 4)
    assert [(g.low, g.high, g.images) for g in groups] == [(0, 0, 6), (1, 1, 2)]
    (only,) = accuracy_by(torch.full((5,), 3.0), torch.zeros(5, dtype=torch.bool))
    assert only.images == 5 and only.accuracy.value == 0


def test_words_are_groups_by_frequency() -> None:
    words = ["sea", "road", "sea", "", "sea", "road", "attic"]
    right = torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()
    groups = accuracy_by(words, right)
    assert [(g.name, g.images) for g in groups] == [("sea", 3), ("road", 2), ("attic", 1)]
    assert groups[0].accuracy.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.ones(2).bool()), r"must be \[n\] both"),
        ((torch.zeros(2), torch.ones(2).bool(), 0), "bins: expected at least 1"),
        ((torch.full((2,), torch.nan), torch.ones(2).bool()), "no image has it"),
        ((["", ""], torch.ones(2).bool()), "no image has it"),
    ],
)
def test_what_makes_no_groups_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_by(*arguments)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_numbers_or_words(tmp_path) -> None:
    path = write(tmp_path / "a.csv", "name,age,place,none\nb,3,sea,\na,,road,\nz,9,sky,1\n")
    found = read_attributes(path, ["a", "b", "c"])
    assert list(found) == ["age", "place"]  # nobody has the last
    assert found["age"].tolist()[1] == 3 and found["age"][[0, 2]].isnan().all()
    assert found["place"] == ["road", "sea", ""]


def test_what_is_missing_does_not_make_words_of_numbers(tmp_path) -> None:
    cells = ["NA", "n/a", "NaN", "-", "", "nan"]
    lines = [f"{n},{cell},2{n}" for n, cell in enumerate(cells)] + ["6,7,20 years"]
    path = write(tmp_path / "a.csv", "\n".join([" name ,age, years", *lines]))
    names = [str(n) for n in range(7)]
    found = read_attributes(path, names)
    assert found["age"].isfinite().tolist() == [False] * 6 + [True]
    assert found["years"][0] == "20" and odd_word(found["years"]) == 6
    assert odd_word(["1", "x", "", "y"]) is None and odd_word(["1", "2"]) is None
    data = ArraySamples(torch.rand(7, 1, 8, 8), [n % 2 for n in range(7)], ["dark", "light"])
    made = sheet(Scene(Subject(Bright(), {}, data), [0], [], files={"attributes": path}))
    assert "years is taken as words, since '20 years' of image '6'" in " ".join(made.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,age\na,1\n", "must have a column name"),
        ("name\na\n", "must have a column name and one for each attribute"),
        ("", "has none"),
        ("name,age\na,1\na,2\n", "line 3 of .* lists 'a' again"),
        ("name,age\nx,1\n", "lists none of the 1 images"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_attributes(write(tmp_path / "a.csv", text), ["a"])


def test_images_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 x 3"):
        image_attributes(torch.rand(1, 3, 2, 8))


class Bright(nn.Module):
    """Says category 1 of what is brighter than 0.4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([0.4 - mean, mean - 0.4], dim=1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_sheet_finds_the_planted_attribute(channels, tmp_path) -> None:
    light = torch.linspace(0, 1, 40)
    noise = torch.rand(40, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = 0.9 * light[:, None, None, None] + 0.1 * noise
    data = ArraySamples(pixels, [1] * 40, ["dark", "light"])  # wrong where it is dark
    boxes = write(tmp_path / "b.csv", "name,left,top,right,bottom\n0,0,0,.5,.5\n7,0,0,1,1\n")
    columns = write(tmp_path / "a.csv", "name,place\n0,sea\n1,road\n")
    scene = Scene(
        Subject(Bright(), {}, data, batch_size=16),
        [0],
        [],
        files={"boxes": boxes, "attributes": columns},
    )
    made = sheet(scene)
    rows = [row for row in made.tables["accuracy"] if row["attribute"] == "brightness"]
    # The second of five groups ends where the network begins to see light.
    assert [rows[k]["accuracy"] for k in (0, 2, 3, 4)] == [0, 1, 1, 1]
    names = {row["attribute"] for row in made.tables["accuracy"]}
    assert names == {
        *("brightness", "contrast", "sharpness", "place"),
        *(f"object: {x}" for x in ("size", "off centre", "left to right", "top to bottom")),
    }
    assert "brightness" in " ".join(made.notes[1:])
