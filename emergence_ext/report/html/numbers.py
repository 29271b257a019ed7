"""Values as a reader wants them."""

from __future__ import annotations

import math
from typing import Any, Final

NOTHING: Final = "\u2013"


def short(value: Any) -> str:
    """Return a headline's number with three digits, anything else as `shown`."""
    if isinstance(value, float) and 1e-3 <= abs(value) < 1e3:
        value = float(f"{value:.3g}")
    return shown(value)


def shown(value: Any) -> str:
    """Return a value as a reader wants it: few digits, words for truth, a dash for nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return NOTHING if math.isnan(value) else f"{value}"
        short = f"{value:.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
        return short.replace("-", "\u2212") if "e" not in short else short
    return str(value)
