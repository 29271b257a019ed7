"""Commands and studies are tested for what they write; how figures look is tested elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sketched import sketches


@pytest.fixture(scope="package", autouse=True)
def _sketches() -> Iterator[None]:
    yield from sketches()
