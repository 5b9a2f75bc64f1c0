"""Fine-tune text encoders by deep metric learning, on PyTorch Lightning."""

from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import AttentionPooling, Encoder, SetEncoder, TextEncoder
from lit_metric.hub import export, load
from lit_metric.mining import Miner
from lit_metric.modules import MetricLearner

__version__ = "0.1.0"

__all__ = [
    "AttentionPooling",
    "Encoder",
    "MetricDataModule",
    "MetricLearner",
    "Miner",
    "SetEncoder",
    "TextEncoder",
    "export",
    "load",
]
