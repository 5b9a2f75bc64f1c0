"""What a person knows about items, and how files say it: labels, pairs, judgements, triples."""

from lit_metric.data.formats.base import ReadOptions, Supervision
from lit_metric.data.formats.guess import guessed
from lit_metric.data.formats.judgements import Judgements, fold_of
from lit_metric.data.formats.labelled import LabelledItems
from lit_metric.data.formats.labels import Labels, labelled_items
from lit_metric.data.formats.pairs import Pairs
from lit_metric.data.formats.triples import Triples

__all__ = [
    "Judgements",
    "LabelledItems",
    "Labels",
    "Pairs",
    "ReadOptions",
    "Supervision",
    "Triples",
    "fold_of",
    "guessed",
    "labelled_items",
]
