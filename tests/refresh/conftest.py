"""What several of these tests compare with."""

from __future__ import annotations

import pytest

from tests.refresh.fits import Fit, fit
from tests.small import Small


@pytest.fixture(scope="session")
def undisturbed(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A whole fit with nothing in its way; tests that write into its folder work on a copy."""
    return fit(small, tmp_path_factory.mktemp("undisturbed"), save=5)
