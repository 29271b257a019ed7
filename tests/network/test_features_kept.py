"""Features are kept while they are made: who is killed goes on with the next shard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.data.samples import ArraySamples
from emergence_ext.network.features import FeatureSet, extract, feature_stream
from emergence_ext.store import StoreError, content_digest, made_from
from tests.trust.disk import Trouble, trouble

MADE_FROM = {"weights": "w", "images": "i"}
BATCH, COUNT = 4, 22


class Net(nn.Module):
    """A convolution and a head, which drops out in eval mode where that is asked for."""

    def __init__(self, draws: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 5, 3, 2), nn.ReLU(), nn.Linear(5, 2)
        self.draws, self.seen = draws, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        x = self.relu(self.conv(x))
        x = functional.dropout(x, training=True) if self.draws else x
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture
def images() -> ArraySamples:
    pixels = torch.rand(COUNT, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    names = [f"{n}.png" for n in range(COUNT)]
    return ArraySamples(pixels, [n % 2 for n in range(COUNT)], ["a", "b"], names)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one batch each."""
    monkeypatch.setattr("emergence_ext.store.filling.SHARD_BYTES", 1)


def _net(draws: bool = False) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net(draws)


def _extract(net: Net, images: ArraySamples, keep: Path | None, **origins: str) -> FeatureSet:
    given = {**MADE_FROM, **origins} if keep else None
    return extract(
        net, images, {"c": "conv"}, batch_size=BATCH, random_state=3, keep=keep, made_from=given
    )


def _files(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _assert_equal(a: FeatureSet, b: FeatureSet) -> None:
    assert (a.names, a.categories, tuple(a.grid)) == (b.names, b.categories, tuple(b.grid))
    for name in ("f", "z", "y"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.layers.keys() == b.layers.keys()
    assert all(torch.equal(a.layers[name], b.layers[name]) for name in a.layers)


def test_what_is_kept_is_what_is_made_without_keeping(images: ArraySamples, tmp_path: Path) -> None:
    whole = _extract(_net(), images, None)
    kept = _extract(_net(), images, tmp_path / "a")
    _assert_equal(kept, whole)
    _assert_equal(FeatureSet.load(tmp_path / "a"), whole)
    whole.save(tmp_path / "b", MADE_FROM)
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b") == kept.digest()
    assert made_from(tmp_path / "a") == MADE_FROM
    assert len(list((tmp_path / "a").glob("shard-*.json"))) == 6


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ["interrupt", "no space"])
def test_interrupted_at_a_change_of_the_disk_it_goes_on_to_the_same_bytes(
    kind: Trouble, images: ArraySamples, tmp_path: Path
) -> None:
    with trouble(-1, kind) as changes:
        _extract(_net(), images, tmp_path / "whole" / "x")
    whole = _files(tmp_path / "whole")
    for at in range(0, changes.count, 6):
        net, keep = _net(), tmp_path / str(at) / "x"
        with trouble(at, kind):
            try:
                _extract(net, images, keep)
            except KeyboardInterrupt:
                assert kind == "interrupt"
            except OSError:
                assert kind == "no space"
        assert not any(x._forward_hooks or x._forward_pre_hooks for x in net.modules())
        _extract(net, images, keep)
        assert _files(keep.parent) == whole, f"at change {at}"


def test_what_was_kept_is_not_computed_again(images: ArraySamples, tmp_path: Path) -> None:
    first, again, probing = _net(), _net(), _net()
    with pytest.raises(ZeroDivisionError), pytest.MonkeyPatch.context() as patch:
        real, batches = torch.tensor, []

        def fail_at_the_fourth(*args: object, **options: object) -> Tensor:
            batches.append(args)
            if len(batches) == 4:
                raise ZeroDivisionError
            return real(*args, **options)

        patch.setattr("emergence_ext.network.features.torch.tensor", fail_at_the_fourth)
        _extract(first, images, tmp_path / "a")
    assert len(list((tmp_path / "a").glob("shard-*.json"))) == 3
    _extract(again, images, tmp_path / "a")
    _extract(probing, images, tmp_path / "a")  # all is there
    assert again.seen - probing.seen == COUNT - 3 * BATCH
    _assert_equal(FeatureSet.load(tmp_path / "a"), _extract(_net(), images, None))


def test_a_network_that_draws_numbers_draws_those_of_one_go(
    images: ArraySamples, tmp_path: Path
) -> None:
    whole = _extract(_net(draws=True), images, None)
    with pytest.raises(OSError, match="No space left"), trouble(40, "no space"):
        _extract(_net(draws=True), images, tmp_path / "a")
    assert len(list((tmp_path / "a").glob("shard-*.json"))) >= 1
    _assert_equal(_extract(_net(draws=True), images, tmp_path / "a"), whole)


@pytest.mark.parametrize("draws", [False, True])
def test_a_shard_is_made_alone(draws: bool, images: ArraySamples, tmp_path: Path) -> None:
    whole = _extract(_net(draws), images, tmp_path / "a")
    files = _files(tmp_path)
    for number in (1, 4):
        (tmp_path / "a" / f"shard-0000{number}.json").unlink()
    again, probing = _net(draws), _net(draws)
    _assert_equal(_extract(again, images, tmp_path / "a"), whole)
    assert _files(tmp_path) == files
    _extract(probing, images, tmp_path / "a")  # all is there
    assert again.seen - probing.seen == 2 * BATCH
    with feature_stream(
        _net(draws), images, {"c": "conv"}, batch_size=BATCH, random_state=3
    ) as stream:
        assert stream.row_bytes == sum(x[0].nbytes for x in (*whole.layers.values(), whole.f)) + 16
        for batch, arrays in stream.batches([range(8, 16), range(20, 22)]):
            assert torch.equal(arrays["z"], whole.z[batch])
            assert torch.equal(arrays["layers/c"], whole.layers["c"][batch])


def test_what_is_of_other_things_is_made_anew_and_never_mixed(
    images: ArraySamples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(OSError, match="No space left"), trouble(40, "no space"):
        _extract(_net(draws=True), images, tmp_path / "a")
    kept = _extract(_net(), images, tmp_path / "a", weights="others")
    assert "is made anew: it was of other weights" in caplog.text
    _assert_equal(kept, _extract(_net(), images, None))
    assert made_from(tmp_path / "a") == {**MADE_FROM, "weights": "others"}


@pytest.mark.parametrize("shards", [True, False])
def test_some_layers_and_samples_are_read_alone(
    shards: bool, images: ArraySamples, tmp_path: Path
) -> None:
    layers = {"c": "conv", "r": "relu"}
    whole = extract(_net(), images, layers, batch_size=BATCH)
    if shards:
        extract(_net(), images, layers, batch_size=BATCH, keep=tmp_path / "a")
    else:
        whole.save(tmp_path / "a")
    rows = [21, 3, 3, 10]
    part = FeatureSet.load_part(tmp_path / "a", ["r"], rows)
    _assert_equal(part, whole.select(["r"]).subset(rows))
    _assert_equal(FeatureSet.load_part(tmp_path / "a", ["c"]), whole.select(["c"]))
    with pytest.raises(ValueError, match=r"no \['layers/d'\]"):
        FeatureSet.load_part(tmp_path / "a", ["d"])


def test_a_damaged_layer_is_told_where_it_is_read(images: ArraySamples, tmp_path: Path) -> None:
    _extract(_net(), images, tmp_path / "a")
    file = tmp_path / "a" / "shard-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1  # of the last array
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"shard-00001.* is not the one that was written"):
        FeatureSet.load(tmp_path / "a")
