"""Trained encoders in and out: load a run, a checkpoint, a folder or a model of the hub, export to the format
of sentence-transformers with a model card, or to ONNX, and upload to the hub."""

from lit_metric.hub.card import write_card
from lit_metric.hub.check import Check
from lit_metric.hub.exporting import export
from lit_metric.hub.loading import load
from lit_metric.hub.onnx import export_onnx
from lit_metric.hub.pushing import push

__all__ = ["Check", "export", "export_onnx", "load", "push", "write_card"]
