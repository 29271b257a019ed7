"""Students: trained on the teacher's features alone, and laid over the teacher region by region."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from emergence_ext import figures
from emergence_ext.cli.common import app
from emergence_ext.data.folders import ImageFolder
from emergence_ext.method.sample import SampleProjection
from emergence_ext.network.features import FeatureSet
from emergence_ext.network.models import load_weights
from emergence_ext.report import distill as report
from emergence_ext.report.files import write_table
from emergence_ext.run.analyse import run
from emergence_ext.run.emerging import Checkpoint, Emergence, Settings, emergence
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.folder import StateFolder
from emergence_ext.run.subject import Subject, SubjectSpec
from emergence_ext.store.arrays import StoreError
from emergence_ext.studies.distill import Distillation, StudentDifference, distillation
from emergence_ext.studies.students import Student, find_places, training_images
from emergence_ext.training import loop as training
from emergence_ext.training.distilling import FeaturePlace, distil, take_upper_layers
from emergence_ext.training.recipes import Recipe
from tests import tiny_networks
from tests.old_runs import age, set_config
from tests.planted import feature_set
from tests.studies.saved import NOWHERE, assert_equal, assert_updated_from_what_is_saved

RECIPE = Recipe(epochs=3, batch_size=12, lr=0.02, weight_decay=0)
CONV = FeaturePlace("conv2_1", "conv2_1")
FC = FeaturePlace("fc", "fc2", "input")
SETTINGS = Settings(region_images=40, importance_evals=10, regional_evals=20)


def _net(seed: int, build: Any = tiny_networks.three) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in module.state_dict().items()}


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageFolder:
    return ImageFolder(image_folder, size=16)


@pytest.fixture
def teacher(training: Path) -> nn.Module:
    module = _net(0)
    load_weights(module, training / "epoch_0012.safetensors")
    return module


def _distil(
    teacher: nn.Module, place: FeaturePlace, images: ImageFolder, out: Path, **more: Any
) -> Any:
    student = _net(7)
    recipe = more.pop("recipe", RECIPE)
    log = distil(teacher, student, place, images, images, recipe, out=out, **more)
    return student, log


@pytest.mark.parametrize(
    ("place", "own"),
    [(CONV, ("conv",)), (FC, ("conv", "fc1")), (FeaturePlace("conv1_1", "conv1_1"), ("conv1",))],
)
def test_layers_above_the_place_are_the_teachers_and_stay_so(
    place: FeaturePlace,
    own: tuple[str, ...],
    teacher: nn.Module,
    images: ImageFolder,
    tmp_path: Path,
) -> None:
    first = _state(_net(7))
    student, log = _distil(teacher, place, images, tmp_path)
    theirs = teacher.state_dict()
    for name, x in student.state_dict().items():
        if name.startswith(own):
            assert not torch.equal(x, first[name]), name
        else:
            assert torch.equal(x, theirs[name]), name
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in student.named_parameters() if n.startswith(own)}
    assert log.loss[-1] < 0.85 * log.loss[1]


def test_a_student_of_enough_epochs_sees_what_its_teacher_sees(
    teacher: nn.Module, images: ImageFolder, tmp_path: Path
) -> None:
    _, log = _distil(teacher, CONV, images, tmp_path, recipe=replace(RECIPE, epochs=12))
    assert log.loss[-1] < 0.25 and log.val_accuracy[-1] > 0.9 > log.val_accuracy[0]


def test_a_teacher_without_features_is_refused(
    teacher: nn.Module, images: ImageFolder, tmp_path: Path
) -> None:
    teacher.conv2_1.register_forward_hook(lambda module, given, features: 0 * features)
    with pytest.raises(ValueError, match="conv2_1 are all zero for 12 images"):
        _distil(teacher, CONV, images, tmp_path)


def test_the_teacher_comes_back_as_it_was(
    teacher: nn.Module, images: ImageFolder, tmp_path: Path
) -> None:
    teacher.train()
    teacher.conv1_1.eval()
    modes = [part.training for part in teacher.modules()]
    before, generator = _state(teacher), torch.random.get_rng_state()
    student, _ = _distil(teacher, FC, images, tmp_path, recipe=replace(RECIPE, epochs=1))
    assert [part.training for part in teacher.modules()] == modes
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    for module in (teacher, student):
        for part in module.modules():
            assert not part._forward_hooks and not part._forward_pre_hooks
    assert not any(part.training for part in student.modules())
    assert torch.equal(torch.random.get_rng_state(), generator)


class _KilledError(Exception):
    pass


def test_a_killed_distillation_goes_on_to_the_same_result(
    teacher: nn.Module, images: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, augment=True)
    more: dict[str, Any] = {"recipe": recipe, "checkpoints": [0, 1, 3]}
    whole, log = _distil(teacher, CONV, images, tmp_path / "a", **more)
    calls, schedule = 0, training._schedule

    def killed(progress: float, warmup: float) -> float:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise _KilledError
        return schedule(progress, warmup)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(training, "_schedule", killed)
        _distil(teacher, CONV, images, tmp_path / "b", **more)
    again, resumed = _distil(teacher, CONV, images, tmp_path / "b", **more)
    assert resumed.loss[1:] == log.loss[1:]
    for name, x in whole.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
    for epoch in more["checkpoints"]:
        file = f"epoch_{epoch:04d}.safetensors"
        one, other = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
        assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_another_teacher_or_place_is_not_mixed_up_with_what_is_there(
    teacher: nn.Module, images: ImageFolder, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, epochs=1)
    _distil(teacher, CONV, images, tmp_path, recipe=recipe)
    for other, place in ((teacher, FC), (_net(3), CONV)):
        with pytest.raises(ValueError, match="another folder"):
            _distil(other, place, images, tmp_path, recipe=recipe)
    with torch.no_grad():  # below the place, where nothing of the teacher is copied
        teacher.conv1_1[0].weight.mul_(1.5)
    with pytest.raises(ValueError, match="another folder"):
        _distil(teacher, CONV, images, tmp_path, recipe=recipe)


def test_an_output_with_more_columns_is_compared_by_those_of_the_categories(
    images: ImageFolder, tmp_path: Path
) -> None:
    teacher, student = (_net(seed, tiny_networks.five_outputs) for seed in (0, 7))
    recipe = replace(RECIPE, epochs=1)
    log = distil(teacher, student, CONV, images, images, recipe, out=tmp_path, outputs=[4, 0, 2])
    assert 0 <= log.val_accuracy[-1] <= 1 and student(torch.rand(2, 3, 16, 16)).shape == (2, 5)


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.9)
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 3)
        self.modes: set[tuple[bool, ...]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.modes.add((self.conv[1].training, self.drop.training, self.norm.training))
        return self.fc(self.norm(self.drop(self.conv(images).mean(dim=(2, 3)))))


def test_dropout_is_off_and_frozen_statistics_stay(images: ImageFolder, tmp_path: Path) -> None:
    teacher, student = (_net(seed, _Dropping) for seed in (0, 1))
    teacher.norm.running_mean.fill_(3)
    teacher.conv[1].running_mean.fill_(-0.5)
    place = FeaturePlace("conv", "conv")
    take_upper_layers(student, teacher, place, torch.rand(1, 3, 16, 16))
    assert not student.conv[1].running_mean.any()  # below the place nothing is the teacher's
    student.modes.clear()
    distil(teacher, student, place, images, images, replace(RECIPE, epochs=1), out=tmp_path)
    assert student.modes == {(False, False, False), (True, False, False)}
    assert torch.equal(student.norm.running_mean, torch.full((4,), 3.0))
    assert student.conv[1].running_mean.abs().sum() > 0


@pytest.mark.parametrize(
    ("place", "build", "message"),
    [
        (FeaturePlace("x", "fc2"), tiny_networks.three, "gives shape"),
        (FeaturePlace("input", "conv1_1.0", "input"), tiny_networks.three, "leaves the student no"),
        (FeaturePlace("x", "conv9"), tiny_networks.three, "no layer 'conv9'"),
        (CONV, tiny_networks.wider, "another architecture than the teacher's"),
    ],
)
def test_places_and_students_that_make_no_sense_are_refused(
    place: FeaturePlace, build: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        take_upper_layers(_net(1, build), _net(0), place, torch.rand(1, 3, 16, 16))


# The analysis, on planted features.


@pytest.fixture(scope="module")
def planted_teacher() -> tuple[Emergence, SampleProjection]:
    last = feature_set(1.0, 100)
    e = emergence([Checkpoint("network", 5, lambda: last)], SETTINGS)
    kept = ~e.held_out
    return e, SampleProjection().fit(last.f[kept], last.z[kept])


def _turned(learned: float) -> FeatureSet:
    """The same images, seen by channels in another order, which tells no student from another."""
    made = feature_set(learned, 100)
    order = torch.arange(9, -1, -1)
    layers = {name: F[..., order] for name, F in made.layers.items()}
    return replace(made, layers=layers, f=made.f.flip(1))


@pytest.fixture(scope="module")
def distilled(planted_teacher: tuple[Emergence, SampleProjection]) -> Distillation:
    students = [
        Student("good", 3, lambda: _turned(1.0), missed=0.1),
        Student("poor", 3, lambda: _turned(0.05), missed=0.8),
    ]
    return distillation(*planted_teacher, students, SETTINGS)


def test_a_student_that_learned_nothing_has_fewer_reliable_points_and_other_directions(
    distilled: Distillation,
) -> None:
    e = distilled.networks
    assert e.labels == ["good", "poor", "teacher"] and distilled.students == ["good", "poor"]
    assert e.epochs == [3, 3, 5] and e.h.shape == (3, 2, 100, 6, 3)
    ratios = [e.points(t).subset(e.held_out).count().ratio for t in range(3)]
    assert all(ratios) and ratios[0].low > ratios[1].high  # type: ignore[union-attr]
    good, poor = distilled.difference(0), distilled.difference(1)
    assert good.mean("orientation").high < poor.mean("orientation").low
    assert distilled.agreement(0) == 1.0 > distilled.agreement(1)
    assert e.accuracy(0) == e.accuracy(-1) > e.accuracy(1)


def test_the_teacher_and_its_frame_are_what_they_were(
    distilled: Distillation, planted_teacher: tuple[Emergence, SampleProjection]
) -> None:
    teacher, e = planted_teacher[0], distilled.networks
    for name in ("g", "z", "h", "w", "scale", "raw_strength"):
        assert torch.equal(getattr(e, name)[-1], getattr(teacher, name)[-1]), name
    assert e.frame is teacher.frame and torch.equal(e.held_out, teacher.held_out)
    assert set(e.fits) == {
        f"{kind}/{s}" for s in ("good", "poor")
        for kind in ("samples", *(f"{k}/conv{n}" for k in ("importance", "regional")
                                  for n in (1, 2)))
    }  # fmt: skip


def test_strengths_are_those_of_the_student_and_not_the_teachers(distilled: Distillation) -> None:
    e = distilled.networks
    mean = e.h[:, :, e.region_images].norm(dim=-1).mean(dim=(2, 3))
    torch.testing.assert_close(mean[:, 0], mean[:, 1], rtol=1e-4, atol=0)
    assert (e.scale[:, -1] == 1).all()
    assert abs(float(mean[1, 1] / mean[2, 1]) - 1) > 0.02


def test_differences_are_exact_and_only_of_held_out_images(distilled: Distillation) -> None:
    x, e = distilled.difference(1, 0), distilled.networks
    mine, theirs = e.h[1, 0, e.held_out], e.h[2, 0, e.held_out]
    cosine = torch.nn.functional.cosine_similarity(mine, theirs, dim=-1)
    torch.testing.assert_close(x.orientation, 1 - cosine, rtol=0, atol=1e-5)
    torch.testing.assert_close(x.strength, mine.norm(dim=-1) - theirs.norm(dim=-1))
    assert x.teacher_strength == pytest.approx(float(theirs.norm(dim=-1).mean()))
    for of in ("orientation", "strength"):
        interval = x.mean(of)
        assert interval.value == pytest.approx(float(getattr(x, of).mean()), rel=1e-5)
        assert interval.low < interval.value < interval.high


def test_a_region_without_strength_has_no_direction_and_is_left_out_of_the_mean() -> None:
    orientation = torch.tensor([[0.5, torch.nan], [1.0, 0.0]])
    x = StudentDifference("s", "l", orientation, torch.tensor([[1.0, -3.0], [0.0, 0.0]]), 2.0)
    assert x.mean("orientation").value == 0.5 and x.mean("strength").value == -0.5


def test_students_come_back_from_disk_and_finished_fits_are_not_made_again(
    distilled: Distillation,
    planted_teacher: tuple[Emergence, SampleProjection],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distilled.save(tmp_path / "distill")
    again = Distillation.load(tmp_path / "distill")
    assert_equal(again, distilled)
    assert report.tables(again, NOWHERE) == report.tables(distilled, NOWHERE)
    shown = replace(distilled, layer="conv1", missed=[0.5, float("nan")])
    shown.save(tmp_path / "shown")
    assert_equal(Distillation.load(tmp_path / "shown"), shown)
    student = Student("good", 3, lambda: _turned(1.0), folder=StateFolder(tmp_path / "fits"))
    few = replace(SETTINGS, importance_evals=2, regional_evals=2)
    one = distillation(*planted_teacher, [student], few)
    with pytest.raises(ValueError, match="another importance_evals"):
        distillation(*planted_teacher, [student], SETTINGS)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a fit that was kept is made again")

    for kind in ("importance.RegionImportance.fit", "regional.RegionalProjection.fit"):
        monkeypatch.setattr(f"emergence_ext.method.{kind}", refuse)
    two = distillation(*planted_teacher, [student], few)
    assert torch.equal(one.networks.h, two.networks.h)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda x: x.select(["conv2"]), r"different layers \(\['conv2'\] and \['conv1', 'conv2'"),
        (
            lambda x: replace(x, grid=(1, 3), layers={n: F[:, :3] for n, F in x.layers.items()}),
            r"different numbers of regions \(\[1, 3\] and \[2, 3\]\)",
        ),
        (lambda x: replace(x, names=x.names[::-1]), "different images"),
        (lambda x: replace(x, categories=list("abcd")), "different categories"),
    ],
)
def test_students_that_cannot_be_laid_over_the_teacher_are_refused(
    changes: Any, message: str, planted_teacher: tuple[Emergence, SampleProjection]
) -> None:
    student = Student("other", 1, lambda: changes(feature_set(1.0, 100)))
    with pytest.raises(ValueError, match=message):
        distillation(*planted_teacher, [student], SETTINGS)


@pytest.mark.parametrize("names", [[], ["a", "a"], ["teacher"]])
def test_students_need_names_of_their_own(
    names: list[str], planted_teacher: tuple[Emergence, SampleProjection]
) -> None:
    students = [Student(name, 1, lambda: feature_set(1.0, 100)) for name in names]
    with pytest.raises(ValueError, match="students: expected one or more, each of its own name"):
        distillation(*planted_teacher, students, SETTINGS)


def test_tables_have_a_row_for_every_network_layer_and_kind_of_images(
    distilled: Distillation, tmp_path: Path
) -> None:
    tables = report.tables(distilled, NOWHERE)
    networks = tables["networks"]
    assert [row["network"] for row in networks] == ["good", "poor", "teacher"]
    assert networks[0]["says what the teacher says"] == 1.0
    assert networks[2]["missed share of the teacher's features"] is None
    points = tables["knowledge"]
    assert len(points) == 3 * 2 * 2 and list(points[0])[:3] == ["network", "layer", "images"]
    regions = tables["regions"]
    assert [(row["student"], row["layer"]) for row in regions] == [
        (s, k) for s in ("good", "poor") for k in ("conv1", "conv2")
    ]
    x = distilled.difference(0, 1).mean("orientation")
    assert regions[1]["mean of 1 - cos"] == x.value
    write_table(tmp_path / "t.csv", regions)
    assert "nan" not in (tmp_path / "t.csv").read_text().lower()
    mean = distilled.difference(1).mean("strength").value / distilled.difference(1).teacher_strength
    assert regions[3]["the mean over the teacher's mean strength"] == pytest.approx(mean)
    nowhere = replace(distilled, networks=replace(distilled.networks, h=0 * distilled.networks.h))
    row = report.tables(nowhere, NOWHERE)["regions"][0]
    assert row["mean of 1 - cos"] == "no direction" and row["regions"] == 0
    assert row["the mean over the teacher's mean strength"] is None


def test_regions_are_drawn_of_the_layer_that_was_asked_for(distilled: Distillation) -> None:
    for layer, words in ((None, "conv2"), ("conv1", "conv1")):
        drawings = report.figures(replace(distilled, layer=layer), NOWHERE)
        assert list(drawings) == ["knowledge", "regions"]
        draw = drawings["regions"]
        assert not isinstance(draw, str)
        assert words in draw().axes[1].get_title("left")


def test_the_figure_tells_every_student_and_what_was_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    turned = torch.rand(2, 5, 4, generator=generator)
    turned[0, 0, 0] = torch.nan
    longer = torch.randn(2, 5, 4, generator=generator)
    figure = figures.student_regions(turned, longer, ["student_1", "fc"], "conv5_3")
    left, right = figure.axes
    told = [t.get_text() for t in figure.legends[0].get_texts()]
    assert [text.split(":")[0] for text in told] == ["student_1", "fc"]
    mean = float(turned[1].mean()), float(longer[1].mean())
    assert told[1].endswith(f"{mean[0]:.2f}, {mean[1]:.2f}".replace("-", "−"))
    assert "without direction, left out: 1" in " ".join(left.texts[0].get_text().split())
    assert "conv5_3" in right.get_title("left")
    with pytest.raises(ValueError, match="orientation must be"):
        figures.student_regions(turned[0], longer, ["a", "b"], "conv5_3")
    with pytest.raises(ValueError, match="must be \\[S=1"):
        figures.student_regions(turned, longer, ["a"], "conv5_3")
    with pytest.raises(ValueError, match="strength holds no finite value"):
        figures.student_regions(turned, longer * torch.nan, ["a", "b"], "conv5_3")


# The command.


@pytest.fixture(scope="module")
def finished(image_folder: Path, training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images with train/ and val/."""
    folder = tmp_path_factory.mktemp("distilled")
    for split in ("train", "val"):
        shutil.copytree(image_folder, folder / "data" / split)
    weights = str(training / "epoch_0012.safetensors")
    spec = SubjectSpec(str(folder / "data"), "tests.tiny_networks:three", weights=weights, size=16)
    settings = Settings(region_images=20, importance_evals=3, regional_evals=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emergence_ext.run.strength.TEMPERATURES", (1.0,))
        run(spec.load(), folder / "run", settings)
    return folder / "run"


def _call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["distill", *(str(x) for x in arguments)])


def _refused(*words: str, arguments: list[str | Path]) -> None:
    result = _call(*arguments)
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert all(word in last for word in ("error: ", *words)), last


def test_the_command_writes_students_tables_and_figures_and_shows_them_in_the_report(
    finished: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(finished, tmp_path / "run")
    asked: list[str | Path] = [here, "--epochs", "2", "--keep", "0,2", "--device", "cpu"]
    result = _call(*asked, "--layer", "conv1_1")
    assert result.exit_code == 0, result.output
    out = here / "distill"
    assert result.stdout.splitlines()[-2:] == [
        f"tables and figures: {out}",
        f"Report: {(here / 'report.html').as_uri()}",
    ]
    assert "Experiment: distillation" in (here / "report.html").read_text()
    assert {path.stem for path in (out / "tables").iterdir()} == {
        "networks",
        "knowledge",
        "regions",
        "learning",
    }
    drawn = {"knowledge", "regions", "learning_epochs"}
    assert_updated_from_what_is_saved(here, "distill", drawn)
    for name in ("conv2_1", "fc"):
        folder = out / "students" / name
        assert sorted(p.name for p in folder.glob("epoch_*")) == [
            "epoch_0000.safetensors",
            "epoch_0002.safetensors",
        ]
    networks = list(csv.DictReader((out / "tables" / "networks.csv").open()))
    expected = ["student at conv2_1", "student at fc", "teacher fitted again", "teacher"]
    assert [row["network"] for row in networks] == expected
    result = Distillation.load(out / "distill")
    assert result.students == expected[:3] and result.layer == "conv1_1"

    before = (out / "tables" / "regions.csv").read_bytes()
    again = _call(*asked)  # nothing is trained or fitted again
    assert again.exit_code == 0 and (out / "tables" / "regions.csv").read_bytes() == before
    _refused("holds a training", arguments=[here, "--epochs", "3"])


@pytest.mark.slow
def test_first_weights_are_not_those_of_the_teacher_with_the_same_seed(
    finished: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(finished, tmp_path / "run")
    asked: list[str | Path] = [here, "--epochs", "1", "--keep", "0", "--at", "conv1_1,fc"]
    assert _call(*asked).exit_code == 0
    weights = [
        load_file(here / "distill" / "students" / name / "epoch_0000.safetensors")
        for name in ("conv1_1", "fc")
    ]
    weights.append(_net(0).state_dict())
    first = [state["conv1_1.0.weight"] for state in weights]
    assert not any(torch.equal(first[a], first[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_network_that_comes_with_its_weights_does_not_start_as_its_own_teacher(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = FinishedRun.open(finished).config.subject
    assert subject is not None
    weights = subject["weights"]

    def pretrained(num_classes: int = 3) -> nn.Module:
        module = tiny_networks.three(num_classes)
        load_weights(module, Path(weights))
        return module

    monkeypatch.setattr(tiny_networks, "pretrained", pretrained, raising=False)
    here = shutil.copytree(finished, tmp_path / "run")
    age(here)  # else the other network would be refused
    config = json.loads((here / "config.json").read_text())
    config["subject"] |= {"model": "tests.tiny_networks:pretrained", "weights": None}
    (here / "config.json").write_text(json.dumps(config))
    asked: list[str | Path] = [here, "--epochs", "1", "--keep", "0", "--at", "conv1_1,conv"]
    result = _call(*asked)
    assert result.exit_code == 0, result.output
    first = [
        load_file(here / "distill" / "students" / name / "epoch_0000.safetensors")
        for name in ("conv1_1", "conv2_1")
    ]
    theirs = load_file(weights)
    assert not torch.equal(first[0]["conv1_1.0.weight"], theirs["conv1_1.0.weight"])
    assert not torch.equal(first[0]["conv1_1.0.weight"], first[1]["conv1_1.0.weight"])
    assert torch.equal(first[0]["fc2.weight"], theirs["fc2.weight"])  # above, the teacher's


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "conv2_l"], ["at: the run has no layer 'conv2_l'", "Nearest: 'conv2_1'", "fc"]),
        (["--at", "conv,conv2_1"], ["at: 'conv2_1' is named twice"]),
        (["--layer", "conv7"], ["layer: the run has no layer 'conv7'"]),
        (["--epochs", "0"], ["epochs: expected at least 1"]),
        (["--keep", "x"], ["keep: expected numbers"]),
        (["--epochs", "1", "--keep", "5"], ["keep: expected epochs in 0..1"]),
    ],
)
def test_wrong_use_is_told_before_anything_is_trained(
    arguments: list[str | Path], words: list[str], finished: Path
) -> None:
    _refused(*words, arguments=[finished, *arguments])
    assert not list(finished.glob("distill/students/*/epoch_*"))


def test_a_run_without_training_images_is_refused(finished: Path, tmp_path: Path) -> None:
    here = shutil.copytree(finished, tmp_path / "run")
    data = shutil.copytree(finished.parent / "data", tmp_path / "data")
    shutil.rmtree(data / "train")
    subject = json.loads((here / "config.json").read_text())["subject"]
    set_config(here, subject=subject | {"data": str(data)})
    _refused("holds no train/", "Put training images", arguments=[here])
    shutil.copytree(data / "val", data / "train")
    (data / "train" / "red").rename(data / "train" / "rouge")
    _refused("categories that are not", arguments=[here])
    _refused("holds no finished run", arguments=[tmp_path])


@pytest.mark.slow
def test_the_demo_is_distilled_on_the_digits_that_it_was_not_analysed_on() -> None:
    subject = SubjectSpec("digits", "small_vgg28", size=28).load()
    images = training_images(subject)
    assert len(images) == 4000 and not {*images.names} & {*subject.dataset.names}
    assert find_places(subject, ["conv", "fc"], "conv5_3") == [
        FeaturePlace("conv5_3", "conv5_3"),
        FeaturePlace("fc", "fc2", "input"),
    ]


def test_a_subject_made_by_hand_needs_training_images(images: ImageFolder) -> None:
    with pytest.raises(ValueError, match="give the training images"):
        training_images(Subject(_net(0), {"conv": "conv1_1"}, images))


def test_settings_are_those_of_the_run(finished: Path) -> None:
    expected = Settings(tau=0.4, region_images=20, importance_evals=3, regional_evals=5)
    assert FinishedRun.open(finished).settings == expected
    with pytest.raises(StoreError, match="notes no setting"):
        _ = NOWHERE.settings
