"""What tests of whole runs spare themselves."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from emergence_ext.run import StrengthEntropy, analyse, strength


@pytest.fixture(scope="module")
def no_strength_fits() -> Iterator[pytest.MonkeyPatch]:
    """Strength against entropy at one temperature, and made up: its fits take most of the time."""

    def made_up(
        f: Tensor, z: Tensor, y: Tensor, temperatures: list[float], **_: Any
    ) -> dict[float, StrengthEntropy]:
        made = (z.sum(1), f.norm(dim=1), f.sum(1), 0, 0, 0, 0, 0)
        return {temperature: StrengthEntropy(temperature, *made) for temperature in temperatures}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strength, "TEMPERATURES", (1.0,))
        patch.setattr(analyse, "strength_entropy", made_up)
        yield patch
