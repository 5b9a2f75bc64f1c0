"""Fine-tune text encoders by deep metric learning, on PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lit_metric.renamed import refuse_attribute

if TYPE_CHECKING:
    from lit_metric.datamodule import MetricDataModule
    from lit_metric.encoders import (
        AttentionPooling,
        Encoder,
        SetEncoder,
        StaticEncoder,
        TextEncoder,
        TwoTowerEncoder,
        distill,
    )
    from lit_metric.hub import export, load
    from lit_metric.mining import Miner
    from lit_metric.modules import MetricLearner, TwoTowerLearner
    from lit_metric.neighbours import NeighbourClassifier
    from lit_metric.refresh import Refresh
    from lit_metric.search_index import SearchIndex

__version__ = "0.1.0"

__all__ = [
    "AttentionPooling",
    "Encoder",
    "MetricDataModule",
    "MetricLearner",
    "Miner",
    "NeighbourClassifier",
    "Refresh",
    "SearchIndex",
    "SetEncoder",
    "StaticEncoder",
    "TextEncoder",
    "TwoTowerEncoder",
    "TwoTowerLearner",
    "distill",
    "export",
    "load",
]

_HOMES = {
    "AttentionPooling": "encoders",
    "Encoder": "encoders",
    "MetricDataModule": "datamodule",
    "MetricLearner": "modules",
    "Miner": "mining",
    "NeighbourClassifier": "neighbours",
    "Refresh": "refresh",
    "SearchIndex": "search_index",
    "SetEncoder": "encoders",
    "StaticEncoder": "encoders",
    "TextEncoder": "encoders",
    "TwoTowerEncoder": "encoders",
    "TwoTowerLearner": "modules",
    "distill": "encoders",
    "export": "hub",
    "load": "hub",
}


def __getattr__(name: str) -> Any:
    # Loader workers import lit_metric.data and lit_metric.batching; Lightning and transformers would cost
    # each of them seconds.
    if name not in _HOMES:
        refuse_attribute(__name__, name)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
