"""The report names what a user has to know about a network before analysing it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from emergence_ext.network import doctor, receptive
from emergence_ext.network.builtin import small_vgg28
from emergence_ext.network.doctor import (
    environment,
    format_environment,
    format_report,
    inspect_model,
)
from emergence_ext.ops import Standing
from emergence_ext.ops import library as _library
from emergence_ext.ops.backend import why_not_fused
from emergence_ext.ops.verdicts import Verdict


class Awkward(nn.Module):
    """A shared ReLU, an in-place one, a functional one and a convolution followed by a ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.ReLU()
        self.stage2 = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        )
        self.stage3 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
        self.unused = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.shared(self.conv1(x))
        x = self.shared(self.stage2(x) - 0.1)
        x = functional.relu(self.stage3(x))
        return self.fc(x.mean(dim=(2, 3)).relu())


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Awkward()


@pytest.fixture
def example(generator):
    return torch.rand(2, 3, 16, 16, generator=generator)


def test_relus_are_told_apart(net, example):
    report = inspect_model(net, example)
    assert report.in_place == ["stage2.2"]
    assert report.shared == ["shared"]
    assert sorted(report.functional) == [("", "relu", 2)]


def test_a_module_without_functional_relus_has_none(example):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = inspect_model(net.append(nn.Linear(2, 2)), example)
    assert report.functional == [] and report.shared == [] and report.in_place == []


def test_layers_have_the_shapes_and_runs_of_a_forward_pass(net, example):
    layers = {layer.name: layer for layer in inspect_model(net, example).layers}
    assert layers["stage2"].shape == (2, 4, 8, 8) and layers["stage2"].runs == 1
    assert layers["shared"].runs == 2
    assert layers["unused"].runs == 0 and layers["unused"].shape is None
    assert layers["fc"].kind == "Linear"


def test_a_layer_before_its_relu_is_found_and_one_after_it_is_not(net, example):
    before = {layer.name for layer in inspect_model(net, example).layers if layer.relu_follows}
    # A container gives the tensor of its last part; that of `stage2` is changed before the ReLU.
    assert before == {"conv1", "stage2.1", "stage3", "stage3.1"}


def test_a_suggested_layer_before_its_relu_is_warned_about(net, example):
    report = inspect_model(net, example)
    assert "stage3" in report.suggested.values()
    assert any("'stage3'" in text and "ReLU follows" in text for text in report.warnings)


def test_suggested_layers_come_with_their_receptive_fields():
    report = inspect_model(small_vgg28().eval(), torch.rand(1, 1, 28, 28))
    assert report.fields.keys() == report.suggested.keys()
    last = list(report.fields.values())[-1]
    assert last.grid == (7, 7) and last.stride == (4, 4)
    assert report.head == "fc2" and report.head_gives_output and not report.training


def test_what_the_survey_found_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(receptive, "read_layouts", lambda *args: asked.append(args) or {})
    assert inspect_model(small_vgg28().eval(), torch.rand(1, 1, 28, 28)).fields and not asked


def test_a_shared_relu_is_no_warning_where_layers_are_blocks(net, example):
    report = inspect_model(net, example)
    assert report.shared and not any("shared" in text for text in report.warnings)
    assert "as a layer name the block around it" in format_report(report)


def test_precision_mode_and_head_are_reported(example):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)).train().bfloat16()
    report = inspect_model(net, example.bfloat16())
    assert report.dtypes == ["bfloat16"] and report.training and report.head is None
    assert report.parameters == 3 * 2 * 9 + 2 + 2 * 2 * 9 + 2
    text = " ".join(report.warnings)
    assert "bfloat16" in text and "training mode" in text and "no sample feature" in text


def test_the_module_comes_back_as_it_was(net, example):
    net.train()
    net.conv1.eval()
    modes = [part.training for part in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    inspect_model(net, example)
    with pytest.raises(ValueError, match="takes 3 channels"):
        inspect_model(net, example[:, :2])
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_text_says_all_of_it(net, example):
    report = inspect_model(net, example)
    text = format_report(report)
    for layer in report.layers:
        assert layer.name in text
    for expected in (
        "runs 2 times",
        "not run",
        "in place: stage2.2",
        "shared (run more than once): shared",
    ):
        assert expected in text
    for warning in report.warnings:
        assert f"warning: {warning}" in text


def test_the_environment_names_versions_backends_and_extras():
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["library"] == _library.build_info()
    text = format_environment(brief=True)
    assert found["package"] in text and "cpu ops:" in text and "cuda ops:" in text
    assert len(format_environment(brief=False)) > len(text)


def test_an_absent_extra_is_named_with_its_pip_command(monkeypatch):
    declared = [
        "torch>=2.11",
        'timm; extra == "models"',
        'no-such-package-at-all; extra == "models"',
        'emergence_ext[models]; extra == "all"',
        'pytest; extra == "dev"',
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _name: declared)
    extras = environment()["extras"]
    assert list(extras) == ["models"] and extras["models"]["no-such-package-at-all"] is None
    text = format_environment()
    assert "no no-such-package-at-all (pip install 'emergence_ext[models]')" in text


def test_a_missing_backend_is_named_with_its_reason(monkeypatch):
    facts = {"why_not": {"cpu": "no compiler was found", "cuda": None}}
    monkeypatch.setattr(_library, "build_info", lambda: facts)
    monkeypatch.setattr(_library, "why_not", facts["why_not"].get)
    text = format_environment(brief=True)
    assert "cpu ops: not there: no compiler was found" in text and "cuda ops: compiled" in text
    assert "backend auto on cpu: reference (plain torch)\n" in text
    assert text.count("no compiler was found") == 1


@pytest.mark.parametrize("brief", [False, True])
def test_what_the_fits_use_and_the_instruction_sets_are_named(brief: bool, library: None) -> None:
    text = format_environment(brief=brief)
    info = _library.build_info()
    sets = ", ".join(info["instruction_sets"])
    assert text.count(f"instruction set {info['instruction_set']} (here: {sets})") == 1
    assert "backend auto on cpu: fused\n" in text
    reason = why_not_fused("cuda", may_prove=False)
    taken = "fused" if reason is None else f"reference (plain torch): {reason}"
    assert f"backend auto on cuda: {taken}\n" in text


def test_every_way_to_match_on_a_gpu_is_named_with_what_its_proof_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        Standing("narrow", None, Verdict("", "2026-11-30", 1.5, 20.25)),
        Standing("wide", None, Verdict("problem 'N3' is wrong", "2026-11-29")),
        Standing("planes", None, None),
        Standing("hopper", "hopper needs 9.0", None),
    ]
    asked = []

    def standings(*, prove: bool) -> dict[str, list[Standing]]:
        asked.append(prove)
        return {"cuda:0 a card": found}

    monkeypatch.setattr(doctor, "standings", standings)
    text = format_environment(brief=True, prove=True)
    assert asked == [True]
    for line in (
        "  cuda:0 a card",
        "    narrow: proved, 1.5 ms where plain torch takes 20.2 (2026-11-30)",
        "    wide: not taken: problem 'N3' is wrong (2026-11-29)",
        "    planes: not proved yet; that is done at its first use, or by emergence doctor --prove",
        "    hopper: not here: hopper needs 9.0",
    ):
        assert line in text.splitlines()
