"""A document with a digest of itself: what is read is what was written, or an error of one line."""

import hashlib
import json
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.store import (
    Saved,
    StoreError,
    content_digest,
    exists,
    load_arrays,
    made_from,
    once,
    read_document,
    require_made_from,
    save_arrays,
    write_document,
)
from emergence_ext.store.arrays import digest_of


@dataclass(frozen=True, eq=False)
class _Kept(Saved):
    x: Tensor
    name: str


HOSTILE = [
    "", "[]", "7", "null", '"text"', "NaN", "{", "[" * 100_000, "1" * 5000, '{"a": NaN}',
    '{"format_version": 1}', '{"format_version": [1]}', "\ud800", '{"sha256": 3}',
]  # fmt: skip


def _signed(content: Any) -> str:
    """A document whose digest is right, as an enemy writes it."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()})


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_document_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StoreError, match=r"a\.json") as failure:
        read_document(path, 1, "Do it again.")
    assert "\n" not in str(failure.value) and str(failure.value).endswith("Do it again.")
    with pytest.raises(StoreError, match=r"a\.json"):
        load_arrays(tmp_path / "a")


@pytest.mark.parametrize("version", [0, -3, 99, True, 1.0, 2, "1", None, [1], 10**40])
def test_other_versions_are_refused(version: Any, tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
    path = tmp_path / "a.json"
    content = json.loads(path.read_text()) | {"format_version": version}
    del content["sha256"]
    path.write_text(_signed(content))
    with pytest.raises(StoreError, match="format version"):
        load_arrays(tmp_path / "a")
    with pytest.raises(StoreError, match="format version"):
        read_document(path, 1, "Do it again.", undigested=True)


@pytest.mark.parametrize(
    "entries",
    [
        {"kind": None}, {"kind": 3}, {"settings": []}, {"settings": {"a": {"float": [1]}}},
        {"settings": {"a": {"float": "much"}}}, {"arrays": []}, {"arrays": {"x": 3}},
        {"arrays": {}}, {"made_from": []}, {"made_from": {"weights": 3}},
    ],
)  # fmt: skip
def test_manifests_of_another_kind_are_refused(entries: dict[str, Any], tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {"a": 1.0}, kind="test")
    path = tmp_path / "a.json"
    content = {**json.loads(path.read_text()), **entries}
    del content["sha256"]
    path.write_text(_signed({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(StoreError, match=r"a\.(json|safetensors)"):
        load_arrays(tmp_path / "a")


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a", {"x": torch.zeros(2)}, {}, kind="test")
    array = tmp_path / "a.safetensors"
    good = array.read_bytes()
    claims = [
        (1 << 62).to_bytes(8, "little") + good[8:],
        b"\xff" * 8 + good[8:],
        good.replace(b'"shape":[2]', b'"shape":[9]'),
        good.replace(b"[0,8]", b"[0,9]"),
        good[:10],
        b"",
    ]
    for claim in claims:
        array.write_bytes(claim)
        tracemalloc.start()
        with pytest.raises(StoreError, match=r"a\.safetensors"):
            load_arrays(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_every_flipped_bit_of_a_document_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_document(path, {"format_version": 2, "alpha": 1e-05, "names": ["é", "\udcff"]})
    good, expected = path.read_bytes(), read_document(path, 2, "")
    assert expected["names"] == ["é", "\udcff"]
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(StoreError):
            read_document(path, 2, "")
        try:
            assert read_document(path, 2, "", undigested=True) == expected, bit
        except StoreError:
            continue


def test_what_was_kept_is_taken_only_where_it_was_made_from_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[str] = []

    def keep(name: str, **origins: str) -> _Kept:
        def make() -> _Kept:
            made.append(name)
            return _Kept(torch.ones(2), name)

        return once(tmp_path / "kept", _Kept, make, origins or None)

    assert keep("first", weights="a", images="b").name == "first"
    assert keep("second", weights="a", images="b").name == "first"
    assert keep("third", weights="a").name == "first"
    assert keep("fourth", weights="a", images="c").name == "fourth"
    assert "kept is made anew: it was of other images" in caplog.text
    assert made == ["first", "fourth"] and made_from(tmp_path / "kept") == {
        "weights": "a",
        "images": "c",
    }
    with pytest.raises(StoreError, match="was made from other weights than are there now"):
        require_made_from(tmp_path / "kept", {"weights": "z", "images": "c"})
    # Of an earlier version, which noted nothing.
    _Kept(torch.ones(2), "old").save(tmp_path / "kept")
    assert made_from(tmp_path / "kept") is None
    assert keep("fifth", weights="other").name == "old"
    require_made_from(tmp_path / "kept", {"weights": "z"})


def test_the_content_is_what_it_is_whatever_it_was_made_from_and_how_long_it_took(
    tmp_path: Path,
) -> None:
    arrays, settings = {"x": torch.arange(3.0)}, {"stats": {"seconds": 3.5, "loss": 1.0}}
    save_arrays(tmp_path / "a", arrays, settings, kind="test", made_from={"weights": "a"})
    save_arrays(tmp_path / "b", arrays, {"stats": {"seconds": 9.0, "loss": 1.0}}, kind="test")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    assert content_digest(tmp_path / "a") == digest_of(arrays, settings, kind="test")
    others = [
        ({"x": torch.arange(3.0).flip(0)}, settings, "test"),
        (arrays, {"stats": {"seconds": 3.5, "loss": 2.0}}, "test"),
        (arrays, settings, "another"),
    ]
    for x, y, kind in others:
        save_arrays(tmp_path / "c", x, y, kind=kind)
        assert content_digest(tmp_path / "c") != content_digest(tmp_path / "a")
    assert exists(tmp_path / "a")


def test_an_object_has_the_digest_that_it_is_saved_with(tmp_path: Path) -> None:
    kept = _Kept(torch.ones(2), "name")
    kept.save(tmp_path / "kept")
    assert kept.digest() == content_digest(tmp_path / "kept") == _Kept.load(
        tmp_path / "kept"
    ).digest()  # fmt: skip
