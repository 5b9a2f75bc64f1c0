"""Nearest-neighbour search behind one interface: an exact matrix product in torch, or any FAISS index.

Both search vectors in float32, whatever they were given. Scores are similarities: larger is nearer.
"""

from lit_metric.index.base import Index, Similarity, StoredIndexError, Vectors
from lit_metric.index.embeddings import Embeddings
from lit_metric.index.exact import ExactIndex
from lit_metric.index.faiss_index import FaissIndex
from lit_metric.index.load import load_index
from lit_metric.index.products import padded, similarities, top_k
from lit_metric.index.representatives import RepresentativeIndex

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
