"""What a person knows about items, and how files say it: labels, pairs, judgements, triples."""

from lit_metric.data.formats.base import AUTO, ReadOptions, Supervision
from lit_metric.data.formats.classes import LabelledItems
from lit_metric.data.formats.composed import Composed
from lit_metric.data.formats.counterparts import CounterpartPairs, transfer_edit
from lit_metric.data.formats.excerpts import Excerpts, excerpt_of
from lit_metric.data.formats.judgements import Judgements, fold_of
from lit_metric.data.formats.labels import Labels
from lit_metric.data.formats.pairs import Pairs
from lit_metric.data.formats.triples import Triples

__all__ = [
    "AUTO",
    "Composed",
    "CounterpartPairs",
    "Excerpts",
    "Judgements",
    "LabelledItems",
    "Labels",
    "Pairs",
    "ReadOptions",
    "Supervision",
    "Triples",
    "excerpt_of",
    "fold_of",
    "transfer_edit",
]
