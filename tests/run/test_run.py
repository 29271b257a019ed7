"""A run writes all it promises, resumes, refuses another's directory, leaves the network alone."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emergence_ext import report
from emergence_ext.data.folders import ImageFolder
from emergence_ext.data.samples import Samples
from emergence_ext.method.frame import Frame
from emergence_ext.method.vmf import ExactKappa
from emergence_ext.network.checkpoints import load_checkpoints
from emergence_ext.network.features import FeatureSet
from emergence_ext.network.models import load_weights
from emergence_ext.ops import library as _library
from emergence_ext.report import emergence as emergence_report
from emergence_ext.report.emergence import IN_SPACE
from emergence_ext.report.files import write_table
from emergence_ext.report.headline import headline, warnings
from emergence_ext.report.html.write import write_page
from emergence_ext.run import analyse as run
from emergence_ext.run import strength as strength_module
from emergence_ext.run.analyse import Settings, Subject
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.results import Emergence
from emergence_ext.store import StoreError, content_digest, made_from
from tests import tiny_networks
from tests.old_runs import age

SETTINGS = Settings(region_images=24, importance_evals=5, regional_evals=10)
FIGURES = {
    "samples",
    "confidence_map",
    "samples_through_epochs",
    "regions_through_epochs",
    "regions_through_layers",
    "knowledge_through_epochs",
    "learning_epochs",
    "knowledge_through_layers",
    "tau_curve",
    "strength_entropy",
    "importance_strength",
    "category_similarity",
    "losses",
    "point_regions",
    "importance_maps",
    "shared_regions",
}
TABLES = {
    "correlations",
    "importance",
    "knowledge",
    "learning",
    "similarity",
    "fits",
    "images",
}


@pytest.fixture(scope="module")
def images(image_folder: Path) -> Samples:
    return ImageFolder(image_folder, size=16)


@pytest.fixture
def subject(images: Samples, training: Path) -> Subject:
    return _subject(images, training)


def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is the same in every run: figures and most of the folds."""
    monkeypatch.setattr(run, "strength_entropy", partial(run.strength_entropy, folds=2))
    monkeypatch.setattr(strength_module, "TEMPERATURES", (1.0,))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    _hurry(monkeypatch)


@pytest.fixture(scope="module")
def finished(images: Samples, training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network without checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        _hurry(patch)
        return run.run(_subject(images, training), tmp_path_factory.mktemp("run"), SETTINGS).folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A directory with a finished run, to damage and to ask for again."""
    return shutil.copytree(finished, tmp_path / "copy")


def _subject(images: Samples, training: Path) -> Subject:
    module = tiny_networks.three()
    load_weights(module, training / "epoch_0012.safetensors")
    return Subject(module, module.default_layers, images)


@pytest.fixture(scope="module")
def whole(images: Samples, training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three checkpoints and two layers, with everything that belongs to it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    module = tiny_networks.three()
    subject = Subject(
        module,
        module.default_layers,
        images,
        checkpoints=load_checkpoints(training / "epoch_*.safetensors"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "strength_entropy", partial(run.strength_entropy, folds=2))
        finished = run.run(subject, out, SETTINGS, alphas=[1.0], command="emergence run ...")
    assert not (out / "tables").exists() and not (out / "figures").exists()
    assert report.write(finished) == out / "report.html"
    return out


def _rows(out: Path, table: str) -> list[dict[str, str]]:
    with (out / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _config(out: Path) -> dict[str, Any]:
    return json.loads((out / "config.json").read_text())


def _contents(out: Path) -> dict[str, bytes]:
    """What must not change when a run is repeated: everything but times and pixels."""
    kept = [p for part in ("features", "fits", "tables") for p in (out / part).rglob("*")]
    return {str(p.relative_to(out)): p.read_bytes() for p in kept if p.is_file()}


def test_everything_that_was_promised_is_there(whole: Path) -> None:
    assert {path.stem for path in (whole / "tables").glob("*.csv")} == TABLES
    for kind in ("png", "svg"):
        drawn = {path.stem for path in (whole / "figures").glob(f"*.{kind}")}
        assert drawn == FIGURES
    assert len(list((whole / "features").glob("*.json"))) == 3
    assert (whole / "report.html").stat().st_size > 100_000
    assert not list(whole.rglob("*.tmp"))


def test_the_configuration_says_what_was_done(whole: Path) -> None:
    config = _config(whole)
    assert config["command"] == "emergence run ..."
    assert config["layers"] == ["conv1_1", "conv2_1"]
    assert config["categories"] == ["blue", "green", "red"]
    assert config["settings"]["alpha"] == 0.1 and config["settings"]["alphas"] == [1.0]
    assert {"torch", "python", "emergence_ext"} <= set(config["versions"])
    assert [c["epoch"] for c in config["checkpoints"]] == [0, 2, 12]
    assert config["checkpoints"][-1]["accuracy"] > 0.9
    assert len(config["hashes"]["weights of epoch 12"]) == 64 == len(config["hashes"]["images"])
    finished = FinishedRun.open(whole)
    assert any("only 24 images" in warning for warning in warnings(finished))
    assert headline(finished)["accuracy"]["value"] > 90


def test_the_tables_hold_the_results(whole: Path) -> None:
    found = Emergence.load(whole / "fits" / "emergence")
    knowledge = _rows(whole, "knowledge")
    assert len(knowledge) == 3 * 2 * 2
    held = [row for row in knowledge if row["images"] == "held out"]
    count = found.points(-1, -1).subset(found.held_out).count()
    assert float(held[-1]["points"]) == count.total.value
    assert float(held[-1]["reliable, low"]) == count.reliable.low
    assert [float(row["temperature"]) for row in _rows(whole, "correlations")] == [1, 2, 4]
    importance = _rows(whole, "importance")
    assert [(row["layer"], row["alpha"]) for row in importance] == [
        ("conv1_1", "0.1"),
        ("conv2_1", "0.1"),
        ("conv2_1", "1"),
    ]
    assert len(_rows(whole, "similarity")) == 3 and len(_rows(whole, "images")) == 48
    assert {row["fit"] for row in _rows(whole, "fits")} == set(found.fits)


def test_cells_without_a_value_are_empty(tmp_path: Path) -> None:
    rows = [{"a": 1.0, "b": None}, {"a": float("nan"), "b": 'quoted, "text"'}]
    write_table(tmp_path / "t.csv", rows)
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,\n,"quoted, ""text"""\n'
    write_table(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text() == ""


def test_the_report_holds_every_figure_and_table(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert page.count("<img") >= len(FIGURES)
    for text in ("conv2_1", "green", "emergence run ...", "epoch 12"):
        assert text in page, text


def test_a_second_run_finds_everything_done_and_changes_nothing(
    whole: Path,
    images: Samples,
    training: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, config = _contents(whole), _config(whole)

    def refuse(*arguments: Any, **kwargs: Any) -> Any:
        raise AssertionError("what is there is made again")

    monkeypatch.setattr(Subject, "extract", refuse)
    monkeypatch.setattr(run, "strength_entropy", refuse)
    module = tiny_networks.three()
    checkpoints = load_checkpoints(training / "epoch_*.safetensors")
    subject = Subject(module, module.default_layers, images, checkpoints=checkpoints)
    run.run(subject, whole, SETTINGS, alphas=[1.0], command="emergence run ...")
    assert _contents(whole) == before
    assert _config(whole) == config


def test_what_matched_regions_is_told_and_noted(
    subject: Subject, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "emergence_ext")
    out = run.run(subject, tmp_path / "run", SETTINGS, backend="reference").folder
    assert "regions are matched by plain torch: as asked" in caplog.text
    found = Emergence.load(out / "fits" / "emergence")
    noted = {name: stats.backend for name, stats in found.fits.items()}
    assert noted.pop("samples/network") is None
    assert len(noted) == 4 and set(noted.values()) == {"reference"}
    assert _config(out)["settings"]["backend"] == {"asked": "reference", "computed": "reference"}
    page = write_page(out).read_text()
    assert "<dt>backend.computed</dt><dd>reference</dd>" in page


def test_a_run_goes_on_with_another_backend_and_says_which_computed_what(
    subject: Subject, copy: Path, quick: None, library: None
) -> None:
    assert _config(copy)["settings"]["backend"] == {"asked": "auto", "computed": "fused"}
    (copy / "fits" / "network" / "conv2_1.regional.json").unlink()
    run.run(subject, copy, SETTINGS, backend="reference")
    assert _config(copy)["settings"]["backend"] == {
        "asked": "reference",
        "computed": "fused, reference",
    }


def test_a_run_from_before_backends_were_noted_goes_on(
    subject: Subject, copy: Path, quick: None
) -> None:
    age(copy)
    config = _config(copy)
    del config["settings"]["backend"]
    (copy / "config.json").write_text(json.dumps(config))
    for manifest in (copy / "fits").rglob("*.json"):
        _forget_backends(manifest)
    run.run(subject, copy, SETTINGS)
    assert _config(copy)["settings"]["backend"]["computed"] == "not recorded"


def test_features_in_one_file_as_earlier_versions_kept_them_are_taken(
    subject: Subject, copy: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy / "features" / "network"
    before, features, origins = content_digest(path), FeatureSet.load(path), made_from(path)
    shutil.rmtree(path)
    features.save(path, origins)
    assert content_digest(path) == before
    (copy / "fits" / "emergence.json").unlink()
    monkeypatch.setattr("emergence_ext.network.extract", None)  # nothing is made again
    finished = run.run(subject, copy, SETTINGS)
    assert torch.equal(finished.features().f, features.f)


def _forget_backends(manifest: Path) -> None:
    """Write a stored fit as it was written before backends were noted."""
    content = json.loads(manifest.read_text())
    stats = content.get("settings", {}).get("stats")
    if stats is None:
        return
    del stats["backend"], content["sha256"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    manifest.write_text(json.dumps(content, indent=1, ensure_ascii=False))


@pytest.mark.parametrize(("backend", "error"), [("fast", ValueError), ("fused", RuntimeError)])
def test_a_backend_that_cannot_be_had_ends_a_run_before_it_begins(
    backend: str,
    error: type[Exception],
    subject: Subject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": "it was never built here")
    with pytest.raises(error, match="backend"):
        run.run(subject, tmp_path / "run", SETTINGS, backend=backend)
    assert not (tmp_path / "run").exists()


def test_the_network_comes_back_as_it_was(
    images: Samples, training: Path, tmp_path: Path, quick: None
) -> None:
    module = tiny_networks.three()
    module.train()
    module.conv2_1.eval()
    next(module.parameters()).requires_grad_(False)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    needed = [p.requires_grad for p in module.parameters()]
    random = torch.get_rng_state()
    checkpoints = load_checkpoints(training / "epoch_*.safetensors")
    subject = Subject(module, module.default_layers, images, checkpoints=checkpoints)
    run.run(subject, tmp_path / "run", SETTINGS)
    for name, x in module.state_dict().items():
        assert torch.equal(x, before[name]), name
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert [p.requires_grad for p in module.parameters()] == needed
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_network_comes_back_as_it_was_after_a_failure(
    images: Samples, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Subject, "extract", interrupted)
    module = tiny_networks.three()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    checkpoints = load_checkpoints(training / "epoch_*.safetensors")
    subject = Subject(module, module.default_layers, images, checkpoints=checkpoints)
    with pytest.raises(KeyboardInterrupt):
        run.run(subject, tmp_path / "run", SETTINGS)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())


def test_a_network_without_checkpoints_is_one_of_its_own(finished: Path) -> None:
    assert [c["label"] for c in _config(finished)["checkpoints"]] == ["network"]
    assert FeatureSet.load(finished / "features" / "network").grid == (8, 8)


def test_outputs_choose_and_order_the_logits(
    subject: Subject, finished: Path, tmp_path: Path, quick: None
) -> None:
    out = run.run(replace(subject, outputs=[2, 0, 1]), tmp_path / "turned", SETTINGS).folder
    one, other = (FeatureSet.load(x / "features" / "network").z for x in (finished, out))
    assert torch.equal(other, one[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: (s, replace(SETTINGS, alpha=1.0)), r"alpha \(0\.1 there, 1\.0 now\)"),
        (lambda s: (s, replace(SETTINGS, tau=0.5)), "tau"),
        (lambda s: (replace(s, outputs=[1, 0, 2]), SETTINGS), "outputs"),
        (lambda s: (replace(s, precision="bfloat16"), SETTINGS), "precision"),
        (lambda s: (replace(s, layers={"conv1_1": "conv1_1"}), SETTINGS), "layers"),
        (
            lambda s: (replace(s, layers={"conv1_1": "conv1_1.0", "conv2_1": "conv2_1"}), SETTINGS),
            "modules",
        ),
        (lambda s: (replace(s, preprocess=nn.Threshold(0.5, 0.0)), SETTINGS), "preprocessing"),
        (lambda s: (replace(s, module=tiny_networks.three()), SETTINGS), "weights"),
    ],
)
def test_another_run_in_the_same_directory_is_refused(
    change: Callable[[Subject], tuple[Subject, Settings]], named: str, subject: Subject, copy: Path
) -> None:
    before = _contents(copy)
    other, settings = change(subject)
    with pytest.raises(ValueError, match=f"holds another run, which differs in .*{named}"):
        run.run(other, copy, settings)
    assert _contents(copy) == before


def test_a_run_that_failed_before_any_result_does_not_stand_in_the_way(
    subject: Subject, tmp_path: Path, quick: None
) -> None:
    wrong = replace(subject, layers={"conv2_1": "conv2_7"})
    with pytest.raises(ValueError, match="no layer 'conv2_7'"):
        run.run(wrong, tmp_path / "run", SETTINGS)
    run.run(subject, tmp_path / "run", SETTINGS)


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_results_without_a_configuration_are_nobodys(
    content: str | None, subject: Subject, copy: Path
) -> None:
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content)
    with pytest.raises(StoreError, match=r"config\.json"):
        run.run(subject, copy, SETTINGS)


@pytest.mark.parametrize(
    "what", ["features/network/shard-00000", "fits/frame", "fits/temperatures/1"]
)
def test_a_flipped_bit_is_found(what: str, subject: Subject, copy: Path, quick: None) -> None:
    array = copy / f"{what}.safetensors"
    content = bytearray(array.read_bytes())
    content[-5] ^= 4
    array.write_bytes(content)
    with pytest.raises(StoreError, match=array.name):
        run.run(subject, copy, SETTINGS)


def test_the_temperature_of_the_run_is_among_those_of_the_table(
    subject: Subject, tmp_path: Path, quick: None
) -> None:
    finished = run.run(subject, tmp_path / "run", replace(SETTINGS, temperature=3.0))
    assert [s.temperature for s in finished.strengths()] == [1, 3]


def test_a_collapse_at_another_temperature_is_told_and_does_not_end_the_run(
    subject: Subject, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.strength_entropy
    monkeypatch.setattr(strength_module, "TEMPERATURES", (1.0, 4.0))

    def collapsing(f: Any, z: Any, y: Any, temperatures: list[float], **kwargs: Any) -> Any:
        found = real(f, z, y, [t for t in temperatures if t != 4], **kwargs)
        none = "z: the directions collapsed; no picture. Lower `temperature`."
        return {t: none if t == 4 else found[t] for t in temperatures}

    monkeypatch.setattr(run, "strength_entropy", collapsing)
    finished = run.run(subject, tmp_path / "run", SETTINGS)
    assert [s.temperature for s in finished.strengths()] == [1]
    told = next(text for text in warnings(finished) if "temperature 4" in text)
    assert told == "No correlation at temperature 4: the directions collapsed; no picture"


def test_figures_that_cannot_be_are_left_out(whole: Path) -> None:
    finished = FinishedRun.open(whole)
    e = finished.emergence
    directions = torch.eye(3, 4)
    flat = Frame(e.frame.priors, directions, ExactKappa(4), e.frame.kappa_p)

    def drawings(other: Emergence) -> dict[str, Any]:
        run_of_other = FinishedRun.open(whole)
        vars(run_of_other)["emergence"] = other  # in the place of what is read when asked for
        return dict(emergence_report.figures(run_of_other))

    wide = drawings(replace(e, frame=flat, g=e.g @ directions, h=e.h @ directions))
    assert {name for name, draw in wide.items() if isinstance(draw, str)} == set(IN_SPACE)
    assert "dim = 4" in wide["samples"]

    alone = replace(
        e, labels=["last"], epochs=[0], **{x: getattr(e, x)[-1:] for x in "gzhw"},
        raw_strength=e.raw_strength[-1:],
    )  # fmt: skip
    assert set(drawings(alone)) == {name for name in FIGURES if not name.endswith("_epochs")}
