"""Shapley values of regions: exact by enumeration, axioms, and what they are held against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from typer.testing import CliRunner

from emergence_ext.cli import app
from emergence_ext.data.samples import ArraySamples
from emergence_ext.figures import Band, shapley_correlations, shapley_maps
from emergence_ext.method.correlation import pearson
from emergence_ext.method.frame import Frame
from emergence_ext.method.intervals import mean_interval
from emergence_ext.method.vmf import ExactKappa
from emergence_ext.network.above import Above, above, grad_cam, region_cells
from emergence_ext.network.hooks import regions
from emergence_ext.report import shapley as report
from emergence_ext.report.files import NO_IMAGES, write_table
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.results import Emergence
from emergence_ext.run.subject import Subject
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.studies.shapley import (
    BATCH,
    RegionValues,
    Shapley,
    _errors,
    region_values,
    shapley,
)
from tests.network.test_features import Tokens
from tests.studies.saved import NOWHERE, assert_equal, assert_updated_from_what_is_saved, save_run

pytest.importorskip("captum")
GRID = (3, 3)


class Game(nn.Module):
    """Nine regions `[n, K, 3, 3]`: some interact, two are alike, one is seen by nobody."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(9 * channels, 12)
        self.head = nn.Linear(12, 3)
        with torch.no_grad():
            weight = self.hidden.weight.view(12, channels, 9)
            weight[:, :, 4] = 0  # null
            weight[:, :, 7] = weight[:, :, 1]  # alike where their maps are

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.conv(images))
        return self.head(torch.tanh(12 * self.hidden(maps.flatten(1))))


class Around(nn.Module):
    """A way around the layer: the logits need the images themselves too."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + self.head(images.mean(dim=(2, 3)))


class Beside(nn.Module):
    """Laid beside the layer's maps, what comes from other images does not even fit."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.conv, self.layout = nn.Conv2d(3, 4, 1), _Last() if last else nn.Identity()
        self.head = nn.Linear(7, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layout(torch.relu(self.conv(images)))
        if maps.shape[1:3] == images.shape[2:]:
            maps = maps.permute(0, 3, 1, 2)
        return self.head(torch.cat([maps, images], dim=1).square().mean(dim=(2, 3)))


class _Last(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


def seeded(make: type[nn.Module], *arguments: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*arguments)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(4, 3, 3, 3, generator=generator)


@pytest.fixture
def game() -> nn.Module:
    return seeded(Game)


@pytest.fixture
def part(game: nn.Module, images: Tensor) -> Iterator[Above]:
    images[:, :, 2, 1] = images[:, :, 0, 1]  # regions 7 and 1
    with above(game, "relu", images) as part:
        yield part


COLUMNS = torch.tensor([0, 1, 2, 0])


def exact(part: Above, columns: Tensor, regions: int = 9) -> Tensor:
    """Shapley values by their definition, from the logits of all coalitions, float64 `[n, R]`."""
    present = torch.tensor(
        [[bool(mask >> r & 1) for r in range(regions)] for mask in range(2**regions)]
    )
    values = torch.zeros(len(part.maps), regions, dtype=torch.float64)
    shape = part.maps.shape[2:]
    with torch.no_grad():
        logit = torch.stack(
            [
                part(part.maps * x.view(shape))[torch.arange(len(columns)), columns].double()
                for x in present
            ]
        )
    for r in range(regions):
        others = [k for k in range(regions) if k != r]
        for size in range(regions):
            share = 1 / (regions * math.comb(regions - 1, size))
            for coalition in combinations(others, size):
                without = sum(1 << k for k in coalition)
                values[:, r] += share * (logit[without | 1 << r] - logit[without])
    return values


@pytest.fixture
def sampled(part: Above) -> RegionValues:
    return region_values(part, COLUMNS, GRID, samples=4000, error=0.02)


def test_sampled_values_are_the_exact_ones_within_the_stated_error(
    part: Above, sampled: RegionValues
) -> None:
    truth = exact(part, COLUMNS)
    stated = 0.02 * truth.std(1)
    assert (sampled.error <= 1.02 * stated).all()
    away = (sampled.values - truth).abs().mean(1)
    assert (away < 2 * stated).all() and away.max() > 0
    # The error that is told is the one that is made: neither far too small nor far too large.
    assert 0.4 < float((away / sampled.error).mean()) < 1.3


def test_values_sum_to_what_all_regions_make_of_the_logit(
    part: Above, game: nn.Module, images: Tensor
) -> None:
    few = region_values(part, COLUMNS, GRID, samples=4 * BATCH, error=1e-9)
    assert (few.permutations == 4 * BATCH).all()
    torch.testing.assert_close(few.values.sum(1), few.full - few.none)
    with torch.no_grad():
        full = game(images)[torch.arange(4), COLUMNS]
        none = game.head(torch.tanh(12 * game.hidden.bias))[COLUMNS]
    torch.testing.assert_close((few.full, few.none), (full, none))


def test_a_region_that_nobody_sees_counts_nothing(part: Above, sampled: RegionValues) -> None:
    assert part.maps[:, :, 1, 1].abs().sum() > 0
    assert float(sampled.values[:, 4].abs().max()) < 1e-6


def test_regions_that_are_alike_count_alike(part: Above, sampled: RegionValues) -> None:
    truth = exact(part, COLUMNS)
    torch.testing.assert_close(truth[:, 1], truth[:, 7])
    assert ((sampled.values[:, 1] - sampled.values[:, 7]).abs() < 6 * sampled.error).all()
    assert truth[:, 1].abs().min() > 0


def test_a_smaller_error_takes_more_permutations_and_each_image_its_own(part: Above) -> None:
    coarse = region_values(part, COLUMNS, GRID, samples=2000, error=0.1)
    fine = region_values(part, COLUMNS, GRID, samples=2000, error=0.03)
    assert (fine.permutations > coarse.permutations).all()
    assert (fine.error <= 0.03001 * fine.values.std(1)).all()
    assert len(fine.permutations.unique()) > 1
    alone = part.subset(torch.tensor([2]))
    one = region_values(alone, COLUMNS[2:3], GRID, samples=2000, error=0.03)
    assert one.permutations[0] == fine.permutations[2]
    torch.testing.assert_close(one.values[0], fine.values[2])


def test_values_are_seeded_and_the_global_random_state_is_untouched(part: Above) -> None:
    before = torch.get_rng_state()
    one, same = (
        region_values(part, COLUMNS, GRID, samples=32, error=1e-9, random_state=3) for _ in range(2)
    )
    other = region_values(part, COLUMNS, GRID, samples=32, error=1e-9, random_state=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.values, same.values) and not torch.equal(one.values, other.values)


def test_cells_go_to_the_region_that_they_are_pooled_into() -> None:
    cells = region_cells((6, 9), GRID)
    maps = torch.arange(54.0).view(1, 1, 6, 9)
    pooled = regions(maps, GRID)[0, :, 0]
    means = torch.stack([maps[0, 0][cells == r].mean() for r in range(9)])
    torch.testing.assert_close(means, pooled)
    uneven = region_cells((7, 8), (3, 3))
    for r in range(9):
        inside = torch.zeros(9)
        inside[r] = 1
        rows, columns = (uneven == r).nonzero().unbind(1)
        row, column = divmod(r, 3)
        assert rows.min() >= row * 7 // 3 and rows.max() < -(-(row + 1) * 7 // 3)
        assert columns.min() >= column * 8 // 3 and columns.max() < -(-(column + 1) * 8 // 3)
    with pytest.raises(ValueError, match="map of 2 x 3 is smaller than the grid of 3 x 3"):
        region_cells((2, 3), GRID)


def test_grad_cam_is_that_of_the_maps(part: Above) -> None:
    maps = part.maps.clone().requires_grad_()
    z = part(maps)[torch.arange(4), COLUMNS]
    (gradient,) = torch.autograd.grad(z.sum(), maps)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(1).flatten(1)
    torch.testing.assert_close(grad_cam(part, COLUMNS, GRID), expected.detach())


@pytest.mark.parametrize(
    ("make", "layer", "alone"),
    [
        (lambda: seeded(Game), "relu", True),
        (lambda: Around(seeded(Game)), "inner.relu", False),
        (lambda: seeded(Beside), "conv", False),
        (lambda: seeded(Beside, True), "layout", False),
    ],
)
def test_what_is_above_a_layer_gives_the_logits_of_the_whole(
    make: object, layer: str, alone: bool, images: Tensor
) -> None:
    module = make()  # type: ignore[operator]
    module.train()
    with torch.no_grad():
        z = module.eval()(images)
    module.train()
    with above(module, layer, images) as part:
        assert part.alone is alone and not module.training
        twice = part(torch.cat([part.maps, 0 * part.maps]))
        torch.testing.assert_close(twice[:4], z)
        torch.testing.assert_close(part.subset(torch.tensor([3]))(part.maps[3:]), z[3:])
        assert (twice[4:] - z).abs().max() > 1e-3
    assert module.training
    assert not any(child._forward_hooks for child in module.modules())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_are_regions_and_the_class_token_stays(
    class_token: bool, generator: torch.Generator
) -> None:
    class Mixed(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            if self.token is not None:
                x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
            x = self.block(x)
            return self.head(torch.tanh(x.mean(1)) + (x[:, 0] if class_token else 0))

    module, images = seeded(Mixed, class_token), torch.rand(2, 3, 12, 12, generator=generator)
    columns = torch.tensor([1, 2])
    with above(module, "block", images) as part:
        assert part.maps.shape == (2, 5, 3, 3) and part.alone
        sampled = region_values(part, columns, GRID, samples=2000, error=0.03)
        truth = exact(part, columns)
        assert ((sampled.values - truth).abs().mean(1) < 2 * 0.03 * truth.std(1)).all()
        kept = part(0 * part.maps)
        assert torch.equal(sampled.none, kept[torch.arange(2), columns])
        assert (kept[0] - kept[1]).abs().max() < 1e-6  # both have the same class token
        assert grad_cam(part, columns, GRID).shape == (2, 9)


def test_a_layer_that_cannot_be_taken_apart_is_refused(game: nn.Module, images: Tensor) -> None:
    for layer, words in (("relo", "no layer 'relo'"), ("hidden", "expected a map")):
        with pytest.raises(ValueError, match=words), above(game, layer, images):
            pass
    game.spare = nn.ReLU()
    with pytest.raises(ValueError, match="'spare' never runs"), above(game, "spare", images):
        pass
    with (
        pytest.raises(ValueError, match="expected logits"),
        above(nn.Sequential(game.conv), "0", images),
    ):
        pass


def _results(names: list[str], y: Tensor, z: Tensor, w: Tensor, strength: Tensor) -> Emergence:
    """Of two checkpoints and two layers; w and strength are those of the last of each."""
    n = len(names)
    others = torch.rand(2, 2, 2, n, 9, generator=torch.Generator().manual_seed(2))
    others[:, -1, -1] = torch.stack([w, strength])
    frame = Frame(torch.full((3,), 1 / 3), torch.eye(3), ExactKappa(3), 1.0)
    return Emergence(
        frame=frame,
        labels=["before", "network"],
        epochs=[0, 1],
        layers=["first", "relu"],
        categories=["a", "b", "c"],
        names=names,
        grid=GRID,
        tau=0.4,
        y=y,
        held_out=torch.arange(n) == 0,
        region_images=torch.arange(1, n),
        g=torch.zeros(2, n, 3),
        z=torch.stack([torch.zeros_like(z), z]),
        h=torch.zeros(2, 2, n, 9, 3),
        w=others[0, :, :, 1:],
        scale=torch.ones(2, 2),
        raw_strength=others[1, :, :, 1:],
    )


N = 13


@pytest.fixture(scope="module")
def study() -> tuple[Subject, Emergence, Shapley]:
    """A run whose w is nearly the Shapley values of its network, and whose |F| says nothing."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(N, 3, 3, 3, generator=generator)
    y = torch.arange(N) % 3
    module, outputs = seeded(Game), (2, 0, 1)
    with above(module, "relu", images) as part:
        truth = exact(part, torch.tensor(outputs)[y])
        z = part(part.maps).detach()[:, outputs]
    w = torch.softmax(truth, dim=1).float()
    samples = ArraySamples(images, y.tolist(), ["a", "b", "c"])
    subject = Subject(module, {"relu": "relu"}, samples, outputs=outputs)
    e = _results(samples.names, y, z, w, torch.ones(N, 9))
    return subject, e, shapley(subject, e, error=0.05, samples=2000)


def test_planted_importance_is_found_and_chance_is_not(
    study: tuple[Subject, Emergence, Shapley],
) -> None:
    _, e, result = study
    assert result.layers == ["relu"] and result.values.shape == (1, N - 1, 9)
    assert result.names == e.names[1:] and result.reached.all()
    spearman, r = result.spearman(), result.pearson()
    assert spearman["w"].mean() > 0.97 and abs(float(spearman["random w"].mean())) < 0.35
    torch.testing.assert_close(result.random.sum(-1), torch.ones(1, N - 1))
    assert spearman["|F|"].isnan().all() and r["|F|"].isnan().all()  # constant in every image
    expected = spearmanr(result.grad_cam[0, 3], result.values[0, 3]).statistic
    assert float(spearman["Grad-CAM"][0, 3]) == pytest.approx(expected)
    torch.testing.assert_close(r["w"], pearson(result.w, result.values))


def test_a_study_is_the_same_again_and_is_kept(
    study: tuple[Subject, Emergence, Shapley], tmp_path: Path
) -> None:
    subject, e, result = study
    subject.module.train()
    before = {name: x.clone() for name, x in subject.module.state_dict().items()}
    again = shapley(subject, e, ["relu"], error=0.05, samples=2000)
    assert subject.module.training
    assert all(torch.equal(x, before[name]) for name, x in subject.module.state_dict().items())
    result.save(tmp_path / "shapley")
    loaded = Shapley.load(tmp_path / "shapley")
    assert_equal(loaded, result)
    for other in (again, loaded):
        for name in (*result.measures, "values", "error", "permutations", "y", "index"):
            one, two = (x.measures.get(name, getattr(x, name, None)) for x in (result, other))
            assert torch.equal(one, two), name
        assert (other.layers, other.grid, other.reach) == (["relu"], GRID, 0.05)


def test_fewer_images_are_of_all_categories(study: tuple[Subject, Emergence, Shapley]) -> None:
    subject, e, result = study
    few = shapley(subject, e, images=3, error=0.05, samples=2000)
    assert sorted(few.y.tolist()) == [0, 1, 2]
    place = [result.names.index(name) for name in few.names]
    torch.testing.assert_close(few.values, result.values[:, place])
    assert torch.equal(few.w, result.w[:, place])


def test_tables_say_what_was_found(
    study: tuple[Subject, Emergence, Shapley], tmp_path: Path
) -> None:
    result = study[2]
    tables = report.tables(result, NOWHERE)
    rows = {row["importance"]: row for row in tables["shapley"]}
    assert list(rows) == ["w", "w |F|", "|F|", "Grad-CAM", "random w"]
    low, mean, high = (rows["w"][f"Spearman, mean{end}"] for end in (", low", "", ", high"))
    assert low <= mean <= high
    assert mean == pytest.approx(float(result.spearman()["w"].mean()))
    assert rows["w"]["images"] == N - 1 and rows["|F|"]["images"] == 0
    for name in ("w", "Grad-CAM", "random w"):
        r = float(result.pearson()[name].mean())
        assert rows[name]["Pearson, mean"] == pytest.approx(r)
    share = (result.error[0] / result.values[0].std(dim=1)).median()
    assert rows["w"]["standard error, share of spread"] == pytest.approx(float(share))
    assert rows["w"]["permutations, mean"] == float(result.permutations.double().mean())
    assert rows["|F|"]["Pearson, mean"] == "undefined"
    write_table(tmp_path / "images.csv", tables["shapley_images"])
    text = (tmp_path / "images.csv").read_text()
    assert text.count("\n") == N and "nan" not in text


def test_an_interval_holds_the_mean_and_narrows_with_images() -> None:
    r = torch.randn(400, generator=torch.Generator().manual_seed(0))
    wide, narrow = mean_interval(r[:25]), mean_interval(torch.cat([r, torch.tensor([torch.nan])]))
    assert wide is not None and narrow is not None
    assert narrow.low < float(r.mean()) < narrow.high
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * float(r.std()) / 20, rel=0.15)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert mean_interval(torch.full((3,), torch.nan)) is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"layers": ["conv"]}, "layer: expected some of first, relu"),
        ({"layers": ["relu", "relu"]}, "layer: expected some of first, relu"),
        ({"images": 0}, "images: expected at least 1"),
        ({"samples": 31}, "samples: expected at least 32"),
        ({"error": 0.0}, "error: expected a share above 0"),
    ],
)
def test_wrong_use_is_told(
    study: tuple[Subject, Emergence, Shapley], asked: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        shapley(*study[:2], **asked)


def test_a_layer_whose_regions_change_nothing_is_refused(
    study: tuple[Subject, Emergence, Shapley], generator: torch.Generator
) -> None:
    # The head reads the class token alone.
    samples = ArraySamples(torch.rand(N, 3, 12, 12, generator=generator), [0] * N, ["a", "b", "c"])
    module = seeded(Tokens)
    with torch.no_grad():
        z = module(torch.stack([samples[i][0] for i in range(N)]))[None]
    e = replace(study[1], z=z, y=torch.zeros(N, dtype=torch.int64))
    blind = Subject(module, {"relu": "block"}, samples)
    with pytest.raises(ValueError, match=r"no region of it changes the logit.*earlier layer"):
        shapley(blind, e, images=3)


def test_another_network_than_the_runs_is_refused(
    study: tuple[Subject, Emergence, Shapley],
) -> None:
    subject, e, _ = study
    other = seeded(Game)
    with torch.no_grad():
        other.head.weight.mul_(1.5)
    with pytest.raises(ValueError, match="weights: the network gives other logits"):
        shapley(replace(subject, module=other), e, images=3)


def test_the_standard_error_is_that_of_the_mean_of_the_batches() -> None:
    means = torch.rand(5, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means[:, :, 0] *= 10  # so that a mean over regions is no root of a mean square
    error, spread = _errors(means.sum(0), means.square().sum(0), torch.full((3,), 5))
    torch.testing.assert_close(error, (means.std(0) / 5**0.5).mean(1))
    torch.testing.assert_close(spread, means.mean(0).std(1))


def test_logits_that_are_not_finite_are_refused(
    study: tuple[Subject, Emergence, Shapley],
) -> None:
    subject, e, _ = study
    module = seeded(Game)
    with torch.no_grad():
        module.head.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits that are not finite"):
        shapley(replace(subject, module=module), e, images=2)


def test_the_command_writes_tables_figures_and_values(
    study: tuple[Subject, Emergence, Shapley], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(tmp_path, study[1], Thumbnails.of(study[0], GRID))
    monkeypatch.setattr(FinishedRun, "subject", lambda run, device: study[0])
    asked = ["shapley", str(tmp_path), "--images", "3", "--device", "cpu"]
    result = CliRunner().invoke(app, [*asked, "--samples", "32", "--error", "1e-9"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "shapley"
    assert result.stdout.splitlines()[-2:] == [
        f"tables and figures: {folder}",
        f"Report: {(tmp_path / 'report.html').as_uri()}",
    ]
    assert "relu, w: Spearman 0." in result.stdout and "|F|: Spearman undefined" in result.stdout
    assert "3 of 3 standard errors are above 1e-09" in result.stderr
    for name in (
        "tables/shapley.csv",
        "tables/shapley_images.csv",
        "figures/correlations.png",
        "figures/correlations.svg",
        "figures/maps_relu.png",
        "figures/maps_relu.svg",
    ):
        assert (folder / name).stat().st_size > 100, name
    assert Shapley.load(folder / "shapley").values.shape == (1, 3, 9)
    assert_updated_from_what_is_saved(tmp_path, "shapley", {"correlations", "maps_relu"})
    refused = CliRunner().invoke(app, [*asked, "--layer", "conv9"])
    assert refused.exit_code == 2
    assert refused.stderr.strip().endswith("layer: expected some of first, relu, got ['conv9']")


def test_without_images_the_correlations_are_drawn(
    study: tuple[Subject, Emergence, Shapley], tmp_path: Path
) -> None:
    drawings = dict(report.figures(study[2], save_run(tmp_path, study[1])))
    draw = drawings.pop("correlations")
    assert not isinstance(draw, str) and len(draw().axes) == 2
    assert drawings == {"maps_relu": NO_IMAGES}


def test_figures_are_drawn_of_any_number_of_layers_and_images() -> None:
    generator = torch.Generator().manual_seed(0)
    before = dict(matplotlib.rcParams)
    for L, n in ((1, 1), (3, 7)):
        r = torch.rand(L, n, generator=generator) * 2 - 1
        r[0, 0] = torch.nan
        mean = r.nanmean(1)
        shown = {"w": (r, Band(mean, mean - 0.1, mean + 0.1)), "a$b": (r, Band(mean, mean, mean))}
        layers = [f"conv{k}" for k in range(L)]
        figure = shapley_correlations(shown, shown, layers)
        figure.canvas.draw()
        assert len(figure.axes) == 2
        told = [t.get_text() for t in figure.axes[0].texts]
        assert ("undefined" in told) == (n == 1)
        sheet = shapley_maps(
            torch.rand(n, 1, 6, 6, generator=generator),
            torch.randn(n, 9, generator=generator),
            torch.full((n, 9), 1 / 9),
            torch.full((n,), torch.nan),
            GRID,
            torch.zeros(n),
            ["a"],
        )
        sheet.canvas.draw()
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match="pearson must name"):
        shapley_correlations(shown, {"w": shown["w"]}, layers)
    with pytest.raises(ValueError, match="holds 4 regions"):
        shapley_maps(
            torch.rand(1, 3, 6, 6), torch.rand(1, 9), torch.rand(1, 9), [0.1], (2, 2), [0], ["a"]
        )
