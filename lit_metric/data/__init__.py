"""Texts, items, their relations, and the batches made of them."""

from lit_metric.data.batch import Batch, Collator
from lit_metric.data.dataset import Dataset, GivenPairs, GivenTriplets
from lit_metric.data.delimited import CsvOptions
from lit_metric.data.errors import BadRows, DataError, Problems
from lit_metric.data.formats import (
    Composed,
    CounterpartPairs,
    Excerpts,
    Judgements,
    LabelledItems,
    Labels,
    Pairs,
    ReadOptions,
    Supervision,
    Triples,
    excerpt_of,
    transfer_edit,
)
from lit_metric.data.items import Items, Vocabulary
from lit_metric.data.ragged import Ragged
from lit_metric.data.readers import read_table
from lit_metric.data.relations import (
    LabelRelations,
    MultiLabelRelations,
    PairRelations,
    Relations,
    UnionRelations,
)
from lit_metric.data.sources import guess_supervision
from lit_metric.data.table import Table
from lit_metric.data.texts import Texts, default_cache_dir
from lit_metric.data.tokens import Tokenizer, Tokens, tokenize
from lit_metric.renamed import refuse_old_names

__all__ = [
    "BadRows",
    "Batch",
    "Collator",
    "Composed",
    "CounterpartPairs",
    "CsvOptions",
    "DataError",
    "Dataset",
    "Excerpts",
    "GivenPairs",
    "GivenTriplets",
    "Items",
    "Judgements",
    "LabelRelations",
    "LabelledItems",
    "Labels",
    "MultiLabelRelations",
    "PairRelations",
    "Pairs",
    "Problems",
    "Ragged",
    "ReadOptions",
    "Relations",
    "Supervision",
    "Table",
    "Texts",
    "Tokenizer",
    "Tokens",
    "Triples",
    "UnionRelations",
    "Vocabulary",
    "default_cache_dir",
    "excerpt_of",
    "guess_supervision",
    "read_table",
    "tokenize",
    "transfer_edit",
]

refuse_old_names(__name__)
