"""Checkpoints x layers in one frame: what emerges is seen, and a study can be killed anywhere."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from emergence_ext.method.importance import RegionImportance
from emergence_ext.method.regional import RegionalProjection
from emergence_ext.method.sample import SampleProjection
from emergence_ext.method.similarity import image_similarity, solve_kappa_p
from emergence_ext.network.features import FeatureSet
from emergence_ext.run.emerging import (
    Checkpoint,
    Emergence,
    Settings,
    emergence,
    split_images,
)
from emergence_ext.run.folder import file_name
from emergence_ext.store.arrays import StoreError
from tests.planted import feature_set

SETTINGS = Settings(region_images=40, regional_evals=40)
QUICK = replace(SETTINGS, region_images=16, importance_evals=3, regional_evals=3)
LEARNED = (0.05, 0.4, 1.0)


def _checkpoints(N: int = 100, learned: tuple[float, ...] = LEARNED) -> list[Checkpoint]:
    return [
        Checkpoint(f"epoch {10 * t}", 10 * t, lambda share=share: feature_set(share, N))  # type: ignore[misc]
        for t, share in enumerate(learned)
    ]


@pytest.fixture(scope="module")
def found() -> Emergence:
    return emergence(_checkpoints(), SETTINGS)


def _assert_same(one: Emergence, other: Emergence) -> None:
    for name in ("y", "held_out", "region_images", "g", "z", "h", "w", "raw_strength"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("labels", "epochs", "layers", "categories", "names", "grid", "tau"):
        assert getattr(one, name) == getattr(other, name), name
    assert torch.equal(one.frame.directions, other.frame.directions)
    assert torch.equal(one.frame.priors, other.frame.priors)
    assert one.frame.kappa == other.frame.kappa and one.frame.kappa_p == other.frame.kappa_p
    assert list(one.fits) == list(other.fits)
    for name, stats in one.fits.items():
        assert replace(stats, seconds=0) == replace(other.fits[name], seconds=0), name


def _count_fits(monkeypatch: pytest.MonkeyPatch, most: int | None = None) -> Counter[str]:
    """Count what is fitted; the fit after `most` of them is interrupted."""
    counted: Counter[str] = Counter()
    for kind, method in (
        (SampleProjection, "fit"),
        (SampleProjection, "refit"),
        (RegionImportance, "fit"),
        (RegionalProjection, "fit"),
    ):
        real = getattr(kind, method)

        def watched(
            self: Any,
            *args: Any,
            real: Callable[..., Any] = real,
            name: str = f"{kind.__name__}.{method}",
            **kwargs: Any,
        ) -> Any:
            if most is not None and counted.total() == most:
                raise KeyboardInterrupt
            counted[name] += 1
            return real(self, *args, **kwargs)

        monkeypatch.setattr(kind, method, watched)
    return counted


def test_shapes_and_names_are_those_of_checkpoints_layers_and_images(found: Emergence) -> None:
    assert found.labels == ["epoch 0", "epoch 10", "epoch 20"] and found.epochs == [0, 10, 20]
    assert found.layers == ["conv1", "conv2"] and found.grid == (2, 3)
    assert found.g.shape == (3, 100, 3) and found.z.shape == (3, 100, 4)
    assert found.h.shape == (3, 2, 100, 6, 3)
    assert found.w.shape == found.raw_strength.shape == (3, 2, 40, 6)
    assert torch.isfinite(found.h).all()
    torch.testing.assert_close(found.w.sum(-1), torch.ones(3, 2, 40))
    kinds = Counter(name.split("/")[0] for name in found.fits)
    assert kinds == {"samples": 3, "importance": 6, "regional": 6}
    assert "regional/conv2/epoch 10" in found.fits and "samples/epoch 0" in found.fits


def test_reliable_regions_emerge_in_training_on_images_that_no_fit_saw(found: Emergence) -> None:
    counts = [found.points(t).subset(found.held_out).count() for t in range(3)]
    reliable = [count.reliable for count in counts]
    assert all(b.value > a.value for a, b in pairwise(reliable)), reliable
    assert reliable[-1].low > reliable[0].high
    ratios = [count.ratio for count in counts if count.ratio is not None]
    assert len(ratios) >= 2 and all(b.value > a.value for a, b in pairwise(ratios)), ratios
    assert ratios[-1].low > 0.5  # of four categories
    accuracies = [found.accuracy(t) for t in range(3)]
    assert accuracies == sorted(accuracies) and accuracies[-1] > 0.9 > accuracies[0]


def test_strengths_within_a_checkpoint_are_those_of_the_last_layer(found: Emergence) -> None:
    strength = found.h[:, :, found.region_images].norm(dim=-1).mean(dim=(2, 3))
    torch.testing.assert_close(strength[:, 0], strength[:, 1], rtol=1e-4, atol=0)


def test_the_frame_is_that_of_the_last_checkpoint_and_of_the_fitted_images(
    found: Emergence,
) -> None:
    last, kept = feature_set(1.0, 100), ~found.held_out
    alone = SampleProjection().fit(last.f[kept], last.z[kept])
    assert torch.equal(found.frame.directions, alone.directions_)
    assert torch.equal(found.frame.priors, alone.priors_)
    assert torch.equal(found.g[-1], alone.transform(last.f))
    assert found.frame.kappa_p == solve_kappa_p(last.z[kept])


def test_earlier_checkpoints_do_not_move_the_last(found: Emergence) -> None:
    alone = emergence(_checkpoints()[-1:], SETTINGS)
    assert torch.equal(alone.h[0], found.h[-1]) and torch.equal(alone.w[0], found.w[-1])
    assert torch.equal(alone.frame.directions, found.frame.directions)


def test_lambda_may_start_from_its_neighbours_and_w_never_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inits: list[Any] = []
    real = RegionalProjection.fit

    def watched(self: Any, *arrays: Any, init: Any = None, **more: Any) -> Any:
        inits.append(init)
        return real(self, *arrays, init=init, **more)

    monkeypatch.setattr(RegionalProjection, "fit", watched)
    quick = emergence(_checkpoints(60), QUICK)
    assert inits[:2] == [None, None]  # two layers of the last checkpoint
    assert all(init is not None for init in inits[2:]) and len(inits) == 6
    # w stops early: a start that is further on would end further on.
    first = feature_set(LEARNED[0], 60)
    P = image_similarity(first.z[quick.region_images], quick.frame.solved_kappa_p)
    alone = RegionImportance(max_evals=QUICK.importance_evals)
    alone.fit(list(first.layers.values())[1][quick.region_images], P)
    assert torch.equal(alone.w_, quick.w[0, 1])


def test_features_are_asked_for_once_and_one_checkpoint_at_a_time() -> None:
    asked: list[str] = []

    def counted(checkpoint: Checkpoint) -> Checkpoint:
        def features() -> FeatureSet:
            asked.append(checkpoint.label)
            return checkpoint.features()

        return replace(checkpoint, features=features)

    emergence([counted(c) for c in _checkpoints(60)], QUICK)
    assert asked == ["epoch 20", "epoch 10", "epoch 0"]


def test_a_study_comes_back_from_disk(found: Emergence, tmp_path: Path) -> None:
    found.save(tmp_path / "emergence")
    again = Emergence.load(tmp_path / "emergence")
    _assert_same(found, again)
    assert again.fits == found.fits
    assert again.points().count() == found.points().count()
    assert torch.equal(again.entropy(), found.entropy())


def test_a_finished_study_is_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = emergence(_checkpoints(60), QUICK, folder=tmp_path)
    counted = _count_fits(monkeypatch)
    second = emergence(_checkpoints(60), QUICK, folder=tmp_path)
    assert not counted
    _assert_same(first, second)
    assert second.fits == first.fits  # seconds too: they are those of the fit


@pytest.mark.one_in(3)
@pytest.mark.parametrize("most", [1, 4, 14])
def test_a_killed_study_goes_on_to_the_same_result(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = emergence(_checkpoints(60), QUICK)
    with monkeypatch.context() as patch:
        counted = _count_fits(patch, most)
        with pytest.raises(KeyboardInterrupt):
            emergence(_checkpoints(60), QUICK, folder=tmp_path)
        assert counted.total() == most
    counted = _count_fits(monkeypatch)
    _assert_same(emergence(_checkpoints(60), QUICK, folder=tmp_path), whole)
    assert counted.total() == 15 - most  # 3 of samples, and 2 for each of 3 x 2 layers


def test_a_damaged_fit_is_found_and_not_used(tmp_path: Path) -> None:
    emergence(_checkpoints(60), QUICK, folder=tmp_path)
    array = sorted(tmp_path.rglob("*.regional.safetensors"))[1]
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    with pytest.raises(StoreError, match=array.name):
        emergence(_checkpoints(60), QUICK, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 2.0}, "alpha"),
        ({"temperature": 2.0}, "temperature"),
        ({"random_state": 1}, "random_state"),
        ({"include_self": True, "dim": 2}, "dim, include_self"),
    ],
)
def test_fits_of_other_settings_are_refused(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    emergence(_checkpoints(60)[-1:], QUICK, folder=tmp_path)
    with pytest.raises(ValueError, match=rf"holds fits with another {named}\."):
        emergence(_checkpoints(60)[-1:], replace(QUICK, **change), folder=tmp_path)


def test_fits_of_other_images_are_refused(tmp_path: Path) -> None:
    emergence(_checkpoints(60)[-1:], QUICK, folder=tmp_path)
    with pytest.raises(ValueError, match="another names"):
        emergence(_checkpoints(64)[-1:], QUICK, folder=tmp_path)


def test_settings_that_failed_before_any_fit_do_not_stand_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dim = 13 is more than the E = 12"):
        emergence(_checkpoints(60)[-1:], replace(QUICK, dim=13), folder=tmp_path)
    emergence(_checkpoints(60)[-1:], QUICK, folder=tmp_path)
    assert json.loads((tmp_path / "study.json").read_text())["dim"] == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x: replace(x, names=[f"other {i}" for i in range(60)]), "names"),
        (lambda x: replace(x, categories=["a", "b", "c", "d"]), "categories"),
        (lambda x: replace(x, y=x.y.flip(0)), "labels"),
        (lambda x: replace(x, grid=(3, 2)), "grid"),
        (lambda x: x.select(["conv2"]), "layers"),
        (lambda x: x.select(["conv2", "conv1"]), "layers"),
        (lambda x: replace(x, layers={k: F[..., :5] for k, F in x.layers.items()}), "layers"),
        (lambda x: x.subset(range(40)), "names"),
    ],
)
def test_checkpoints_of_another_network_or_other_images_are_refused(
    change: Callable[[FeatureSet], FeatureSet], named: str
) -> None:
    other = Checkpoint("epoch 0", 0, lambda: change(feature_set(0.1)))
    with pytest.raises(ValueError, match=f"checkpoint 'epoch 0': its {named} differ"):
        emergence([other, *_checkpoints(60)[1:]], QUICK)


def test_checkpoints_need_labels_of_their_own_and_at_least_one() -> None:
    with pytest.raises(ValueError, match="none given"):
        emergence([])
    twice = [replace(c, label="same") for c in _checkpoints(60)]
    with pytest.raises(ValueError, match="labels must differ"):
        emergence(twice, QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: replace(x, z=torch.zeros_like(x.z)), "alike"),
        (lambda x: replace(x, f=torch.ones_like(x.f)), "f: the features of all images are alike"),
        (lambda x: replace(x, z=x.z[:, :1], y=0 * x.y, categories=["one"]), "one category"),
        (lambda x: x.subset(range(9)), "images are too few"),
        (lambda x: x.subset([0]), "leaves none"),
        (
            lambda x: replace(x, layers={"conv1": torch.ones(60, 6, 4)}),
            "layer 'conv1' of checkpoint 'last': F: the features of all regions are alike",
        ),
        (
            lambda x: replace(x, layers={"conv1": torch.rand(60, 6, 2)}),
            "layer 'conv1' of checkpoint 'last': F has K = 2 channels, fewer than the dim = 3",
        ),
    ],
)
def test_features_that_cannot_be_fitted_are_errors_that_name_the_cause(
    change: Callable[[FeatureSet], FeatureSet], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        emergence([Checkpoint("last", 0, lambda: change(feature_set(1.0)))], QUICK)


def test_a_dead_layer_of_one_image_does_no_harm() -> None:
    def features() -> FeatureSet:
        made = feature_set(1.0)
        made.layers["conv1"][3] = 0
        return made

    result = emergence([Checkpoint("last", 0, features)], QUICK)
    assert torch.isfinite(result.h).all() and (result.h[0, 0, 3] == 0).all()
    assert not result.points(0, 0).point[3].any()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dim", 1),
        ("alpha", -1.0),
        ("temperature", 0.0),
        ("tau", 1.0),
        ("held_out", 0.0),
        ("held_out", 1.0),
        ("region_images", 1),
    ],
)
def test_wrong_settings_are_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        Settings(**{argument: value})  # type: ignore[arg-type]


def test_a_threshold_below_chance_is_refused_before_anything_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = _count_fits(monkeypatch)
    with pytest.raises(ValueError, match="tau"):
        emergence(_checkpoints(60), replace(QUICK, tau=0.2))
    assert not counted


@pytest.mark.parametrize("sizes", [(50,) * 10, (100,) * 10, (7, 40, 13), (1, 1, 30), (5, 5)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.5])
def test_the_split_is_balanced_over_categories(sizes: tuple[int, ...], share: float) -> None:
    """Ten categories of 50 are what the validation images of the paper's data set are."""
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    settings = Settings(held_out=share, region_images=20)
    held_out, chosen = split_images(y, settings)
    fitted = int((~held_out).sum())
    assert abs(int(held_out.sum()) - share * len(y)) <= 0.5
    assert len(chosen) == min(20, fitted) == len(chosen.unique())
    assert not held_out[chosen].any() and torch.equal(chosen, chosen.sort().values)
    for c, n in enumerate(sizes):
        mine = int(held_out[y == c].sum())
        assert abs(mine - share * n) < 1 + 1e-9
        part = (n - mine) * len(chosen) / fitted
        assert abs(int((y[chosen] == c).sum()) - part) < 1 + 1e-9
    assert torch.equal(split_images(y, settings)[0], held_out)
    if len(y) > 20:
        assert not torch.equal(split_images(y, replace(settings, random_state=1))[0], held_out)


@pytest.mark.parametrize("label", ["../up", "a/b", "epoch 3", "<script>", "x" * 255, "", ".", "é"])
def test_labels_become_plain_names_of_their_own(label: str) -> None:
    name = file_name(label)
    assert name and len(name) < 100 and name not in (".", "..")
    assert all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
    assert file_name(label + "_") != name and file_name("epoch_3") == "epoch_3"
