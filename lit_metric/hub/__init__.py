"""Trained encoders in and out: load a run, a checkpoint, a folder or a model of the hub, and export to the
format of sentence-transformers."""

from lit_metric.hub.exporting import export
from lit_metric.hub.loading import load

__all__ = ["export", "load"]
