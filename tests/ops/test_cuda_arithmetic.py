"""Plain arithmetic of the CUDA kernels (`csrc/cuda/arithmetic.h`), as the host compiles it."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.emulated import EmulatedGPU

VALUES = [-math.inf, -2.0, -0.0, 0.0, 1.0, 1.5, math.inf, math.nan]


def pointer(x: np.ndarray) -> ctypes.c_void_p:
    return x.ctypes.data_as(ctypes.c_void_p)


def test_rounding_to_bfloat16_is_torchs(emulated_gpu: EmulatedGPU) -> None:
    # Every sign, exponent and leading bit, with ties and what lies beside them.
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    bits = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | low).ravel()
    found = np.empty(bits.size, dtype=np.uint16)
    emulated_gpu.library.arithmetic_to_bfloat16(
        pointer(bits), ctypes.c_int64(bits.size), pointer(found)
    )
    expected = torch.from_numpy(bits.view(np.float32)).bfloat16().view(torch.int16).numpy()
    numbers = ~np.isnan(bits.view(np.float32))
    assert (found[numbers] == expected.view(np.uint16)[numbers]).all()
    assert ((found[~numbers] & 0x7FFF) > 0x7F80).all()


def test_eight_rows_at_one_piece_touch_all_banks(emulated_gpu: EmulatedGPU) -> None:
    swizzled = emulated_gpu.library.arithmetic_swizzled
    for start in range(0, 64, 8):
        for piece in range(8):
            assert {swizzled(start + row, piece) for row in range(8)} == set(range(8))
    assert all({swizzled(row, piece) for piece in range(8)} == set(range(8)) for row in range(64))


@pytest.mark.parametrize(("S", "length"), [(1, 7), (7, 7), (14, 14), (49, 7), (196, 14), (784, 14)])
def test_blocks_leave_few_candidates_empty(S: int, length: int, emulated_gpu: EmulatedGPU) -> None:
    assert emulated_gpu.library.arithmetic_block_length(ctypes.c_int64(S)) == length


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=40),
    length=st.integers(1, 9),
    order=st.randoms(),
)
def test_the_best_is_the_first_largest_however_candidates_are_dealt(
    values: list[float], length: int, order: object, emulated_gpu: EmulatedGPU
) -> None:
    shares = list(range(-(-len(values) // length)))
    order.shuffle(shares)
    value = ctypes.c_float()
    place = emulated_gpu.library.arithmetic_best(
        pointer(np.array(values, dtype=np.float32)),
        len(values),
        length,
        pointer(np.array(shares, dtype=np.int32)),
        ctypes.byref(value),
    )
    nan = [s for s, x in enumerate(values) if math.isnan(x)]
    if nan:
        assert math.isnan(value.value) and place == nan[0]
    else:
        assert value.value == max(values) and place == values.index(max(values))
