"""How many examples each property is tried on: ``LIT_METRIC_EXAMPLES``, 25 by default; always the same."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "lit-metric",
    max_examples=int(os.environ.get("LIT_METRIC_EXAMPLES", "25")),
    derandomize=True,  # which also keeps no database
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("lit-metric")
