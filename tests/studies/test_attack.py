"""Attacks: regions are followed in the clean frame, types and counts are exact."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from matplotlib.text import Text
from torch import Tensor, nn
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.method import Frame
from emergence_ext.network import features
from emergence_ext.report import attack as report
from emergence_ext.run.finished import FinishedRun
from emergence_ext.studies.attack import (
    TYPES,
    Attack,
    AttackSettings,
    _Steps,
    _Taken,
    attack,
    region_types,
)
from tests.studies.saved import assert_updated_from_what_is_saved

STRONG = AttackSettings(eps=0.04, steps=12, images="all")


@pytest.fixture(scope="module")
def run(finished_run: Path) -> FinishedRun:
    return FinishedRun.open(finished_run)


@pytest.fixture(scope="module")
def attacked(run: FinishedRun) -> Attack:
    result = attack(run.subject(), run.emergence, run.learned(), STRONG)
    assert 2 <= len(result.astray) < len(result.names)
    return result


# Types of regions


def test_types_are_those_of_the_definition() -> None:
    #             o over four steps, a over four steps, type
    cases = [
        ("1100", "0011", 1),  # at every step one of them
        ("1000", "0011", 2),  # in between neither
        ("1001", "0000", 0),  # o at the end again
        ("0000", "0001", 3),
        ("0110", "0001", 3),  # neither at the start
        ("1000", "0000", 4),
        ("1000", "0110", 4),  # neither at the end
        ("0000", "0110", 0),
        ("0000", "1001", 0),  # a at the start
        ("1111", "0000", 0),
        ("0001", "1000", 0),
    ]
    o, a = (
        torch.tensor([[c == "1" for c in case[k]] for case in cases]).t()  # [T, cases]
        for k in (0, 1)
    )
    assert region_types(o, a).tolist() == [kind for *_, kind in cases]
    assert len(TYPES) == 5


# The study


def test_what_is_attacked_was_right_and_held_out(run: FinishedRun) -> None:
    e = run.emergence
    result = attack(run.subject(), e, run.learned(), AttackSettings(images="6"))
    index = [e.names.index(name) for name in result.names]
    assert len(index) <= 6 and e.held_out[index].all()
    assert torch.equal(result.y, e.y[index])
    assert torch.equal(result.predicted[0], e.z[-1, index].argmax(1))
    assert len(result.predicted) == 21 and result.eps == 1 / 255
    assert result.step == pytest.approx(0.1 / 255)
    assert len(set(result.y[:3].tolist())) == 3  # in turn
    assert report.tables(result, run)["success"][0]["images"] == "held out"


def test_regions_of_the_clean_images_are_those_of_the_run(
    run: FinishedRun, attacked: Attack
) -> None:
    index = [run.emergence.names.index(attacked.names[int(i)]) for i in attacked.astray]
    torch.testing.assert_close(attacked.h[0], run.emergence.h[-1][:, index], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attacked.g[0], run.emergence.g[-1][index], rtol=1e-4, atol=1e-5)
    p = run.emergence.frame.posterior(attacked.h)  # [2, L, n, R, C]
    for which, category in enumerate((attacked.original, attacked.adversarial)):
        chosen = category[None, None, :, None, None].expand(*p.shape[:-1], 1)
        expected = p.gather(-1, chosen)[..., 0] * (attacked.h.norm(dim=-1) > 0)
        torch.testing.assert_close(attacked.p[which], expected)


def test_only_images_that_are_wrong_after_are_followed(attacked: Attack) -> None:
    after = attacked.predicted[-1]
    assert torch.equal(attacked.astray, (after != attacked.y).nonzero().flatten())
    assert (attacked.original != attacked.adversarial).all()
    success = attacked.success()
    assert success.value == len(attacked.astray) / len(attacked.y)
    assert success.low < success.value < success.high


def test_an_image_that_is_right_again_at_the_end_was_not_led_astray(run: FinishedRun) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 2, 0]])  # of three steps
    h, g = (torch.randn(3, *shape, 3, generator=generator) for shape in ((2, 3, 4), (3,)))
    taken = _Taken(run.emergence.frame)
    taken.add(_Steps(predicted, h, g, torch.rand(2, 3, 3, 4, 4)), torch.tensor([0, 0, 0]))
    arrays = taken.arrays()
    assert arrays["astray"].tolist() == [1]  # and the last was wrong before
    assert torch.equal(arrays["g"], g[[0, -1], 1:2])


def test_what_is_kept_of_every_step_begins_and_ends_as_the_rest(attacked: Attack) -> None:
    shown = attacked.images.shape[1]
    assert shown == min(6, len(attacked.astray)) and len(attacked.path) == attacked.steps + 1
    assert torch.equal(attacked.path[[0, -1]], attacked.h[:, :, :shown])
    change = (attacked.images[1] - attacked.images[0]).abs()
    assert 0 < float(change.max()) <= attacked.eps + 1e-6
    kind, image, region = attacked.typed.t()
    assert len(kind) and torch.equal(attacked.types[-1, image, region].long(), kind)
    assert max(kind.bincount()) <= 3
    assert torch.equal(attacked.typed_path[[0, -1]], attacked.h[:, -1, image, region])
    assert torch.equal(attacked.typed_p[:, [0, -1]], attacked.p[:, :, -1, image, region])
    important = attacked.typed_p > 0.5
    assert torch.equal(region_types(important[0], important[1]).long(), kind)


def test_numbers_are_those_of_a_case_made_by_hand(run: FinishedRun, attacked: Attack) -> None:
    h = torch.zeros(2, 1, 2, 2, 3)
    h[0, 0, 0] = torch.tensor([[2.0, 0, 0], [0, 1, 0]])
    h[1, 0, 0] = torch.tensor([[0.0, 3, 0], [0, 4, 0]])  # cosines 0 and 1, differences 1 and 3
    h[0, 0, 1, 0] = torch.tensor([0.0, 0, 5])  # and without a direction after it
    p = torch.zeros(2, 2, 1, 2, 2)
    p[0, 0, 0, 0] = torch.tensor([0.9, 0.3])
    p[1, 1, 0, 0] = torch.tensor([0.8, 0.6])
    made = replace(
        attacked,
        layers=["conv"],
        tau=0.4,
        astray=attacked.astray[:2],
        h=h,
        p=p,
        types=torch.tensor([[[1, 3], [0, 0]]], dtype=torch.uint8),
    )
    cosine, strength, relative = made.cosine(0), made.strength(0), made.strength(0, relative=True)
    assert cosine is not None and strength is not None and relative is not None
    assert cosine.value == pytest.approx(0.5) and made.directionless(0) == 2
    assert strength.value == pytest.approx((1 + 3 + 5 + 0) / 4)
    assert relative.value == pytest.approx(9 / 8)
    assert strength.low <= strength.value <= strength.high
    assert [made.important(0, c, s).value for c in (0, 1) for s in (0, 1)] == [1, 0, 0, 2]
    torch.testing.assert_close(made.utility(0), torch.tensor([0.9, 0.3]))
    assert [made.of_type(0, k).value for k in range(5)] == [2, 1, 0, 1, 0]
    nowhere = replace(made, h=0 * h)
    assert nowhere.cosine(0) is None and nowhere.strength(0, relative=True) is None
    with pytest.raises(ValueError, match="no image was led astray"):
        replace(made, types=made.types[:, :0]).of_type(0, 1)
    row = report.tables(nowhere, run)["changes"][0]
    assert row["Delta_orientation (mean cosine)"] == "no directions"


def test_tables_hold_every_layer_and_every_region(run: FinishedRun, attacked: Attack) -> None:
    tables, layers = report.tables(attacked, run), len(attacked.layers)
    types = tables["types"]
    regions = attacked.types[0].numel()
    for k in range(layers):
        rows = types[5 * k : 5 * k + 5]
        assert sum(row["regions"] for row in rows) == regions
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        utility = tables["utility"][10 * k : 10 * k + 10]
        assert sum(row["regions"] for row in utility) == len(attacked.utility(k))
        for row in utility[:-1]:
            values, low = attacked.utility(k), row["p(c_ori | h_ori) from"]
            assert row["regions"] == int(((values >= low) & (values < row["to"])).sum())
    points = {(x["layer"], x["category"], x["state"]): x for x in tables["points"]}
    assert len(points) == 4 * layers
    for (layer, category, state), row in points.items():
        c, s, k = category == "adversarial", state == "after", attacked.layers.index(layer)
        assert row["regions"] == int((attacked.p[int(c), int(s), k] > attacked.tau).sum())
    assert tables["success"][0]["images"] == "held out and fitted"
    assert len(tables["changes"]) == layers + 1  # and one of the samples
    for i, row in enumerate(tables["images"]):
        first = row["wrong from step"]
        if first is None:
            assert attacked.predicted[-1, i] == attacked.y[i]
        else:
            assert (attacked.predicted[first:, i] != attacked.y[i]).all()
            assert attacked.predicted[first - 1, i] == attacked.y[i]


def test_an_attack_is_the_same_again_in_other_batches_and_from_disk(
    run: FinishedRun, attacked: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = features.ForwardPass.logits

    def small_machine(self: features.ForwardPass, images: Tensor) -> Tensor:
        if len(images) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(features.ForwardPass, "logits", small_machine)
    again = attack(run.subject(), run.emergence, run.learned(), STRONG)
    again.save(tmp_path / "attack")
    for other in (again, Attack.load(tmp_path / "attack")):
        assert other.names == attacked.names and other.grid == attacked.grid
        assert torch.equal(other.astray, attacked.astray)
        assert torch.equal(other.predicted, attacked.predicted)
        assert torch.equal(other.typed, attacked.typed)
        torch.testing.assert_close(other.h, attacked.h, rtol=1e-3, atol=1e-3)
        assert other.of_type(-1, 1) == again.of_type(-1, 1)


def test_the_network_comes_back_as_it_was(run: FinishedRun) -> None:
    subject = run.subject()
    module = subject.module.train()
    parameters = {name: x.clone() for name, x in module.state_dict().items()}
    state = torch.get_rng_state()
    attack(subject, run.emergence, run.learned(), AttackSettings(images="4", steps=2))
    assert module.training and all(part.training for part in module.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, parameters[name]) for name, x in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_class_map_says_which_output_is_which_category(
    run: FinishedRun, attacked: Attack
) -> None:
    subject, order = run.subject(), [2, 0, 1]
    linear = [part for part in subject.module.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        # Category c is now told by output order[c].
        for x in (linear.weight, linear.bias):
            x[order] = x.clone()
    mapped = replace(subject, outputs=order)
    again = attack(mapped, run.emergence, run.learned(), STRONG)
    assert torch.equal(again.predicted, attacked.predicted)
    torch.testing.assert_close(again.h, attacked.h, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_float32_images_in_bfloat16_too(
    bfloat16_products: None, run: FinishedRun
) -> None:
    subject = replace(run.subject(), precision="bfloat16")
    settings = AttackSettings(eps=0.04, steps=3, images="8")
    result = attack(subject, run.emergence, run.learned(), settings)
    assert result.h.dtype == torch.float32 and result.images.dtype == torch.float32
    assert len(result.names) == 8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": float("nan")}, "eps must be above 0"),
        ({"step": -1.0}, "step must be above 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"images": "some"}, "images: expected held-out, all, or a number"),
        ({"images": "0"}, "images: expected held-out, all, or a number"),
    ],
)
def test_settings_that_make_no_attack_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AttackSettings(**given)  # type: ignore[arg-type]


def test_runs_that_cannot_be_attacked_are_refused(run: FinishedRun) -> None:
    subject, e, learned = run.subject(), run.emergence, run.learned()
    with pytest.raises(ValueError, match=r"tau must be in \[1/C, 1\)"):
        attack(subject, e, learned, AttackSettings(tau=0.2))
    wrong = replace(e, z=-e.z)
    with pytest.raises(ValueError, match="images: the network is wrong on all"):
        attack(subject, replace(wrong, y=e.z[-1].argmax(1)), learned)
    cut = replace(subject, preprocess=_Rounded())
    with pytest.raises(ValueError, match="preprocess: no gradient comes back"):
        attack(cut, e, learned)
    with torch.no_grad():
        for x in subject.module.parameters():
            x.mul_(1.5)
    with pytest.raises(ValueError, match="weights: the network gives other logits"):
        attack(subject, e, learned)


class _Rounded(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (255 * images).round() / 255


# The command


def _call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["attack", *(str(x) for x in arguments)])


def test_the_command_writes_tables_and_figures_and_says_when_nothing_succeeds(
    finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    result = _call(folder, "--eps", "0.04", "--steps", "12", "--images", "all")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2:] == [
        f"tables and figures: {folder / 'attack'}",
        f"Report: {(folder / 'report.html').as_uri()}",
    ]
    assert "images that were right are wrong after the attack" in result.stdout
    out = folder / "attack"
    written = {path.stem for path in (out / "tables").iterdir()}
    assert written == {"success", "images", "points", "changes", "types", "utility"}
    assert "nan" not in (out / "tables" / "changes.csv").read_text().lower()
    figures = {"curves", "utility", "images", "paths", "types"}
    assert_updated_from_what_is_saved(folder, "attack", figures)

    result = _call(folder, "--eps", "1e-6", "--steps", "1", "--step", "1e-6")
    assert result.exit_code == 0, result.output
    assert "no adversarial success" in result.stderr and "--eps" in result.stderr
    assert result.stdout.splitlines()[-2] == f"tables and figures: {out}"
    assert not list((out / "figures").iterdir())
    assert {path.stem for path in (out / "tables").iterdir()} == {"success", "images"}
    assert len(Attack.load(out / "attack").astray) == 0


@pytest.mark.slow
def test_points_that_are_nowhere_are_told_and_not_drawn(
    finished_run: Path, attacked: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = replace(attacked, p=0 * attacked.p, typed=attacked.typed[:0])
    monkeypatch.setattr("emergence_ext.studies.attack.attack", lambda *arguments: nowhere)
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    result = _call(folder)
    assert result.exit_code == 0, result.output
    assert "no knowledge points at all" in result.stderr
    drawn = {path.stem for path in (folder / "attack" / "figures").iterdir()}
    assert drawn == {"curves", "images"}


def test_wrong_use_ends_in_one_line(tmp_path: Path, finished_run: Path) -> None:
    for arguments, words in (
        ((tmp_path,), "holds no finished run"),
        ((finished_run, "--eps", "2"), "eps must be above 0 and at most 1"),
        ((finished_run, "--tau", "0.1"), "tau must be in"),
    ):
        result = _call(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert words in result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_of_many_categories_those_of_the_examples_are_drawn(
    run: FinishedRun, attacked: Attack
) -> None:
    few = report.figures(attacked, run)
    frame, extra = attacked.frame, 57
    mu = torch.nn.functional.normalize(torch.randn(extra, 3, generator=torch.Generator()), dim=1)
    many = replace(
        attacked,
        categories=[*attacked.categories, *(f"other {k}" for k in range(extra))],
        frame=Frame(
            torch.full((60,), 1 / 60),
            torch.cat([frame.directions, mu]),
            frame.kappa,
            5.0,
        ),
    )
    for name in ("paths", "types"):
        drawing, before = report.figures(many, run)[name], few[name]
        assert callable(drawing) and callable(before)
        figure = drawing()
        text = " ".join(t.get_text() for t in figure.findobj(Text))
        assert re.search(r"[23] of 60 categories, those of the examples", text)
        assert "other" not in text
        assert figure.get_size_inches()[1] < before().get_size_inches()[1] + 0.3
