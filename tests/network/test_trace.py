"""What runs is told call by call, batches shrink where memory runs out, and no hook stays."""

import pytest
import torch
from torch import Tensor, nn

from emergence_ext.network import in_batches, observed
from emergence_ext.network.trace import Call, trace


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(input=self.body[1](self.body(x)))


def test_calls_are_told_in_the_order_in_which_they_begin_and_end() -> None:
    module, begun, ended = Shared(), [], []
    result = trace(
        module, torch.rand(2, 3, 5, 5), before=lambda call: begun.append(call), after=ended.append
    )
    assert [call.name for call in begun] == ["", "body", "body.0", "body.1", "body.1", "drop"]
    assert [call.name for call in ended] == ["body.0", "body.1", "body", "body.1", "drop", ""]
    assert all(call.output is None for call in begun) and ended[-1].output is result
    assert ended[-2].inputs == () and ended[-2].keywords["input"] is ended[-3].output
    assert ended[0].module is module.body[0] and not result.requires_grad


def test_a_traced_network_comes_back_as_it_was_though_an_observer_fails() -> None:
    module = Shared().train()
    module.body.eval()
    modes = [part.training for part in module.modules()]

    def fail(_call: Call) -> None:
        assert not any(part.training for part in module.modules())
        raise KeyError("observer")

    with pytest.raises(KeyError):
        trace(module, torch.rand(1, 3, 5, 5), before=fail, after=fail)
    assert [part.training for part in module.modules()] == modes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_only_what_is_named_is_observed() -> None:
    module, names = Shared(), []
    with observed({"relu": module.body[1]}, after=lambda call: names.append(call.name)):
        module(torch.rand(1, 3, 5, 5))
    module(torch.rand(1, 3, 5, 5))
    assert names == ["relu", "relu"]


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    tried = []

    def hungry(batch: slice) -> range:
        tried.append(batch.stop - batch.start)
        if tried[-1] > 2:
            raise MemoryError
        return range(10)[batch]

    batches = list(in_batches(hungry, 10, 6, description="test"))
    assert tried == [6, 3, 2, 2, 2, 2, 2]
    assert [n for _, part in batches for n in part] == list(range(10))
    assert all(range(10)[batch] == part for batch, part in batches)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("something else")])
def test_an_error_that_smaller_batches_do_not_mend_is_raised(error: Exception) -> None:
    def fail(_batch: slice) -> None:
        raise error

    with pytest.raises(type(error)):
        list(in_batches(fail, 3, 2, description="test"))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(in_batches(fail, 3, 0, description="test"))
