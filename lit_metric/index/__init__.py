"""Nearest-neighbour search behind one interface: an exact matrix product in torch, or any FAISS index.

Vectors of any float type are searched in float32. Scores are similarities: larger is nearer.
"""

from lit_metric.index.base import Index, Similarity, StoredIndexError, Vectors, load_index
from lit_metric.index.embeddings import Embeddings
from lit_metric.index.exact import ExactIndex
from lit_metric.index.faiss_index import FaissIndex
from lit_metric.index.representatives import RepresentativeIndex
from lit_metric.index.scores import padded, similarities, top_k
from lit_metric.renamed import refuse_old_names

__all__ = [
    "Embeddings",
    "ExactIndex",
    "FaissIndex",
    "Index",
    "RepresentativeIndex",
    "Similarity",
    "StoredIndexError",
    "Vectors",
    "load_index",
    "padded",
    "similarities",
    "top_k",
]

refuse_old_names(__name__)
