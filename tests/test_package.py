"""What the package gives away, and when it loads it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import lit_metric


@pytest.mark.parametrize("name", lit_metric.__all__)
def test_each_public_name_is_the_object_of_its_home(name: str) -> None:
    value = getattr(lit_metric, name)
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert name in dir(lit_metric)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = lit_metric.Trainer


def test_loader_workers_load_neither_lightning_nor_transformers() -> None:
    code = (
        "import sys, lit_metric.batching, lit_metric.data; "
        "print([name for name in ('lightning', 'transformers', 'torchmetrics') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
