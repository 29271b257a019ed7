"""Checkpoints are in the order of their epochs, whatever else their names say, or are refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from emergence_ext.network.checkpoints import load_checkpoints
from emergence_ext.network.epochs import read_epochs

EPOCHS = {
    "a score behind the epoch": (
        ["net_1_0.52.pth", "net_2_0.61.pth", "net_10_0.58.pth"],
        [1, 2, 10],
    ),
    "Keras": (["weights.01-0.52.pt", "weights.02-0.41.pt"], [1, 2]),
    "a score that is once a whole number": (
        ["net_1_0.5.pt", "net_2_1.pt", "net_10_1.0.pt"],
        [1, 2, 10],
    ),
    "a score with its word": (
        ["m_ep01_acc91.30.pt", "m_ep02_acc90.10.pt", "m_ep30_acc93.05.pt"],
        [1, 2, 30],
    ),
    "whole scores with their word": (
        ["m_1_acc_91.pt", "m_2_acc_90.pt", "m_10_acc_93.pt"],
        [1, 2, 10],
    ),
    "a score before the epoch": (["acc91_e1.pt", "acc90_e2.pt", "acc95_e10.pt"], [1, 2, 10]),
    "an architecture and top5": (["vgg16_e05_top5_90.1.pth", "vgg16_e10_top5_90.0.pth"], [5, 10]),
    "an architecture behind": (["e1_resnet18.pth", "e2_resnet18.pth"], [1, 2]),
    "a constant number": (["ft_7_1.pt", "ft_7_2.pt", "ft_7_10.pt"], [1, 2, 10]),
    "before training": (["epoch_-1.pt", "epoch_0.pt", "epoch_2.pt"], [-1, 0, 2]),
    "a minus behind an equals sign": (["epoch=-1.pt", "epoch=-2.pt"], [-1, -2]),
    "a mark that is no minus": (["epoch-1.pt", "epoch-2.pt"], [1, 2]),
    "a minus and nothing else": (["net_-1.pt", "net_3.pt"], [-1, 3]),
    "zeros in front": (["ckpt_0009.pt", "ckpt_0010.pt", "ckpt_0100.pt"], [9, 10, 100]),
    "no zeros in front": (["ckpt9.pt", "ckpt10.pt", "ckpt100.pt"], [9, 10, 100]),
    "Lightning": (
        ["epoch=0-step=500.ckpt", "epoch=9-step=5000.ckpt", "epoch=10-step=5500.ckpt"],
        [0, 9, 10],
    ),
    "Lightning with a score": (
        ["m-epoch=02-val_loss=0.32.ckpt", "m-epoch=10-val_loss=1.05.ckpt"],
        [2, 10],
    ),
    "timm": (["checkpoint-9.pth.tar", "checkpoint-10.pth.tar"], [9, 10]),
    "the word behind": (["3_epochs_0.5.pt", "12_epochs_0.4.pt"], [3, 12]),
    "the word glued behind": (["net_3ep_70.pt", "net_12ep_60.pt"], [3, 12]),
    "the word belongs to the next number": (["2_epoch_1.pt", "2_epoch_10.pt"], [1, 10]),
    "the word belongs to the next of two": (["2_epoch_1.pt", "3_epoch_10.pt"], [1, 10]),
    "learning rates": (["lr1e-3_epoch1.pt", "lr5e-4_epoch2.pt"], [1, 2]),
    "a comma in the fraction": (["net_1_0,52.pt", "net_2_0,41.pt"], [1, 2]),
    "dates and times": (["2024-01-15_12-30-00_1.pt", "2024-01-16_09-00-00_2.pt"], [1, 2]),
    "dates and times without marks": (["20240115_123000_1.pt", "20240115_133000_2.pt"], [1, 2]),
    "hashes": (["net_1-f37072fd.pth", "net_2-12abc345.pth", "net_10-9a8b7c6d.pth"], [1, 2, 10]),
    "a number as the suffix": (["net.pt.1", "net.pt.2", "net.pt.10"], [1, 2, 10]),
    "words of one's own": (["myEpoch1_9.pt", "myEpoch2_8.pt"], [1, 2]),
    "an unknown word": (["foo1.pt", "foo2.pt", "foo10.pt"], [1, 2, 10]),
    "an unknown word and a constant": (["foo1_3.pt", "foo2_3.pt"], [1, 2]),
    "repeated scores behind": (["net_1_52.pt", "net_2_52.pt", "net_10_61.pt"], [1, 2, 10]),
    "one file with a score": (["net_3_0.61.pt"], [3]),
    "one file of an architecture": (["resnet18_7.pt"], [7]),
    "names that are not alike": (
        ["epoch_12.pt", "Epoch-2.pt", "resnet50_epoch100.pt"],
        [12, 2, 100],
    ),
    "words behind both numbers": (["9_epoch_50_iter.pt", "10_epoch_60_iter.pt"], [9, 10]),
    "YOLO": (["epoch0.pt", "epoch10.pt", "epoch9.pt"], [0, 10, 9]),
    "thousands beside single ones": (
        ["net_500.pt", "net_1k.pt", "net_2K.pt", "net_1m.pt"],
        [500, 1000, 2000, 1_000_000],
    ),
}
STEPS = {
    "steps": (["step_500.pt", "step_1000.pt"], [500, 1000]),
    "iterations": (["iter_8000.pth", "iter_16000.pth"], [8000, 16000]),
    "global steps": (["global_step500.pt", "global_step1000.pt"], [500, 1000]),
    "steps within an epoch": (
        ["epoch=0-step=500.ckpt", "epoch=0-step=900.ckpt", "epoch=1-step=1300.ckpt"],
        [500, 900, 1300],
    ),
    "steps of a stated number of epochs": (
        ["epochs100_step_5.pt", "epochs100_step_10.pt"],
        [5, 10],
    ),
    "the word behind": (["10_iters.pt", "200_iters.pt"], [10, 200]),
}
REFUSED = {
    "two numbers that count up": (
        ["net_1_52.pt", "net_2_61.pt", "net_10_58.pt"],
        "could be 1 or 52",
    ),
    "a repeated number in front": (
        ["net_1_90.pt", "net_2_91.pt", "net_2_93.pt"],
        "could be 1 or 90",
    ),
    "one file with two numbers": (["net_3_7.pt"], "could be 3 or 7"),
    "fairseq: neither number is named": (
        ["checkpoint_1_500.pt", "checkpoint_2_900.pt"],
        "could be 1 or 500",
    ),
    "one file, an unknown word": (["foo18_7.pt"], "could be 18 or 7"),
    "two unknown words": (["foo1bar1.pt", "foo2_bar2.pt"], "no epoch in the name foo1bar1"),
    "two glued numbers": (["foo1_bar1.pt", "foo2_bar2.pt"], "could be 1 or 1"),
    "two epochs": (["epoch_1_ep_2.pt", "epoch_3_ep_4.pt"], "could be 1 or 2"),
    "two epochs in one name": (["epoch_3_of_epochs_100.pt"], "could be 3 or 100"),
    "architectures": (["resnet18.pt", "resnet34.pt"], "no epoch in the name resnet18"),
    "scores": (["acc_91.pt", "acc_93.pt"], "no epoch"),
    "fractions": (["net_0.52.pt", "net_0.61.pt"], "no epoch"),
    "a fraction of an epoch": (["epoch_0.5.pt", "epoch_1.5.pt"], "no epoch"),
    "seeds": (["seed1.pt", "seed2.pt"], "no epoch"),
    "parts of one file": (["model-00001-of-00002.pt", "model-00002-of-00002.pt"], "no epoch"),
    "no number": (["best.pt", "epoch_3.pt"], r"no epoch in the name best\.pt"),
    "one file in folders that are no epochs": (
        ["mine/epoch_1.pt", "yours/epoch_1.pt"],
        "files of one name, epoch_1.pt, in folders without an epoch in their names, as mine",
    ),
    "one epoch twice": (["epoch_1.pt", "epoch_01.pt"], "both of epoch 1"),
    "one epoch, several seeds": (["epoch_5_seed_1.pt", "epoch_5_seed_2.pt"], "both of epoch 5"),
    "copies of an epoch": (["epoch_10_1.pt", "epoch_10_2.pt"], "both of epoch 10"),
    "epochs beside steps": (["epoch_1.pt", "step_2.pt"], "epoch 1 .* step 2, which have no common"),
}


def _touch(folder: Path, names: Sequence[str]) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_the_number_that_counts_is_read(tmp_path: Path, unit: str) -> None:
    for case, (names, numbers) in (EPOCHS if unit == "epoch" else STEPS).items():
        for order in (
            slice(None),
            slice(None, None, -1),
        ):  # of what is given, nothing depends on it
            read = read_epochs([tmp_path / name for name in names[order]])
            assert [(x.number, x.unit) for x in read] == [(n, unit) for n in numbers[order]], case
        folder = tmp_path / case
        found = load_checkpoints(_touch(folder, names))
        by_number = sorted(zip(numbers, names, strict=True))
        assert found == [(f"{unit} {n}", n, folder / name) for n, name in by_number], case


@pytest.mark.parametrize("case", list(REFUSED))
def test_names_that_could_be_read_in_two_ways_are_refused(tmp_path: Path, case: str) -> None:
    names, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refused:
        load_checkpoints(_touch(tmp_path, names))
    assert "checkpoints.json" in str(refused.value) and "\n" not in str(refused.value)


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    paths = _touch(tmp_path, ["net_1_52.pt", "net_2_61.pt"])
    with pytest.raises(ValueError, match=r'name it as epoch_12\.pt.*"file": "net_1_52\.pt"'):
        load_checkpoints(paths)
    said = ", ".join(
        f'{{"file": "{path.name}", "epoch": {n}}}' for path, n in zip(paths, (4, 3), strict=True)
    )
    (tmp_path / "checkpoints.json").write_text(f'{{"checkpoints": [{said}]}}')
    assert [(c.label, c.path.name) for c in load_checkpoints(paths)] == [
        ("epoch 3", "net_2_61.pt"),
        ("epoch 4", "net_1_52.pt"),
    ]


def test_it_is_logged_how_each_name_was_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "emergence_ext")
    _touch(tmp_path, ["a_2_0.61.pt", "a_10_0.5.pt", "best.pt"])
    index = '{"checkpoints": [{"file": "best.pt", "epoch": 40}, {"file": "x"}, 3]}'
    (tmp_path / "checkpoints.json").write_text(index)
    load_checkpoints(str(tmp_path / "*.pt"))
    assert [
        record.getMessage().removeprefix(f"checkpoint {tmp_path}/") for record in caplog.records
    ] == [
        "a_2_0.61.pt is read as epoch 2, the number at 'a'",
        "a_10_0.5.pt is read as epoch 10, the number at 'a'",
        "best.pt is read as epoch 40, as checkpoints.json says",
    ]


def test_files_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    names = [f"checkpoint-{step}/model.safetensors" for step in (500, 1000, 90)]
    _touch(tmp_path, names)
    found = load_checkpoints(str(tmp_path / "checkpoint-*" / "model.safetensors"))
    assert [checkpoint.epoch for checkpoint in found] == [90, 500, 1000]
    _touch(tmp_path, ["epoch_9/weights/last.pt", "epoch_10/weights/last.pt"])
    found = load_checkpoints(str(tmp_path / "*" / "weights" / "*.pt"))
    assert [checkpoint.epoch for checkpoint in found] == [9, 10]
    with pytest.raises(ValueError, match="a folder: name the files in it"):
        load_checkpoints(str(tmp_path / "checkpoint-*"))
    with pytest.raises(ValueError, match=r"no epoch in the name model\.safetensors"):
        load_checkpoints([tmp_path / names[0]])


@pytest.mark.parametrize("epoch", ["true", "3.0", '"3"', "null"])
def test_an_index_says_whole_numbers(tmp_path: Path, epoch: str) -> None:
    paths = _touch(tmp_path, ["epoch_3.pt"])
    (tmp_path / "checkpoints.json").write_text(
        f'{{"checkpoints": [{{"file": "epoch_3.pt", "epoch": {epoch}}}]}}'
    )
    with pytest.raises(ValueError, match=r"expected one whole number as the epoch of epoch_3\.pt"):
        load_checkpoints(paths)


def test_an_index_says_one_epoch_of_a_file(tmp_path: Path) -> None:
    entry = '{"file": "epoch_3.pt", "epoch": %d}'
    (tmp_path / "checkpoints.json").write_text(f'{{"checkpoints": [{entry % 3}, {entry % 4}]}}')
    with pytest.raises(ValueError, match=r"expected one whole number .* got 3, 4"):
        load_checkpoints(_touch(tmp_path, ["epoch_3.pt"]))


def test_where_a_number_stands_is_said_by_its_word() -> None:
    for name, word in {
        "net_7.pt": "the number at 'net'",
        "3ep.pt": "the number at 'ep'",
        "epoch=3-step=5.pt": "the number at 'epoch'",
        "resnet18_7.pt": "the number that counts up",
    }.items():
        assert read_epochs([Path(name)])[0].source == word
