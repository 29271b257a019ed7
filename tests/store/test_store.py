"""What is stored comes back bit for bit, or an error says what is wrong with it."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.store import StoreError, exists, load_arrays, save_arrays, write_file


def _arrays() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layers/layer4.0": torch.randn(3, 4, generator=generator),
        "transposed": torch.randn(5, 2, generator=generator, dtype=torch.float64).T,
        "y": torch.arange(7),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(4, generator=generator).bfloat16(),
        "mask": torch.tensor([True, False]),
        "special": torch.tensor([math.nan, math.inf, -0.0]),
    }


def test_arrays_and_settings_come_back_bit_for_bit(tmp_path: Path) -> None:
    given_settings = {
        "base": math.inf,
        "grid": (7, 7),
        "name": "</é>",
        "nested": {"a": [None, True, 0.1]},
    }
    path = tmp_path / "deep" / "layer4.0"
    save_arrays(path, _arrays(), given_settings, kind="test")
    arrays, back = load_arrays(path, kind="test")
    assert back == {**given_settings, "grid": [7, 7]}
    assert arrays.keys() == _arrays().keys()
    for name, array in _arrays().items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        assert torch.equal(
            arrays[name].reshape(-1).view(torch.uint8),
            array.contiguous().reshape(-1).view(torch.uint8),
        )


def test_manifest_is_strict_json(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {}, {"base": math.inf, "none": math.nan}, kind="test")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert math.isnan(load_arrays(tmp_path / "a")[1]["none"])


def test_tensors_that_share_memory_are_stored(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_arrays(tmp_path / "a", {"whole": base, "part": base[2:]}, {}, kind="test")
    assert torch.equal(load_arrays(tmp_path / "a")[0]["part"], base[2:])


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.arange(4.0)}, {"alpha": 0.125}, kind="test")
    expected = load_arrays(tmp_path / "a")
    for file in (tmp_path / "a.safetensors", tmp_path / "a.json"):
        good = file.read_bytes()
        for position in range(len(good)):
            file.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            try:
                arrays, settings_ = load_arrays(tmp_path / "a")
            except StoreError:
                continue
            # Only white space can change without changing what is said.
            assert torch.equal(arrays["x"], expected[0]["x"]) and settings_ == expected[1]
        file.write_bytes(good)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_truncated_or_absent_file_is_a_store_error(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    save_arrays(tmp_path / "a", {"x": torch.arange(4.0)}, {}, kind="test")
    good = file.read_bytes()
    for length in (0, 1, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(StoreError):
            load_arrays(tmp_path / "a")
    file.unlink()
    with pytest.raises(StoreError, match=r"a\."):
        load_arrays(tmp_path / "a")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format_version", "kind", "arrays", "settings", "sha256", "x"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_manifest_can_do_worse_than_a_store_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError):
        load_arrays(tmp_path / "a")


def test_a_deeply_nested_manifest_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(StoreError):
        load_arrays(tmp_path / "a")


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format_version": 99}')
    with pytest.raises(StoreError, match="format version 99"):
        load_arrays(tmp_path / "a")


def test_killed_while_overwriting_leaves_no_result_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".json":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_arrays(tmp_path / "a", {"x": torch.ones(2)}, {}, kind="test")
    assert not exists(tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a.txt", b"old")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [object(), {1: 2}, {"float": 1}, torch.ones(1)])
def test_a_setting_that_json_cannot_hold_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"settings\['bad'\]"):
        save_arrays(tmp_path / "a", {}, {"bad": value}, kind="test")
    assert list(tmp_path.iterdir()) == []
