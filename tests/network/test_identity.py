"""What a network is: another weight or another line of code is another network."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emergence_ext.network import code_digest, weights_digest

CODE = """
from torch import nn
SCALE = 2.0
def helper(x):
    return x * SCALE
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        # a comment
        return self.fc(helper(x))
def build():
    return Net()
"""
_counter = itertools.count()


def _written(folder: Path, code: str) -> Any:
    path = folder / f"written{next(_counter)}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_comments_and_layout_are_nothing_to_code(tmp_path: Path) -> None:
    one = _written(tmp_path, CODE).Net()
    other = _written(tmp_path, CODE.replace("# a comment", "# another one\n")).Net()
    assert code_digest(one) == code_digest(other)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.fc(helper(x))", "self.fc(helper(x)) + 1"),
        ("return x * SCALE", "return x / SCALE"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("nn.Linear(4, 2)", "nn.Linear(4, 3)"),
    ],
    ids=["forward", "a function it calls", "a constant", "a setting"],
)
def test_other_code_is_another_network(tmp_path: Path, old: str, new: str) -> None:
    one, other = _written(tmp_path, CODE), _written(tmp_path, CODE.replace(old, new))
    assert code_digest(one.Net()) != code_digest(other.Net())


def test_code_of_a_function_and_of_what_is_not_python(tmp_path: Path) -> None:
    one = _written(tmp_path, CODE)
    other = _written(tmp_path, CODE.replace("x * SCALE", "x * SCALE * 1"))
    assert code_digest(one.helper) != code_digest(other.helper)
    assert code_digest(partial(one.helper)) != code_digest(partial(other.helper))
    typed: dict[str, Any] = {}
    exec("def typed(x): return x", typed)
    assert code_digest(typed["typed"]) == code_digest(typed["typed"])
    assert code_digest(torch.sigmoid) == code_digest(torch.sigmoid)


def test_every_process_gives_one_network_the_same_digest() -> None:
    program = """
from functools import partial
from torch import nn
from emergence_ext.network import code_digest
def act(x, kind="a"): return x if kind in {"a", "b", "c", "d"} else -x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = partial(act, kind="b")
        self.fc = nn.Linear(2, 2)
    def extra_repr(self): return repr(self.act)
    def forward(self, x, act=act): return self.act(self.fc(x))
print(code_digest(Net()), code_digest(partial(act, kind=act)))
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_one_weight_or_its_name_is_another_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = weights_digest(net)
    with torch.no_grad():
        net[0].weight[0, 0] += 1e-6
    changed = weights_digest(net)
    net[1].running_mean[0] = 1
    assert len({before, changed, weights_digest(net)}) == 3
    assert weights_digest(nn.Sequential(net[0])) != weights_digest(nn.ModuleDict({"x": net[0]}))


def test_a_forward_hook_is_code_of_the_network() -> None:
    from emergence_ext.network.calling import select_output

    digests = [code_digest(nn.Linear(4, 2))]
    for name in ("logits", "aux"):
        module = nn.Linear(4, 2)
        select_output(module, name)
        digests.append(code_digest(module))
    module = nn.Linear(4, 2)
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    digests.append(code_digest(module))
    assert len(set(digests)) == 4
    again = nn.Linear(4, 2)
    select_output(again, "logits")
    assert code_digest(again) == digests[1]


OTHER = """
SHARED = {"scale": [1.0, 2.0]}
def helper(x):
    return x * SHARED["scale"][0]
"""
USES = """
import torch
from functools import partial
from torch import nn
import other_file
from other_file import helper
MEAN = torch.tensor([0.5])
CACHE = {}
def make(by):
    return lambda x: x * by
def closed(x):
    return x
class Prepare:
    def __init__(self, by):
        self.by = by
        self.calls = 0
        self.cache, self.seen = {}, []
    def __call__(self, x):
        self.calls += 1
        self.cache["x"] = CACHE["x"] = self.cache.get("x", x)
        self.seen.append(x)
        return x * self.by
    def method(self, x):
        return x * self.by
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = torch.ones(2)
        self.settings = {"depth": 3}
    def forward(self, x):
        return helper(x)
def by_module(x):
    return other_file.helper(x)
def by_tensor(x):
    return x - MEAN
gain = Net()
def by_global_network(x):
    return gain(x)
by_closure, by_object, by_method = make(2.0), Prepare(2.0), Prepare(2.0).method
by_name, net = helper, Net()
"""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("by_module", "return x *", "return x /"),
        ("by_module", "[1.0, 2.0]", "[3.0, 2.0]"),
        ("by_name", "return x *", "return x /"),
        ("by_global_network", "return x *", "return x /"),
        ("by_global_network", '{"depth": 3}', '{"depth": 4}'),
        ("net", "return x *", "return x /"),
        ("net", "torch.ones(2)", "torch.zeros(2)"),
        ("net", '{"depth": 3}', '{"depth": 4}'),
        ("by_tensor", "[0.5]", "[0.4]"),
        ("by_closure", "make(2.0)", "make(3.0)"),
        ("by_object", "Prepare(2.0)", "Prepare(3.0)"),
        ("by_method", "Prepare(2.0)", "Prepare(3.0)"),
    ],
)
def test_what_code_uses_outside_of_it_counts(
    name: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for change in (False, False, True):
        other, uses = (x.replace(old, new) if change else x for x in (OTHER, USES))
        (tmp_path / "other_file.py").write_text(other)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "other_file", raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        digests.append(code_digest(getattr(_written(tmp_path, uses), name)))
    assert digests[0] == digests[1] != digests[2]


def test_what_an_object_counts_or_keeps_is_no_setting(tmp_path: Path) -> None:
    alone = USES.replace("import other_file\nfrom other_file import helper", "helper = abs")
    prepare = _written(tmp_path, alone).by_object
    before = code_digest(prepare)
    prepare(torch.ones(1))
    assert prepare.calls == 1 and prepare.cache and prepare.seen
    assert code_digest(prepare) == before
