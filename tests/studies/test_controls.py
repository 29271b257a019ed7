"""Controls: a network that learned nothing and outputs of other images have little to show."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.network.models import load_model
from emergence_ext.network.weights import randomise
from emergence_ext.report import controls as report
from emergence_ext.run.finished import FinishedRun
from emergence_ext.studies.controls import Controls, controls, random_features, shuffled
from tests.studies.saved import assert_equal, assert_updated_from_what_is_saved


@pytest.fixture(scope="module")
def run(finished_run: Path) -> FinishedRun:
    return FinishedRun.open(finished_run)


def test_every_image_gets_output_and_label_of_one_other(run: FinishedRun) -> None:
    features = run.features()
    other = shuffled(features, 0)
    assert torch.equal(other.f, features.f)
    assert all(torch.equal(other.layers[name], F) for name, F in features.layers.items())
    place = (other.z[:, None] == features.z[None]).all(-1).float().argmax(1)
    assert sorted(place.tolist()) == list(range(len(features)))
    assert not (place == torch.arange(len(features))).any()
    assert torch.equal(other.y, features.y[place])
    assert torch.equal(shuffled(features, 0).z, other.z)
    assert not torch.equal(shuffled(features, 1).z, other.z)


def test_weights_are_drawn_anew_and_the_networks_stay(run: FinishedRun) -> None:
    subject = run.subject()
    before = {name: x.clone() for name, x in subject.module.state_dict().items()}
    state = torch.random.get_rng_state()
    first, again = (random_features(subject, run.emergence.grid, 0) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in subject.module.state_dict().items())
    assert torch.equal(first.z, again.z)
    assert not torch.allclose(first.z, run.features().z)
    assert not torch.equal(random_features(subject, run.emergence.grid, 1).z, first.z)


def test_random_weights_are_not_those_that_the_seed_gives_a_new_network() -> None:
    for seed in (0, 1):
        built = load_model("small_vgg28", num_classes=10, random_state=seed).module
        again = load_model("small_vgg28", num_classes=10, random_state=seed).module
        randomise(again, seed)
        for (name, x), y in zip(built.named_parameters(), again.parameters(), strict=True):
            if x.ndim > 1:
                r = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
                assert abs(r) < 5 / x.numel() ** 0.5, name


def test_parameters_of_no_layer_are_drawn_with_their_own_size() -> None:
    module = nn.Module()
    module.token = nn.Parameter(2 + 0.1 * torch.randn(500))
    module.attention = nn.MultiheadAttention(8, 2)
    before = copy.deepcopy(module)
    randomise(module, 0)
    for x, old in zip(module.parameters(), before.parameters(), strict=True):
        assert x.ndim == 1 or not torch.equal(x, old)
    assert not torch.allclose(module.token, before.token, atol=1e-3)
    token = module.token.detach()
    assert float(token.mean()) == pytest.approx(2, abs=0.02)
    assert float(token.std()) == pytest.approx(0.1, abs=0.02)


@pytest.fixture(scope="module")
def controlled(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the command took the controls of."""
    folder = shutil.copytree(finished_run, tmp_path_factory.mktemp("controlled") / "run")
    done = CliRunner().invoke(app, ["controls", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"tables and figures: {folder / 'controls'}",
        f"Report: {(folder / 'report.html').as_uri()}",
    ]
    return folder


@pytest.fixture(scope="module")
def result(controlled: Path) -> Controls:
    return Controls.load(controlled / "controls" / "controls")


def test_controls_have_chance_and_the_network_has_more(run: FinishedRun, result: Controls) -> None:
    network, random, other = result.beside(run.emergence)
    assert [x.name for x in (network, random, other)] == [
        "network",
        "random weights",
        "shuffled outputs",
    ]
    assert network.emergence is run.emergence
    assert torch.equal(random.emergence.frame.directions, run.emergence.frame.directions)
    assert other.emergence.frame.kappa_p == run.emergence.frame.kappa_p
    rows = report.tables(result, run)["controls"]
    assert [row["network"] for row in rows[::2]] == [network.name, random.name, other.name]
    last = {row["network"]: row for row in rows[1::2]}
    assert last["network"]["accuracy"] == last["shuffled outputs"]["accuracy"] > 0.9
    assert last["random weights"]["accuracy"] < 0.6
    # Three categories: a third by chance, on 19 held-out images.
    assert last["network"]["ratio"] > last["shuffled outputs"]["ratio"] + 0.2
    assert last["shuffled outputs"]["ratio"] < 0.6
    assert network.strength_entropy() < other.strength_entropy()


def test_numbers_are_of_the_held_out_images_of_the_control_that_they_name(
    run: FinishedRun,
) -> None:
    e = run.emergence
    # The last checkpoint as the network and as its second control, the first one as its first.
    rows = report.tables(Controls(e, e), run)["controls"]
    for row, (t, k) in zip(rows, [(t, k) for t in (-1, 0, -1) for k in (0, 1)], strict=True):
        points = e.points(t, k).subset(e.held_out)
        total = int(points.point.sum())
        assert row["points per image"] == pytest.approx(total / len(points.y))
        if total:
            assert row["ratio"] == pytest.approx(int(points.reliable.sum()) / total)
        z, g = (x[t, e.held_out].double() for x in (e.z, e.g))
        p = z.softmax(1)
        uncertainty = -(p * p.log()).sum(1)
        assert row["mean entropy (nats)"] == pytest.approx(float(uncertainty.mean()), rel=1e-4)
        r = torch.corrcoef(torch.stack([g.norm(dim=1), uncertainty]))[0, 1]
        assert row["Pearson of |g| with entropy"] == pytest.approx(float(r), abs=2e-3)
        w, strength = e.w[t, k], e.h[t, k, e.region_images].norm(dim=-1)
        each = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(w, strength, strict=True)]
        mean = float(torch.stack(each).nanmean())
        assert row["Pearson of |h| with w, mean"] == pytest.approx(mean, abs=1e-4)


def test_a_control_whose_outputs_are_all_alike_has_no_correlation(run: FinishedRun) -> None:
    alike = replace(run.emergence, z=torch.zeros_like(run.emergence.z))
    rows = report.tables(Controls(alike, alike), run)["controls"]
    told = {row["network"]: row["Pearson of |g| with entropy"] for row in rows}
    assert told.pop("network") < 0
    assert told == {"random weights": "undefined", "shuffled outputs": "undefined"}


def test_the_command_writes_and_takes_up_what_is_there(controlled: Path, result: Controls) -> None:
    table = controlled / "controls" / "tables" / "controls.csv"
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 6 and rows[0]["network"] == "network"
    assert_updated_from_what_is_saved(controlled, "controls", {"controls"})
    kept = controlled / "controls" / "random_weights" / "features.json"
    written = kept.stat().st_mtime_ns
    text = table.read_text()
    assert CliRunner().invoke(app, ["controls", str(controlled)]).exit_code == 0
    assert (kept.stat().st_mtime_ns, table.read_text()) == (written, text)


def test_controls_come_back_from_disk_as_they_were(controlled: Path, result: Controls) -> None:
    run = FinishedRun.open(controlled)
    again = controls(run, run.subject())  # of the fits that are there
    assert_equal(again, result)
    assert report.tables(again, run) == report.tables(result, run)


def test_without_a_finished_run_the_command_says_what_makes_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["controls", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds no finished run; `emergence run --out" in done.output


def test_a_subject_may_be_another_object(run: FinishedRun) -> None:
    subject = replace(run.subject(), batch_size=5)
    features = random_features(subject, run.emergence.grid, 0)
    assert features.grid == run.emergence.grid
