"""A network beside people: published kappas, planted disagreement, files that do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookinside.annotators import Labels, agreement, counts, fleiss_kappa, read_labels
from emergence_ext.report.look.annotators import annotators as sheet
from emergence_ext.report.look.sheet import Scene
from emergence_ext.run.subject import Subject

pytest.importorskip("sklearn")

NAMES, CATEGORIES = ["a", "b", "c"], ["cat", "dog", "frog"]

# Ten subjects, fourteen raters, five categories: the worked example of Wikipedia's "Fleiss' kappa".
WORKED = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]


def test_fleiss_kappa_of_the_published_example() -> None:
    assert fleiss_kappa(torch.tensor(WORKED)) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_kappa_at_its_ends() -> None:
    assert fleiss_kappa(torch.tensor([[3, 0], [0, 3], [3, 0]])) == pytest.approx(1)
    # Two raters who always differ, both categories equally frequent: -1.
    assert fleiss_kappa(torch.tensor([[1, 1], [1, 1]])) == pytest.approx(-1)
    assert math.isnan(fleiss_kappa(torch.tensor([[3, 0], [3, 0]])))  # one category alone
    assert math.isnan(fleiss_kappa(torch.tensor([[1, 0], [0, 1]])))  # nobody to agree with


def test_images_with_one_label_say_nothing_of_agreement() -> None:
    votes = torch.tensor(WORKED)
    alone = torch.cat([votes, torch.tensor([[1, 0, 0, 0, 0]])])
    assert fleiss_kappa(alone) == fleiss_kappa(votes)


def test_by_chance_kappa_is_near_zero(generator) -> None:
    said = torch.randint(4, (20000, 3), generator=generator)
    assert abs(fleiss_kappa(counts(said, 4))) < 0.02


def compared() -> tuple:
    """Cohen (1960)-like table of two raters: 20, 5, 10, 15 of 50, kappa 0.4 (Wikipedia)."""
    said = [[0, 0]] * 20 + [[0, 1]] * 5 + [[1, 0]] * 10 + [[1, 1]] * 15
    labels = Labels(["A", "B"], torch.arange(50), torch.tensor(said))
    p = torch.tensor([[0.9, 0.1]] * 25 + [[0.2, 0.8]] * 25)
    return labels, agreement(labels, p, torch.tensor([0] * 25 + [1] * 25))


def test_cohens_kappa_of_the_published_example() -> None:
    _, found = compared()
    assert found.cohen[1, 2] == pytest.approx(0.4)
    assert found.cohen[0, 1] == pytest.approx(1)  # the network says what A says
    assert found.cohen[0, 0].isnan() and torch.equal(found.cohen[1, 2], found.cohen[2, 1])


def test_accuracy_confusion_and_distance() -> None:
    _, found = compared()
    assert [found.accuracy(k)[0].value for k in range(3)] == [1, 1, 0.7]
    human, labels = found.human()
    assert human.value == 0.85 and labels == 100
    assert found.confusion[0].tolist() == [[25, 0], [0, 25]]
    assert found.confusion[1].tolist() == [[45, 5], [10, 40]]
    assert found.distance[0] == pytest.approx(0.1) and found.distance[20] == pytest.approx(0.4)
    # Where B says another category than A and the network; ties by their order.
    assert found.ranked()[:5].tolist() == [20, 21, 22, 23, 24]


def test_missing_labels_count_for_nothing() -> None:
    said = torch.tensor([[0, -1], [1, -1], [-1, 1]])
    found = agreement(
        Labels(["A", "B"], torch.arange(3), said), torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1])
    )
    assert found.cohen[1, 2].isnan()  # no image in common
    assert found.cohen[0, 2].isnan()  # a single image, where both say the same
    assert found.accuracy(1)[1] == 2 and found.accuracy(2)[0].value == 1
    assert math.isnan(found.fleiss)


def test_both_fleiss_kappas_are_of_the_same_images() -> None:
    said = torch.tensor([[0, 0], [1, 1], [0, 1], [1, -1], [0, -1]])
    p = torch.eye(2)[[0, 1, 0, 0, 1]]  # against the only label of the last two
    y = torch.tensor([0, 1, 0, 1, 0])
    found = agreement(Labels(["A", "B"], torch.arange(5), said), p, y)
    short = agreement(Labels(["A", "B"], torch.arange(3), said[:3]), p[:3], y[:3])
    assert found.fleiss == pytest.approx(short.fleiss)
    assert found.fleiss_with_network == pytest.approx(short.fleiss_with_network)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


LONG = "name,annotator,label\nc,Ann,dog\na,Ann,cat\na,Bo,frog\nx,Bo,cat\na,Cy,\n"
SPACED = " name , Ann ,Bo\n\nc ,dog , \n a,cat, frog\nx,,cat\n"
WIDE = "name,Ann,Bo\nc,dog,\na,cat,frog\nx,,cat\n"


@pytest.mark.parametrize("text", [LONG, WIDE, "\ufeff" + WIDE, SPACED])
def test_long_and_wide_files_say_the_same(tmp_path, text) -> None:
    found = read_labels(write(tmp_path / "l.csv", text), NAMES, CATEGORIES)
    assert sorted(found.annotators) == ["Ann", "Bo"]
    assert found.index.tolist() == [0, 2] and found.unknown == 1
    order = [found.annotators.index(name) for name in ("Ann", "Bo")]
    assert found.said[:, order].tolist() == [[0, 2], [1, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,annotator,label\na,Ann,cat\n", "must have the columns name, annotator, label"),
        ("name,label\na,cat\n", "must have the columns"),
        ("", "it has none"),
        ("name,Ann\na,cta\n", "line 2 of .*: no category 'cta'. Nearest: 'cat'"),
        ("name,annotator,label\na,Ann,cat\na,Ann,dog\n", "line 3 of .*: 'Ann' labels 'a' again"),
        ("name,annotator,label\na,,cat\n", "a label without an annotator"),
        ("name,Ann\na,\n", "holds no label of any of the 3 images"),
        ("name,Ann\nx,cat\n", "names are as 'a'"),
        ("name,network\na,cat\n", "line 2 of .*: an annotator is called 'network'"),
        ("name,annotator,label\na,all people,cat\n", "an annotator is called 'all people'"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path / "l.csv", text), NAMES, CATEGORIES)


def test_shapes_that_do_not_fit_are_refused() -> None:
    labels, _ = compared()
    with pytest.raises(ValueError, match="M = 50"):
        agreement(labels, torch.ones(3, 2), torch.zeros(3).long())
    empty = Labels(["A"], torch.arange(1), torch.tensor([[-1]]))
    with pytest.raises(ValueError, match="at least one label an image"):
        agreement(empty, torch.ones(1, 2), torch.zeros(1).long())


class Red(nn.Module):
    """Says the category of the brightest channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 30 * x.mean(dim=(2, 3))


def test_a_sheet_shows_the_image_that_people_see_otherwise(tmp_path) -> None:
    pixels = torch.zeros(6, 3, 8, 8)
    for n in range(6):
        pixels[n, n % 3] = 1
    data = ArraySamples(pixels, [n % 3 for n in range(6)], CATEGORIES)
    scene = Scene(Subject(Red(), {}, data), [0], [])
    with pytest.raises(ValueError, match="--annotators takes a CSV file"):
        sheet(scene)
    lines = [f"{n},{CATEGORIES[n % 3]},{CATEGORIES[n % 3 if n != 4 else 0]}" for n in range(6)]
    path = write(tmp_path / "l.csv", "\n".join(["name,Ann,Bo", *lines]))
    made = sheet(Scene(scene.subject, [0], [], files={"annotators": path}))
    first = made.tables["images"][0]
    assert first["image"] == "4" and first["distance"] == pytest.approx(0.5)
    assert {row["rater"]: row["accuracy"] for row in made.tables["raters"]} == {
        "network": 1,
        "Ann": 1,
        "Bo": pytest.approx(5 / 6),
        "all people": pytest.approx(11 / 12),
    }
    assert set(made.figures) == {"confusion", "agreement", "seen_apart"}
