"""Pure functions beneath the metrics: ranked relevance, k-NN classification, given pairs, spread."""

from lit_metric.metrics.functional.classification import (
    accuracy,
    accuracy_by_frequency,
    class_recalls,
    frequency_edges,
    knn_predict,
    macro_accuracy,
    macro_f1,
    vote_weights,
)
from lit_metric.metrics.functional.multi_label import (
    f1_macro,
    f1_micro,
    indicators,
    knn_predict_labels,
    label_counts,
)
from lit_metric.metrics.functional.pairs import (
    average_precision,
    mean_ranks,
    pearson,
    spearman,
    triplet_order,
)
from lit_metric.metrics.functional.retrieval import (
    filtered_rank,
    hit_rate_at_k,
    map_at_k,
    map_at_r,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)
from lit_metric.metrics.functional.space import (
    alignment,
    normalized_mutual_information,
    occurrence_skewness,
    uniformity,
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
    "alignment",
    "average_precision",
    "class_recalls",
    "collapse_reason",
    "effective_rank",
    "effective_rank_of_gram",
    "f1_macro",
    "f1_micro",
    "filtered_rank",
    "frequency_edges",
    "hit_rate_at_k",
    "indicators",
    "knn_predict",
    "knn_predict_labels",
    "label_counts",
    "macro_accuracy",
    "macro_f1",
    "map_at_k",
    "map_at_r",
    "mean_pairwise_cosine",
    "mean_ranks",
    "ndcg_at_k",
    "normalized_mutual_information",
    "occurrence_skewness",
    "pairwise_spread",
    "pearson",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
    "spearman",
    "triplet_order",
    "uniformity",
    "vote_weights",
]
