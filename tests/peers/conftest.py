"""Writes what was compared, by peer and subject, into the file that ``LIT_METRIC_COUNTS`` names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.peers.cases import COUNTS


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := os.environ.get("LIT_METRIC_COUNTS"):
        counts: dict[str, dict[str, int]] = {}
        for (peer, subject), number in sorted(COUNTS.items()):
            counts.setdefault(peer, {})[subject] = number
        Path(path).write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
