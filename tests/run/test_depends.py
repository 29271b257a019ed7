"""What a run is made from is noted, and compared when it is resumed, loaded or built upon."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emergence_ext.data import ArraySamples
from emergence_ext.method import RegionImportance
from emergence_ext.run import (
    Config,
    FinishedRun,
    Settings,
    StrengthEntropy,
    Subject,
    SubjectSpec,
    analyse,
    run,
    strength,
    verify,
)
from emergence_ext.run.settle import settled
from emergence_ext.store import StoreError, locked, made_from
from tests.old_runs import age

QUICK = Settings(region_images=12, importance_evals=2, regional_evals=2)


class _Net(nn.Module):
    def __init__(self, categories: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, categories)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


class _Other(_Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).amax((2, 3)))  # type: ignore[no-any-return]


def _subject(seed: int = 0, kind: type[_Net] = _Net, each: int = 12, C: int = 2) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(C).eval()
        # One channel for each colour, by which the categories are told apart.
        for colour in range(3):
            module.conv.weight.data[colour] /= 20
            module.conv.weight.data[colour, colour] += 1 / 9
        module.head.weight.data[torch.arange(C), torch.arange(C)] += 10
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(C).repeat(each)
    images = torch.rand(C * each, 3, 8, 8, generator=generator) / 2
    images[torch.arange(len(y)), y % 3] += 0.4
    samples = ArraySamples(images, y.tolist(), [f"category {c}" for c in range(C)])
    return Subject(module, {"conv": "relu"}, samples)


def _hurry(patch: pytest.MonkeyPatch) -> None:
    """Leave out the fits of the folds, which take longest and depend on nothing else."""

    def quick(
        f: Tensor, z: Tensor, y: Tensor, temperatures: list[float], **kwargs: Any
    ) -> dict[float, StrengthEntropy]:
        made = (z.sum(1), f.norm(dim=1), f.sum(1), 0, 0, 0, 0, 0)
        return {temperature: StrengthEntropy(temperature, *made) for temperature in temperatures}

    patch.setattr(strength, "TEMPERATURES", (1.0,))
    patch.setattr(analyse, "strength_entropy", quick)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    _hurry(monkeypatch)
    caplog.set_level("WARNING", "emergence_ext")  # commands of other tests set it otherwise


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of two networks on the same images."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        _hurry(patch)
        made = [run(_subject(seed), folder / name, QUICK).folder for seed, name in enumerate("ab")]
    return made[0], made[1]


@pytest.fixture
def mine(two_runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(two_runs[0], tmp_path / "mine")


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _swap(mine: Path, other: Path, part: str) -> None:
    for suffix in ("json", "safetensors"):
        if (other / f"{part}.{suffix}").exists():
            shutil.copy(other / f"{part}.{suffix}", mine / f"{part}.{suffix}")
    if (other / part).is_dir():
        shutil.rmtree(mine / part)
        shutil.copytree(other / part, mine / part)


def test_two_categories_have_a_tau_that_not_every_region_passes(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = FinishedRun.open(mine)
    assert found.emergence.tau == 0.6 == found.settings.tau
    caplog.set_level("INFO", "emergence_ext")
    y = torch.arange(10).repeat(6)
    names = [str(c) for c in range(10)]
    assert settled(QUICK, y, names).tau == 0.4 and not caplog.text
    assert (
        settled(QUICK, y % 2, names[:2]).tau == 0.6 and "tau = 0.6, as there are 2" in caplog.text
    )
    assert settled(replace(QUICK, tau=0.5), y % 2, names[:2]).tau == 0.5


@pytest.mark.parametrize(
    ("subject", "settings", "message"),
    [
        (lambda: _subject(), {"tau": 0.4}, r"tau must be in \[1/C, 1\) .* \(--tau\)"),
        (lambda: _subject(C=1), {}, "one category"),
        (lambda: _subject(each=2), {}, "too few"),
        (lambda: _subject(), {"held_out": 0.01}, "held_out"),
        (lambda: _subject(), {"dim": 7}, r"dim = 7 is more than the 6 .* \(--dim\)"),
    ],
)
def test_settings_that_cannot_hold_are_found_before_features_are_made(
    subject: Callable[[], Subject], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        run(subject(), tmp_path / "run", replace(QUICK, **settings))
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "run" / "features").exists()
    if "dim" in settings:  # the only one that is found after the folder was taken
        run(_subject(), tmp_path / "run", QUICK)


def test_a_category_whose_only_image_is_held_out_is_named() -> None:
    names = ["one", "many", "more"]
    with pytest.raises(ValueError, match="leaves no image of category 'one' to fit, which has 1;"):
        settled(QUICK, torch.tensor([0] + [1] * 9 + [2] * 9), names)
    settled(QUICK, torch.tensor([1] * 9 + [2] * 9), names)  # there is none of it at all


@pytest.mark.parametrize("alphas", [[-1.0], [float("nan")], [1.0, float("inf")]])
def test_wrong_alphas_are_found_at_once(alphas: list[float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alphas: expected numbers of at least 0"):
        run(_subject(), tmp_path / "run", QUICK, alphas=alphas)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_begun_goes_on_with_other_settings_of_its_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, fresh = tmp_path / "run", tmp_path / "fresh"

    def killed(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RegionImportance, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(_subject(), out, QUICK)
    with pytest.raises(ValueError, match="differs in weights"):
        run(_subject(1), out, QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(Subject, "extract", killed)
        other = replace(QUICK, temperature=2.0, alpha=0.3)
        again = run(_subject(), out, other)
    assert "Its features are kept" in caplog.text and "made anew" in caplog.text
    expected = run(_subject(), fresh, other).emergence
    assert torch.equal(again.emergence.h, expected.h)
    with pytest.raises(ValueError, match=r"holds another run, which differs in alpha \(0\.3 there"):
        run(_subject(), out, QUICK)


@pytest.mark.parametrize("part", ["fits/network/conv.regional", "fits/frame", "features/network"])
def test_parts_of_another_run_are_named_and_made_anew(
    part: str, mine: Path, two_runs: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    before = FinishedRun.open(mine).emergence
    _swap(mine, two_runs[1], part)
    what = "features of network" if part.startswith("features") else "fits of network"
    with pytest.raises(StoreError, match=f"was made from other {what} than are there now"):
        _ = FinishedRun.open(mine).emergence
    assert any(what in line for line in verify(mine).wrong)
    again = run(_subject(), mine, QUICK).emergence
    assert "is made anew: it was of other" in caplog.text
    assert torch.equal(again.h, before.h) and not verify(mine).wrong


@pytest.mark.parametrize("whole", ["fits", "emergence", "temperatures"])
def test_all_fits_of_another_run_are_noticed(
    whole: str, mine: Path, two_runs: tuple[Path, Path]
) -> None:
    if whole == "emergence":
        _swap(mine, two_runs[1], "fits/emergence")
    else:
        place = mine / "fits" / ("" if whole == "fits" else whole)
        shutil.rmtree(place)
        shutil.copytree(two_runs[1] / place.relative_to(mine), place)
    with pytest.raises(StoreError, match=r"is not what was found|made from other features"):
        FinishedRun.open(mine).strengths()


def test_the_same_run_again_changes_nothing(mine: Path) -> None:
    before = _contents(mine)
    run(_subject(), mine, QUICK)
    assert _contents(mine) == before


def _one_pixel() -> Subject:
    subject = _subject()
    subject.dataset.images[17, 1, 3, 3] += 0.01  # type: ignore[attr-defined]
    return subject


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: _subject(1), "weights"),
        (_one_pixel, "images"),
        (lambda: _subject(kind=_Other), "code of the network"),
        (lambda: replace(_subject(), preprocess=nn.Hardtanh(0, 0.7)), "preprocessing"),
        (lambda: replace(_subject(), outputs=[1, 0]), "outputs"),
    ],
)
def test_what_is_other_than_in_the_run_is_named_and_destroys_nothing(
    other: Callable[[], Subject], named: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(mine)
    with pytest.raises(ValueError, match=f"which differs in .*{named}"):
        run(other(), mine, QUICK)
    # In the same way where a study takes the run up.
    opened = FinishedRun.open(mine)
    spec = {"data": "d", "model": "m"}
    opened = replace(opened, config=replace(opened.config, subject=spec))
    monkeypatch.setattr(SubjectSpec, "load", lambda self, device: other())
    with pytest.raises(ValueError, match=rf"^run: [^:]*{named}.*: not as in the run"):
        opened.subject()
    monkeypatch.setattr(SubjectSpec, "load", lambda self, device: _subject())
    assert opened.subject().layers == {"conv": "relu"}
    assert _contents(mine) == before


def test_another_python_compiles_other_code_which_is_no_other_network(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config.read(mine / "config.json")
    hashes = config.hashes | {"code of the network": "of another Python"}
    replace(config, hashes=hashes, versions={"python": "3.2.1"}).write(mine / "config.json")
    run(_subject(), mine, QUICK)
    assert "made with Python 3.2.1" in caplog.text


def test_runs_of_earlier_versions_are_taken_with_one_warning(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = FinishedRun.open(mine).emergence
    age(mine)
    assert made_from(mine / "fits" / "emergence") is None
    opened = FinishedRun.open(mine)
    assert torch.equal(opened.emergence.h, found.h) and opened.strengths()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "made by an earlier version" in caplog.text
    assert torch.equal(run(_subject(), mine, QUICK).emergence.h, found.h)


def test_a_run_that_another_process_writes_is_left_alone(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []

    def hold(folder: Path, what: str = "out") -> Any:
        reached.append(what)
        return locked(folder, what)

    monkeypatch.setattr("emergence_ext.run.analyse.locked", hold)
    run(_subject(), mine, QUICK)
    assert reached == ["out"]


def test_paths_inside_a_run_are_relative_and_a_moved_run_finds_them(tmp_path: Path) -> None:
    out = tmp_path / "a [1]"
    spec = SubjectSpec(
        str(out / "images"),
        "m:n",
        checkpoints=os.path.join(str(out), "training", "epoch_*.safetensors"),
        class_map=str(tmp_path / "map.json"),
    )
    noted = json.loads(json.dumps(spec.settings(out)))
    assert noted["data"] == "images" and noted["class_map"] == str(tmp_path / "map.json")
    assert noted["checkpoints"] == os.path.join("training", "epoch_*.safetensors")
    moved = tmp_path / "b [2]"
    (moved / "training").mkdir(parents=True)
    (moved / "training" / "epoch_0001.safetensors").touch()
    read = SubjectSpec.from_settings(noted, moved)
    assert read.data == str(moved / "images") and read.class_map == spec.class_map
    import glob

    assert glob.glob(read.checkpoints or "") == [str(moved / "training" / "epoch_0001.safetensors")]


@pytest.mark.parametrize("name", ["config.json", "fits/study.json"])
@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, "NaN", "1" * 5000, "", '{"a": NaN}'])
def test_json_of_another_kind_is_an_error_of_one_line(name: str, text: str, mine: Path) -> None:
    (mine / name).write_text(text)
    with pytest.raises(StoreError, match=Path(name).name) as failure:
        run(_subject(), mine, QUICK)
    assert "\n" not in str(failure.value)
    if name == "config.json":
        with pytest.raises(StoreError, match=r"config\.json"):
            FinishedRun.open(mine)


def test_verify_reads_everything(mine: Path) -> None:
    good = verify(mine)
    assert not good.wrong and good.read["results"] == 7 and good.read["configuration"] == 1
    for name in ("config.json", "thumbnails.safetensors", "fits/network/conv.importance.json"):
        content = bytearray((mine / name).read_bytes())
        content[-20] ^= 1
        (mine / name).write_bytes(content)
        assert any(Path(name).stem in line for line in verify(mine).wrong), name
        content[-20] ^= 1
        (mine / name).write_bytes(content)
    for name in ("index.json", "shard-00000.json", "shard-00000.safetensors"):
        file = mine / "features" / "network" / name
        content = bytearray(file.read_bytes())
        file.unlink()
        assert any("network" in line for line in verify(mine).wrong), name
        content[-20] ^= 1
        file.write_bytes(content)
        assert any("network" in line for line in verify(mine).wrong), name
        content[-20] ^= 1
        file.write_bytes(content)
    assert not verify(mine).wrong
    (mine / "features" / "network.json").unlink()
    assert any("features" in line for line in verify(mine).wrong)
