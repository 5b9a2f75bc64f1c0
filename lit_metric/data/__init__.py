"""Texts, items, their relations, and the batches made of them."""

from lit_metric.data.batch import Batch, Collator
from lit_metric.data.errors import DataError
from lit_metric.data.items import Items, concatenate
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, Relations
from lit_metric.data.tokens import Tokenizer, Tokens, default_cache_dir, tokenize
from lit_metric.data.vocabulary import Vocabulary

__all__ = [
    "Batch",
    "Collator",
    "DataError",
    "Items",
    "LabelRelations",
    "Ragged",
    "Relations",
    "Tokenizer",
    "Tokens",
    "Vocabulary",
    "concatenate",
    "default_cache_dir",
    "tokenize",
]
