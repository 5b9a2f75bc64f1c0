"""What tests of several packages share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.small import Small

# The models are tiny, and threads would spend their time waiting for each other. Processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small world, written once."""
    from tests.small import Small  # all of lit_metric: seconds that most tests need not wait for

    return Small.make(tmp_path_factory.mktemp("small"))
