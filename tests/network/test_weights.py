"""The right weights load under any name; what is not a network's own is refused by name."""

from __future__ import annotations

import argparse
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from emergence_ext.network import check_fits, load_weights, output_rows
from emergence_ext.network.weight_files import read_weights


class _Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.bn(self.c1(images)).mean((2, 3)))


def _net(seed: int, classes: int = 3) -> _Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Net(classes)


State = dict[str, Tensor]
SAVED = _net(1).state_dict()


def _under(prefix: str, state: Mapping[str, Tensor] = SAVED) -> State:
    return {prefix + name: value for name, value in state.items()}


def _doubled(state: Mapping[str, Tensor] = SAVED) -> State:
    return {name: value * 2 for name, value in state.items()}


class _Config:
    def __init__(self) -> None:
        self.path = PurePosixPath("x")


def _optimizer() -> dict[str, Any]:
    net = _net(1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


FITTING: dict[str, Callable[[], Any]] = {
    "compiled": lambda: _under("_orig_mod."),
    "compiled in DDP": lambda: _under("module._orig_mod."),
    "DDP compiled": lambda: _under("_orig_mod.module."),
    "backbone": lambda: _under("model.backbone."),
    "Lightning": lambda: {"state_dict": _under("model."), "epoch": 3, "version": "2.4"},
    "Lightning with a metric and a loss": lambda: {
        "state_dict": {
            **_under("net."),
            "acc.total": torch.zeros(()),
            "loss.weight": torch.ones(3),
        },
        "optimizer_states": [_optimizer()],
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "callbacks": {"best": {PurePosixPath("x"): torch.tensor(0.3)}},
    },
    "AveragedModel": lambda: {**_under("module."), "n_averaged": torch.tensor(5)},
    "net and an accuracy": lambda: {"net": SAVED, "acc": 91.2, "epoch": 5},
    "mappings in mappings": lambda: {"checkpoint": {"model": {"weights": _under("module.")}}},
    "an unknown key": lambda: {"my_net": SAVED},
    "an average alone": lambda: {"state_dict_ema": SAVED},
    "the same twice": lambda: {"model": SAVED, "model_ema": SAVED},
    "an epoch among the weights": lambda: {**SAVED, "epoch": 5},
    "an optimizer": lambda: {"model": SAVED, "optimizer": _optimizer()},
    "an optimizer with the names of the weights": lambda: {
        "model": SAVED,
        "optimizer": {"momentum": _doubled()},
    },
    "another network beside": lambda: {
        "generator": SAVED,
        "discriminator": _net(2, 5).state_dict(),
    },
    "numbers of NumPy": lambda: {
        "state_dict": SAVED,
        "best": np.float64(0.9),
        "losses": np.ones(3),
        3: np.int64(3),
    },
    "an object": lambda: {"state_dict": SAVED, "config": _Config()},
    "counted by thop": lambda: {
        **SAVED,
        "total_ops": torch.zeros(1),
        "c1.total_ops": torch.zeros(1),
    },
    "without counters": lambda: {k: v for k, v in SAVED.items() if "tracked" not in k},
    "counters of another shape and kind": lambda: {
        **SAVED,
        "bn.num_batches_tracked": torch.ones(1),
    },
    "parallel inside": lambda: {k.replace("c1.", "c1.module."): v for k, v in SAVED.items()},
    "compiled inside": lambda: {k.replace("c1.", "c1._orig_mod."): v for k, v in SAVED.items()},
    "sparse": lambda: {k: v.to_sparse() if v.ndim == 2 else v for k, v in SAVED.items()},
    "sparse by rows": lambda: {
        k: v.to_sparse_csr() if v.ndim == 2 else v for k, v in SAVED.items()
    },
    "parameters": lambda: dict(_net(1).named_parameters()) | dict(_net(1).named_buffers()),
}


def _assert_loaded(net: nn.Module, state: Mapping[str, Tensor] = SAVED) -> None:
    for name, value in net.state_dict().items():
        if "tracked" not in name:
            assert torch.equal(value, state[name]), name


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("case", list(FITTING))
def test_the_right_weights_load_under_any_name(tmp_path: Path, case: str) -> None:
    torch.save(FITTING[case](), tmp_path / "w.pt")
    net = _net(0)
    check_fits(net, tmp_path / "w.pt")
    assert not torch.equal(net.fc.weight, SAVED["fc.weight"])
    assert load_weights(net, tmp_path / "w.pt") == []
    _assert_loaded(net)


def test_files_of_the_old_format_load_too(tmp_path: Path) -> None:
    content = {"state_dict": _under("module."), "best": np.float64(0.5)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    net = _net(0)
    load_weights(net, tmp_path / "w.pt")
    _assert_loaded(net)


def test_the_network_may_be_inside_a_module_that_the_file_knows_nothing_of(tmp_path: Path) -> None:
    torch.save({"state_dict": SAVED}, tmp_path / "w.pt")
    outer = nn.ModuleDict({"model": nn.ModuleDict({"net": _net(0)})})
    assert load_weights(outer, tmp_path / "w.pt") == []
    _assert_loaded(outer["model"]["net"])
    torch.save({**SAVED, "other.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="another network"):
        load_weights(outer, tmp_path / "w.pt")


def test_of_a_network_and_its_average_the_network_is_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for average in ("model_ema", "ema_model", "swa", "averaged_net", "modelEMA"):
        for content in (
            {average: _doubled(), "model": SAVED},
            {"state_dict": {**_under(f"{average}.", _doubled()), **_under("model.")}},
            {**SAVED, **_under(f"{average}.", _doubled())},
        ):
            caplog.clear()
            torch.save(content, tmp_path / "w.pt")
            net = _net(0)
            load_weights(net, tmp_path / "w.pt")
            _assert_loaded(net)
            assert average in caplog.text and "also holds others that fit" in caplog.text


def test_what_is_left_out_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "emergence_ext")
    torch.save({**_under("model."), "acc.total": torch.zeros(())}, tmp_path / "w.pt")
    load_weights(_net(0), tmp_path / "w.pt")
    assert "1 tensors beside the network" in caplog.text and "acc.total" in caplog.text


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "two networks that fit": (
        lambda: {"student": SAVED, "teacher": _doubled()},
        "2 sets of weights that fit this network and differ, under student/, teacher/",
    ),
    "two averages": (lambda: {"ema": SAVED, "swa": _doubled()}, "under ema/, swa/"),
    "a key of another network under the prefix": (
        lambda: _under("model.") | {"model.c2.weight": torch.ones(1)},
        r"under the prefix 'model\.' 1 unexpected \(model\.c2\.weight\)",
    ),
    "a missing key under a prefix": (
        lambda: {k: v for k, v in _under("model.").items() if k != "model.fc.bias"},
        r"under the prefix 'model\.' 1 missing \(fc\.bias\)",
    ),
    "an unknown key at the root": (
        lambda: {**SAVED, "extra": torch.ones(1)},
        "1 unexpected .extra",
    ),
    "integer keys": (lambda: dict(enumerate(SAVED.values())), "unexpected .<int 0>, <int 1>"),
    "bytes keys": (lambda: {k.encode(): v for k, v in SAVED.items()}, r"<bytes b'c1\.weight'>"),
    "tuple keys": (
        lambda: {**SAVED, ("x", 1): torch.ones(1)},
        r"1 unexpected \(<tuple \('x', 1\)>",
    ),
    "complex": (
        lambda: {**SAVED, "fc.weight": SAVED["fc.weight"] * 1j},
        "'fc.weight' .* is complex64, .* float32",
    ),
    "quantised": (
        lambda: {**SAVED, "fc.weight": SAVED["fc.weight"].to(torch.int8)},
        "'fc.weight' .* is int8",
    ),
    "quantised by torch": (
        lambda: {
            **SAVED,
            "fc.bias": torch.quantize_per_tensor(SAVED["fc.bias"], 0.1, 0, torch.qint8),
        },
        "'fc.bias' .* is qint8",
    ),
    "without values": (
        lambda: {**SAVED, "fc.bias": torch.ones(3, device="meta")},
        "'fc.bias' .* without",
    ),
    "nothing but numbers": (
        lambda: {"model": {"epoch": 3}},
        "holds no state_dict but a dict of 'model'",
    ),
    "a list": (lambda: [SAVED], "holds no state_dict but a list"),
    "a network": (lambda: _net(0), "holds no state_dict but a _Net"),
    "another network": (lambda: nn.Linear(2, 2).state_dict(), "8 missing .*2 unexpected"),
    "another network in a mapping": (
        lambda: {"model": nn.Linear(2, 2).state_dict()},
        "model/weight",
    ),
    "a head of other outputs": (
        lambda: _net(0, 5).state_dict(),
        r"fc.weight \[5, 4\], expected \[3, 4\]",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_the_networks_is_refused_by_name(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    torch.save(make(), tmp_path / "w.pt")
    net = _net(0)
    for call in (check_fits, load_weights):
        with pytest.raises(ValueError, match=message) as refused:
            call(net, tmp_path / "w.pt")
        assert "w.pt" in str(refused.value) and "\n" not in str(refused.value)
    _assert_loaded(net, _net(0).state_dict())


def test_values_that_the_networks_own_numbers_cannot_hold_are_refused(tmp_path: Path) -> None:
    torch.save({**SAVED, "fc.bias": torch.full((3,), 1e6)}, tmp_path / "w.pt")
    load_weights(_net(0), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"'fc.bias' .* too large for the network's float16"):
        load_weights(_net(0).half(), tmp_path / "w.pt")


def test_infinite_values_of_the_networks_own_mask_are_no_fault(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.tensor([0, -torch.inf]))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert load_weights(net, tmp_path / "w.pt") == []


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 3)
        self.outer.weight = self.inner.weight


def test_tied_weights_load_with_one_name_or_both(tmp_path: Path) -> None:
    net, whole = _Tied(), tmp_path / "w.pt"
    state = {name: value + 1 for name, value in net.state_dict().items()}
    torch.save(state, whole)
    assert load_weights(net, whole) == []
    save_model(net, str(tmp_path / "w.safetensors"))  # which drops one of the two names
    other = _Tied()
    assert load_weights(other, tmp_path / "w.safetensors") == []
    _assert_loaded(other, state)
    torch.save({**state, "outer.weight": state["outer.weight"] + 1}, whole)
    with pytest.raises(ValueError, match=r"inner\.weight and outer\.weight are one tensor"):
        load_weights(net, whole)


def test_a_head_of_another_number_of_outputs_is_left_for_training(tmp_path: Path) -> None:
    torch.save({"state_dict": _under("module.", _net(1, 5).state_dict())}, tmp_path / "w.pt")
    net = _net(0)
    assert output_rows(net, read_weights(tmp_path / "w.pt")) == 5
    assert load_weights(net, tmp_path / "w.pt", partial=True) == ["fc.weight", "fc.bias"]
    assert torch.equal(net.c1.weight, _net(1, 5).c1.weight)
    assert torch.equal(net.fc.weight, _net(0).fc.weight)


def test_several_heads_tell_one_number_of_outputs() -> None:
    def net(classes: int) -> nn.ModuleDict:
        heads = {f"head{i}": nn.Linear(4, classes) for i in range(3)}
        return nn.ModuleDict({"c": nn.Conv2d(3, 4, 1), **heads})

    assert output_rows(net(3), net(7).state_dict()) == 7
    wider = net(7)
    wider["c"] = nn.Conv2d(3, 5, 1)
    assert output_rows(net(3), wider.state_dict()) is None


def test_what_is_no_regular_file_is_told_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("pipe.pt", "pipe.safetensors"):
        with pytest.raises(ValueError, match="no regular file"):
            read_weights(tmp_path / name)
    with pytest.raises(ValueError, match="a folder: name the file in it"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cannot read .*absent"):
        read_weights(tmp_path / "absent.pt")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000, 1000)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert read_weights(tmp_path / "w.pt")["weight"].shape == (1000, 1000)
    with pytest.raises(ValueError, match="bytes are packed into"):
        read_weights(tmp_path / "bomb.pt")


class _Harm:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, ("open('harm-was-done', 'w')",)


@pytest.mark.parametrize("function", [eval, exec, os.mkdir, Path.touch])
def test_nothing_beside_weights_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": SAVED, "beside": _Harm(function)}, "w.pt")
    try:
        load_weights(_net(0), "w.pt")
    except ValueError as error:  # what torch lets nothing stand for
        assert "tensors alone" in str(error) and function not in (eval, exec)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    torch.save({"state_dict": {**SAVED, "fc.bias": _Harm(function)}}, "w.pt")
    with pytest.raises(ValueError, match=r"1 missing .fc.bias|tensors alone"):
        load_weights(_net(0), "w.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_part_of_a_network_is_found_under_its_prefix(tmp_path: Path) -> None:
    body = {k: v for k, v in SAVED.items() if not k.startswith("fc.")}
    for content in (
        body,
        {"model": body},
        _under("backbone.", body),
        {"net": _under("module.", body)},
    ):
        torch.save(content, tmp_path / "w.pt")
        net = _net(0)
        assert load_weights(net, tmp_path / "w.pt", partial=True) == ["fc.weight", "fc.bias"]
        assert torch.equal(net.c1.weight, SAVED["c1.weight"])
    # A single name that happens to be there as well is no sign of the same network.
    torch.save({"enc.fc.weight": SAVED["fc.weight"], "dec.w": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="another network"):
        load_weights(net, tmp_path / "w.pt", partial=True)
    save_file(SAVED, tmp_path / "w.SAFETENSORS")
    assert load_weights(net, tmp_path / "w.SAFETENSORS") == []


def test_a_text_is_no_weights_and_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "columns.pt"
    path.write_text(",".join(f"c{k}" for k in range(50_000)) + "\n")
    with pytest.raises(ValueError, match=r"it is no file of torch\.save"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pt", b"", "is empty. Copy or download"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.pth", b"\n<!DOCTYPE html>", "is a web page"),
        ("a.safetensors", b"<html>", "is a web page"),
        ("a.index.json", b'{"weight_map": {}}', "is JSON, as an index of several files"),
        ("a.pt", b"PK\x03\x04" + bytes(90), "is cut off before its end"),
        ("a.safetensors", b"\x80\x02}q\x00.", "of torch.save .* Rename it to .pt"),
        ("a.pt", b"\x08" + bytes(7) + b"{}      ", "of safetensors. Rename it to .safetensors"),
    ],
)
def test_a_file_of_another_kind_is_told_by_what_it_is(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^weights: .*{name} .*{words}") as refused:
        read_weights(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("begins", [b"\x80", b"<", b"{", b"PK", b"\n<"])
def test_a_safetensors_header_may_begin_with_any_byte(begins: bytes, tmp_path: Path) -> None:
    # It begins with its length, which padding brings to bytes that other kinds of files begin with.
    length = int.from_bytes(begins, "little")
    length += 256 ** len(begins) * (length < 100)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length).encode() + bytes(4))
    assert path.read_bytes().startswith(begins)
    assert torch.equal(read_weights(path)["w"], torch.zeros(1))
