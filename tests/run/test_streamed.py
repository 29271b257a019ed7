"""Many images are streamed: their rows lie on disk, and everything is found as if in memory."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emergence_ext import report
from emergence_ext.data import ArraySamples, take
from emergence_ext.report.exporting import regions as exported_regions
from emergence_ext.run import (
    Config,
    Emergence,
    FinishedRun,
    Settings,
    Subject,
    recompute,
    results,
    run,
    verify,
)
from emergence_ext.run.plan import Sizes
from emergence_ext.run.settle import evenly, sample_images, split_images
from emergence_ext.store import StoreError
from emergence_ext.studies.apply import apply
from emergence_ext.studies.controls import controls

C, N = 3, 96
FEW = Settings(region_images=16, sample_images=40, importance_evals=3, regional_evals=3)
MANY = replace(FEW, keep_features=0)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, stride=4, padding=1), nn.ReLU())
        self.head = nn.Linear(6, C)
        for layer in (self.first[0], self.second[0]):
            layer.weight.data /= 20
            layer.weight.data[torch.arange(C), torch.arange(C)] += 1 / 9
        self.head.weight.data[torch.arange(C), torch.arange(C)] += 10

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


def _subject() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _Net().eval()
    y = torch.arange(N) % C
    images = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    images[torch.arange(N), y] += 0.4
    samples = ArraySamples(images, y.tolist(), [f"category {c}" for c in range(C)])
    return Subject(module, {"first": "first", "second": "second"}, samples, batch_size=8)


@pytest.fixture(autouse=True, scope="module")
def small_parts(no_strength_fits: pytest.MonkeyPatch) -> None:
    no_strength_fits.setattr(results, "SAMPLED", 20)
    no_strength_fits.setattr(results, "BLOCK", 7)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Emergence:
    return run(_subject(), tmp_path_factory.mktemp("few"), FEW).emergence


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return run(_subject(), tmp_path_factory.mktemp("many"), MANY)


def test_streamed_images_say_what_images_in_memory_say(few: Emergence, many: FinishedRun) -> None:
    e = FinishedRun.open(many.folder).emergence
    assert e.h is None and e.g is None and e.z is None and len(e.stores) == 1
    assert torch.equal(e.region_images, few.region_images)
    torch.testing.assert_close(e.w, few.w, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(e.logits(), few.logits(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(e.samples(), few.samples(), rtol=1e-2, atol=1e-2)
    for k in range(2):
        h = few.regions(-1, k)
        torch.testing.assert_close(e.regions(-1, k), h, rtol=2e-2, atol=2e-2 * float(h.abs().max()))
    assert e.accuracy() == few.accuracy()
    assert torch.allclose(e.entropy(), few.entropy(), atol=1e-3)


def test_rows_on_disk_are_read_by_index_mask_and_slice(many: FinishedRun) -> None:
    e = many.emergence
    whole, index = e.regions(-1, 1), torch.tensor([90, 3, 3, 41])
    assert whole.dtype == torch.float32 and whole.shape == (N, 4, 3)
    assert torch.equal(e.regions(-1, 1, index), whole[index])
    assert torch.equal(e.regions(-1, 1, e.held_out), whole[e.held_out])
    assert torch.equal(e.regions(-1, 1, slice(5, 80)), whole[5:80])
    assert torch.equal(e.regions(-1, 1, slice(5, 80, 3)), whole[5:80:3])
    assert e.samples(-1, slice(4, 4)).shape == (0, 3)


def test_points_counted_in_blocks_are_those_of_all(many: FinishedRun) -> None:
    e = many.emergence
    memory = e.part(torch.arange(N))
    assert memory.h is not None and memory.names == e.names
    for k in range(2):
        assert torch.equal(e.points_per_image(-1, k), memory.points_per_image(-1, k))
        assert torch.equal(e.reliable(-1, k), memory.reliable(-1, k))
        assert e.counts[0][k] == memory.counts[0][k]
    assert e.largest_logit() == memory.largest_logit()
    assert torch.equal(e.predicted(), memory.predicted())
    blocks = [[*exported_regions(x)] for x in (e, memory)]
    assert [len(b["row"]) for b in blocks[0]] == [len(b["row"]) for b in blocks[1]]


def test_what_figures_look_at_is_some_of_the_images_and_they_say_so(many: FinishedRun) -> None:
    e, some = many.emergence, many.emergence.sample
    assert len(e.sampled) == len(some.names) < N
    assert set(many.kept_images.tolist()) <= set(e.sampled.tolist())
    assert torch.equal(e.y[e.sampled], some.y)
    assert [some.names[i] for i in some.region_images] == [e.names[i] for i in e.region_images]
    assert torch.equal(some.regions(-1, 0), e.regions(-1, 0, e.sampled))
    assert many.thumbnails is not None and len(many.thumbnails.pixels) == len(some.names)
    with pytest.raises(ValueError, match="images"):
        many.thumbnails.images(torch.arange(N))
    shown = report.emergence.Shown.of(e)
    assert f"{len(some.names)} of {N} images" in shown.note("images")
    tables = report.emergence.tables(many)
    assert len(tables["images"]) == len(some.names)
    assert tables["knowledge"][0]["number of images"] == int(e.held_out.sum())
    for drawing in report.emergence.figures(many).values():
        if not isinstance(drawing, str):
            drawing()


def test_features_are_kept_of_what_fits_need_alone(many: FinishedRun) -> None:
    e = many.emergence
    chosen = sample_images(e.held_out, e.y, MANY)
    assert len(chosen) == 40 and not e.held_out[chosen].any()
    assert many.sample_features().names == [e.names[i] for i in chosen]
    features = many.features()
    assert features.names == [e.names[i] for i in many.kept_images]
    part = many.features(images=e.region_images)
    assert torch.equal(part.layers["first"].norm(dim=-1), e.raw_strength[-1, 0])
    with pytest.raises(ValueError, match=r"features are kept of .* of the 96 images"):
        many.features(images=torch.arange(N))


def test_rows_that_are_gone_are_made_again_to_the_same_bytes(many: FinishedRun) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in many.folder.rglob("*.safetensors")}

    before = contents()
    index = many.inside.projected("network") / "index.json"
    for remove in (index.unlink, partial(shutil.rmtree, index.parent)):
        remove()
        with pytest.raises(
            StoreError, match=r"no index\.json\. Bring that back, .* `emergence run"
        ):
            FinishedRun.open(many.folder).emergence  # noqa: B018
        again = run(_subject(), many.folder, MANY)
        assert contents() == before and again.made_from == many.made_from


def test_rows_that_are_damaged_or_of_another_run_are_named(
    many: FinishedRun, tmp_path: Path
) -> None:
    assert not verify(many.folder).wrong
    assert recompute(many) is many.emergence
    mine = shutil.copytree(many.folder, tmp_path / "mine")
    shard = next((mine / "projected").rglob("shard-00001.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert any("shard-00001" in text for text in verify(mine).wrong)
    with pytest.raises(StoreError, match="shard-00001"):
        FinishedRun.open(mine).emergence.points_per_image()
    shutil.copytree(tmp_path / "mine" / "projected" / "network", tmp_path / "other")
    other = run(_subject(), tmp_path / "b", replace(MANY, alpha=2.0))
    shutil.rmtree(mine / "projected")
    shutil.copytree(other.folder / "projected", mine / "projected")
    with pytest.raises(StoreError, match="holds other rows"):
        FinishedRun.open(mine).emergence  # noqa: B018


def test_controls_of_many_images_look_at_some(many: FinishedRun) -> None:
    found = controls(many, _subject())
    assert found.shuffled_outputs.names == many.emergence.sample.names


def test_new_images_are_compared_with_those_whose_features_are_kept(many: FinishedRun) -> None:
    subject, kept = _subject(), many.kept_images
    found = apply(many, replace(subject, dataset=take(subject.dataset, kept[[3, 11]].tolist())))
    assert torch.equal(found.similar[-1] // 4, kept[[3, 11]][:, None].expand(-1, 4))
    assert (found.likeness[-1] > 0.999).all()
    images = found.calibration.images
    assert torch.isin(images, kept).all() and many.emergence.held_out[images].all()
    tables = report.apply.tables(found, many)
    assert all(row["images"] == 2 for row in tables["points"])


def test_a_run_of_an_earlier_version_notes_no_bounds_and_is_taken(tmp_path: Path) -> None:
    made = run(_subject(), tmp_path, replace(FEW, sample_images=Settings.sample_images))
    config = Config.read(tmp_path / "config.json")
    for name in ("sample_images", "keep_features"):
        del config.settings[name]
    config.write(tmp_path / "config.json")
    assert FinishedRun.open(tmp_path).settings == replace(
        made.settings, keep_features=Settings.keep_features
    )
    usual = replace(FEW, sample_images=Settings.sample_images)
    assert torch.equal(run(_subject(), tmp_path, usual).emergence.w, made.emergence.w)


def test_images_that_m_is_learned_on_are_balanced() -> None:
    y = torch.cat([torch.zeros(300), torch.ones(100), torch.full((200,), 2)]).long()
    held_out, _ = split_images(y, FEW)
    chosen = sample_images(held_out, y, FEW)
    assert len(chosen) == 40 and not held_out[chosen].any()
    share = torch.bincount(y[chosen]).double() / 40
    assert torch.allclose(share, torch.tensor([0.5, 1 / 6, 1 / 3]).double(), atol=0.05)
    assert torch.equal(sample_images(held_out, y, Settings()), (~held_out).nonzero().flatten())
    assert len(evenly(chosen, 0)) == 0


def test_what_a_run_writes_is_foretold_and_refused_where_it_does_not_fit(
    few: Emergence, many: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes.of(_subject(), MANY)
    assert sizes.streamed and not Sizes.of(_subject(), FEW).streamed
    assert sizes.kept == len(many.kept_images) and sizes.shown >= len(many.emergence.sampled)
    expected = sizes.disk()
    for part, folder in (("features", "features"), ("rows of all images", "projected")):
        shards = [*(many.folder / folder).rglob("network*/*.safetensors")]
        size = sum(file.stat().st_size for file in shards)
        assert expected[part] <= size <= expected[part] + 800 * len(shards)  # heads
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"writes .* MiB, and .* has 0 MiB free; .*--keep-features"):
        run(_subject(), tmp_path, FEW)
    assert not (tmp_path / "features").exists()


def test_too_few_samples_for_the_categories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sample_images = 5 is too few .* \(--sample-images\)"):
        run(_subject(), tmp_path, replace(FEW, sample_images=5))
