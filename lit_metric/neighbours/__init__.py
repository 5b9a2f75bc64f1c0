"""What the neighbours of items tell after a training: their classes, wrong labels, and duplicates."""

from lit_metric.neighbours.classifier import NeighbourClassifier
from lit_metric.neighbours.duplicates import common_items, duplicate_groups, near_pairs
from lit_metric.neighbours.label_errors import LabelErrors, find_label_errors
from lit_metric.neighbours.storage import StoredClassifierError

__all__ = [
    "LabelErrors",
    "NeighbourClassifier",
    "StoredClassifierError",
    "common_items",
    "duplicate_groups",
    "find_label_errors",
    "near_pairs",
]
