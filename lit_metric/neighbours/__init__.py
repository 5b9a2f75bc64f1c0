"""What the neighbours of items tell after a training: their classes, wrong labels, and duplicates."""

from lit_metric.neighbours.classifier import NeighbourClassifier
from lit_metric.neighbours.storage import StoredClassifierError

__all__ = ["NeighbourClassifier", "StoredClassifierError"]
