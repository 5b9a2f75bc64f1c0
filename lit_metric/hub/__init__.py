"""Trained encoders in and out: load a run, a checkpoint, a folder or a model of the hub, and export to the
format of sentence-transformers or to ONNX."""

from lit_metric.hub.exporting import export
from lit_metric.hub.loading import load
from lit_metric.hub.onnx import export_onnx

__all__ = ["export", "export_onnx", "load"]
