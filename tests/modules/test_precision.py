"""A warning of what this processor is slow at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_metric.losses import InfoNCELoss
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("capability", "precision", "warns"),
    [
        ("AVX2", "bf16-mixed", True),
        ("AVX2", "bf16-true", True),
        ("AVX2", "32-true", False),
        ("AVX512", "bf16-mixed", False),
        ("DEFAULT", "bf16-mixed", False),
    ],
)
def test_bfloat16_is_warned_of_where_it_is_slow(
    small: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    precision: str,
    warns: bool,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    trainer(tmp_path, precision=precision, max_steps=1).fit(small.learner(InfoNCELoss(0.2)), small.data())
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    told = [each for each in told if "bfloat16" in each]
    assert len(told) == warns
    assert all(f"--trainer.precision {precision} " in each and "32-true" in each for each in told)
