"""Pure functions beneath the metrics: ranked relevance, k-NN classification, spread of the embeddings."""

from lit_metric.metrics.functional.classification import (
    accuracy,
    accuracy_by_frequency,
    class_recalls,
    frequency_edges,
    knn_predict,
    macro_accuracy,
    macro_f1,
)
from lit_metric.metrics.functional.retrieval import (
    map_at_r,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)
from lit_metric.metrics.functional.spread import (
    collapse_reason,
    effective_rank,
    effective_rank_of_gram,
    mean_pairwise_cosine,
    pairwise_spread,
)

__all__ = [
    "accuracy",
    "accuracy_by_frequency",
    "class_recalls",
    "collapse_reason",
    "effective_rank",
    "effective_rank_of_gram",
    "frequency_edges",
    "knn_predict",
    "macro_accuracy",
    "macro_f1",
    "map_at_r",
    "mean_pairwise_cosine",
    "pairwise_spread",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
]
