"""A forecast says what a run takes: how it grows, and that a run is near to it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emergence_ext.data import ArraySamples, ImageFolder, Samples
from emergence_ext.run import Forecast, Settings, Subject, forecast, run
from emergence_ext.run import analyse as analysing
from emergence_ext.run.plan import Sizes
from emergence_ext.run.rates import Curve, Rates, _of_gpu

LINE, SQUARE = Curve(0.01, 1e-3), Curve(0.01, 1e-5, 2)
RATES = Rates(
    read=1e-3, hold=0.1, image=2e-3, project=1e-4, write=1e-8, kappa_p=SQUARE, rounds=4.0,
    round=LINE, importance={"a": SQUARE, "b": SQUARE}, regional={"a": SQUARE, "b": SQUARE},
    thumbnail=LINE, pixels=12, resident=2**29,
)  # fmt: skip
SIZES = Sizes(
    images=5000, checkpoints=2, categories=10, regions=49, dim=3, layers={"a": 32, "b": 64},
    width=64, samples=3000, region_images=300, kept=600, shown=2600, pixels=3 * 64 * 64,
)  # fmt: skip
PLAN = Forecast(SIZES, Settings(), RATES)


def _seconds(plan: Forecast, name: str) -> float:
    return {stage.name: stage.seconds for stage in plan.stages}[name]


def _with(**sizes: int) -> Forecast:
    return replace(PLAN, sizes=replace(SIZES, **sizes))


def test_what_looks_at_all_images_grows_with_them_and_fits_do_not() -> None:
    more = _with(images=10_000)
    assert more.passes["stream"] == pytest.approx(2 * PLAN.passes["stream"], rel=0.05)
    assert more.passes["fit"] == PLAN.passes["fit"]
    assert more.seconds == pytest.approx(sum(more.passes.values()))


def test_fits_of_regions_grow_with_the_square_of_their_images_and_with_pairs_as_they_do() -> None:
    for name in ("w and v", "Lambda"):
        free = [replace(PLAN, sizes=replace(SIZES, region_images=n)) for n in (300, 600)]
        first, second = (_seconds(plan, name) for plan in free)
        assert 3.5 < second / first < 4
        some = [replace(plan, settings=Settings(pairs=29)) for plan in free]
        first, second = (_seconds(plan, name) for plan in some)
        assert second == pytest.approx(2 * first)
    assert _seconds(_with(samples=6000), "kappa_p") > 3.9 * _seconds(PLAN, "kappa_p")


def test_gradient_descent_takes_a_step_of_lambda_for_each_image_and_solves_no_kappa_p() -> None:
    authors = replace(PLAN, settings=Settings(recipe="authors"))
    groups = 300 // 101
    assert _seconds(authors, "w and v") == pytest.approx(2 * 20 * groups * 2 * SQUARE(300 / groups))
    assert _seconds(authors, "Lambda") == pytest.approx(2 * 20 * 300 * 2 * SQUARE(101))
    assert _seconds(authors, "kappa_p") == 0


def test_processes_share_what_is_spread() -> None:
    four = replace(PLAN, processes=4)
    for alone, stage in zip(PLAN.stages, four.stages, strict=True):
        assert stage.seconds == alone.seconds / (4 if alone.spread else 1)
    assert [stage.name for stage in PLAN.stages if not stage.spread] == ["M and frame"]


def test_the_disk_is_that_of_the_sizes_and_memory_that_of_the_largest_stage() -> None:
    for kept in (600, 5000):
        plan = _with(kept=kept)
        assert plan.disk == sum(plan.sizes.disk().values())
        largest = max(stage.memory for stage in plan.stages)
        assert plan.memory == 2**29 + 12 * 5000 + largest
    assert _with(images=50_000).memory - 12 * 50_000 < 2**29 + 2**27  # streamed: does not grow
    assert _with(kept=5000).memory > PLAN.memory + 5000 * SIZES.feature_bytes


def test_the_report_takes_memory_of_its_own_for_what_it_shows() -> None:
    assert _with(images=50_000).report_memory - PLAN.report_memory == 12 * 45_000  # pixels
    assert _with(kept=5000).report_memory > PLAN.report_memory + 5000 * SIZES.row_bytes
    assert PLAN.report_memory > PLAN.resident + SIZES.shown * (SIZES.pixels + SIZES.row_bytes)


def test_memory_of_a_gpu_is_what_torch_had_of_it_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: asked.append(device) or 7)
    assert _of_gpu("cpu") == 0 and not asked
    assert _of_gpu("cuda:1") == 7 and asked == ["cuda:1"]


def test_cures_are_of_the_longest_stage_and_shorten_it() -> None:
    folds = replace(PLAN, rates=replace(RATES, rounds=20.0))
    assert folds.largest.name == "strength against entropy"
    assert "--sample-images 1500" in folds.cures()
    slow = replace(PLAN, rates=replace(RATES, importance={"a": Curve(0, 4e-3, 2)}))
    cures = slow.cures()
    assert cures["--region-images 212"] == pytest.approx(slow.seconds / 2, rel=0.1)
    assert cures["--pairs 75"] < slow.seconds / 2
    deep = replace(PLAN, rates=replace(RATES, image=1.0))
    assert deep.largest.of == "stream" and "torchrun" in list(deep.cures())[-1]
    assert any(cure.startswith("--keep-features") for cure in deep.cures())
    assert all(seconds < deep.seconds for seconds in deep.cures().values())


def test_a_curve_goes_through_two_sizes_and_never_below_nothing() -> None:
    curve = Curve.through([10, 20], [2.0, 5.0], 2)
    assert curve(10) == pytest.approx(2) and curve(20) == pytest.approx(5)
    assert Curve.through([10, 20], [2.0, 1.0])(40) == 1  # noise is no trend
    steep = Curve.through([10, 20], [0.1, 5.0], 1)
    assert steep(20) == pytest.approx(5) and steep(1) > 0
    assert Curve.through([6, 6], [1.0, 2.0])(12) == 4


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, stride=4, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 3)
        for layer in (self.first[0], self.second[0]):
            layer.weight.data /= 20
            layer.weight.data[torch.arange(3), torch.arange(3)] += 1 / 9
        self.head.weight.data[torch.arange(3), torch.arange(3)] += 10

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


class _Counted(Samples):
    """Images that count how often they are looked at."""

    def __init__(self, count: int) -> None:
        y = torch.arange(count) % 3
        images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
        images[torch.arange(count), y] += 0.4
        self.inner, self.seen = ArraySamples(images, y.tolist(), ["a", "b", "c"]), set[int]()
        super().__init__(self.inner.categories, self.inner.labels, self.inner.names)

    def _image(self, index: int) -> Tensor:
        self.seen.add(index)
        return self.inner[index][0]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emergence_ext.run.strength.TEMPERATURES", (1.0,))


FEW = Settings(region_images=16, sample_images=40, importance_evals=3, regional_evals=3)


@pytest.mark.parametrize(
    "keep_features", [0, pytest.param(256, marks=pytest.mark.slow)], ids=["streamed", "kept"]
)
def test_a_real_run_is_near_its_forecast_which_looks_at_few_images_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_features: int
) -> None:
    torch.manual_seed(0)
    images = _Counted(240)
    module = _Net().eval()
    subject = Subject(module, {"first": "first", "second": "second"}, images, batch_size=8)
    settings = replace(FEW, keep_features=keep_features)
    plan = forecast(subject, tmp_path / "run", settings, alphas=[1.0])
    assert not list(tmp_path.iterdir()) and len(images.seen) < 40
    assert plan.sizes.streamed == (keep_features == 0)
    assert all(stage.seconds >= 0 and stage.memory >= 0 for stage in plan.stages)
    assert plan.disk == sum(plan.sizes.disk().values())

    monkeypatch.setattr(analysing, "_strengths", lambda *_: [])
    run(subject, tmp_path / "run", settings, alphas=[1.0])
    there = sum(x.stat().st_size for x in (tmp_path / "run").rglob("*") if x.is_file())
    assert there / 3 < plan.disk < 3 * there


def test_the_recipe_of_the_authors_is_forecast_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {"first": "first", "second": "second"}
    subject = Subject(_Net().eval(), layers, _Counted(60), batch_size=8)
    few = {"region_images": 16, "importance_evals": 3, "regional_evals": 3}
    plan = forecast(subject, tmp_path / "run", Settings(recipe="authors", pairs=7, **few))
    assert plan.rates.rounds == 100
    assert all(_seconds(plan, name) > 0 for name in ("w and v", "Lambda", "M and frame"))


def test_what_a_run_refuses_is_refused_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _Net().eval()
    subject = Subject(module, {"second": "second"}, _Counted(60), batch_size=8)
    with pytest.raises(ValueError, match="dim = 7 is more than the 6 channels"):
        forecast(subject, tmp_path / "run", replace(FEW, dim=7))
    with pytest.raises(ValueError, match="alphas"):
        forecast(subject, tmp_path / "run", FEW, alphas=[-1])
    monkeypatch.setattr("emergence_ext.run.plan.free_space", lambda folder: 100)
    with pytest.raises(OSError, match="has 0 MiB free; give fewer sample_images"):
        forecast(subject, tmp_path / "none" / "run", replace(FEW, keep_features=0))


def test_images_that_are_listed_alone_are_decoded_when_they_are_asked_for(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ImageFolder(image_folder, size=16)
    listed = ImageFolder(image_folder, size=16, listed=True)
    assert listed.names == whole.names and listed.labels == whole.labels and listed.kept
    assert torch.equal(listed[3][0], whole[3][0])
    assert [x.shape for x in listed.read([0, 1])] == [(3, 16, 16)] * 2
