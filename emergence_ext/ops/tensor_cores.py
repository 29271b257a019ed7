"""Matches selected by 16-bit products with float32 results, as tensor cores make them.

Plain torch for `reference` on CUDA; what each `precision` promises is in `csrc/maxsim.h`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

NARROW: Final = 8
"""Rows of up to so many channels are matched in float32 at any precision."""

SLICE: Final = 64
"""Channels of the matches that are gathered at once to score them again."""

_FLOAT32_RESULTS: Final = (
    torch.version.hip is None and "dtype" in torch.ops.aten.mm.overloads()
)  # of 16-bit products, by `torch.mm(..., out_dtype=...)`, on CUDA alone


class Products(NamedTuple):
    """How rows are multiplied to select their match.

    Attributes:
        dtype: of the factors, bfloat16 or float16.
        planes: how many numbers of it stand for one: 1, or 2, three of whose products are made.
        exact: whether the rows are of this dtype, so that nothing is rounded but sums.
    """

    dtype: torch.dtype
    planes: int = 1
    exact: bool = False


def products_for(q: Tensor, stored: torch.dtype, precision: str) -> Products | None:
    """Say which products select the match of rows q `[N, R, D]`; None for those of q's own dtype.

    Args:
        q: rows in the dtype of the arithmetic.
        stored: the dtype in which they were given.
        precision: "highest", "high" or "medium".
    """
    if q.device.type != "cuda" or q.dtype != torch.float32 or q.shape[2] <= NARROW:
        return None
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return None  # no tensor cores for bfloat16
    if stored in (torch.bfloat16, torch.float16):
        return Products(stored, exact=True)
    planes = {"highest": 0, "high": 2, "medium": 1}[precision]
    return Products(torch.bfloat16, planes) if planes else None


class Matcher:
    """Finds the best match of rows in blocks of images, and scores it in float32.

    Args:
        q: rows, `[N, R, D]`, float32.
        products: how they are multiplied to select.
    """

    def __init__(self, q: Tensor, products: Products) -> None:
        self._q = q.reshape(-1, q.shape[2])
        self._products = products
        self._factors = _factors(self._q.detach(), products, left=True)

    def __call__(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Give the products of the matches, and their places, `[N R, n]`, for d `[n, S, D]`."""
        n, S, D = d.shape
        factors = _factors(d.detach().reshape(-1, D), self._products, left=False)
        values, places = _multiply(self._factors, factors).view(len(self._q), n, S).max(dim=2)
        differentiated = torch.is_grad_enabled() and (self._q.requires_grad or d.requires_grad)
        if self._products.exact and not differentiated:
            return values, places
        return _score(self._q, d, places), places


def _factors(x: Tensor, products: Products, *, left: bool) -> Tensor:
    """Round rows `[rows, D]`; of two planes high high low meets high low high, three products."""
    high = _rounded(x, products.dtype)
    if products.planes == 1:
        return high
    rest = x - high.float()
    low = _rounded(torch.where(rest.isfinite(), rest, 0), products.dtype)  # infinity has no rest
    return torch.cat([high, high, low] if left else [high, low, high], dim=1)


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """To the nearest number of `dtype`, the largest for what would become infinite."""
    most = torch.finfo(dtype).max
    return torch.where(x.isfinite(), x.clamp(-most, most), x).to(dtype)


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    """`x y^T` of 16-bit rows with float32 sums: here alone, as not every torch has it."""
    if x.is_cuda and _FLOAT32_RESULTS:
        return torch.mm(x, y.t(), out_dtype=torch.float32)
    return x.float() @ y.float().t()


def _score(q: Tensor, d: Tensor, places: Tensor) -> Tensor:
    """The float32 products of rows `[rows, D]` with their matches in d, `[rows, n]`."""
    image = torch.arange(len(d), device=d.device)
    total = q.new_zeros(places.shape)
    for k in range(0, q.shape[1], SLICE):
        matched = d[..., k : k + SLICE][image, places]
        total = total + (q[:, None, k : k + SLICE] * matched).sum(-1)
    return total
