"""What the tests of the kernels share: memory layouts and random numbers that repeat."""

from __future__ import annotations

import numpy as np
import pytest
from layouts import LAYOUTS, Layout


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    """Stores an array in one of the layouts; values and shape stay the same."""
    return LAYOUTS[request.param]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240617)
