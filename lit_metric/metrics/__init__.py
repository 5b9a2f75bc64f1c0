"""How good embeddings are: retrieval, k-NN classification, given pairs, their spread.

Each metric is a `torchmetrics.Metric`; the pure functions beneath are here too.
"""

from lit_metric.metrics.bootstrap import percentile_interval, resampled_means
from lit_metric.metrics.classification import (
    accuracy_by_frequency,
    f1_macro,
    f1_micro,
    macro_accuracy,
    prediction_counts,
)
from lit_metric.metrics.collapse import (
    CollapseMonitor,
    collapse_reason,
    effective_rank,
    effective_rank_of_gram,
    mean_pairwise_cosine,
    pairwise_spread,
)
from lit_metric.metrics.direction import direction_auc, directional_scores
from lit_metric.metrics.few_shot import few_shot_accuracy
from lit_metric.metrics.given import PairMetrics, TripletMetrics
from lit_metric.metrics.neighbours import NeighbourMetrics, QueryValues
from lit_metric.metrics.propensity import propensities, psp_at_k
from lit_metric.metrics.ranking import (
    MRR,
    HitRateAtK,
    MAPAtK,
    MAPAtR,
    NDCGAtK,
    PrecisionAtK,
    Ranking,
    RecallAtK,
    RetrievalMetric,
    RPrecision,
)
from lit_metric.metrics.retrieval import (
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
from lit_metric.metrics.space import SpaceMetrics, alignment, uniformity
from lit_metric.metrics.votes import knn_predict, knn_predict_labels, knn_shares
from lit_metric.renamed import refuse_old_names

__all__ = [
    "MRR",
    "CollapseMonitor",
    "HitRateAtK",
    "MAPAtK",
    "MAPAtR",
    "NDCGAtK",
    "NeighbourMetrics",
    "PairMetrics",
    "PrecisionAtK",
    "QueryValues",
    "RPrecision",
    "Ranking",
    "RecallAtK",
    "RetrievalMetric",
    "SpaceMetrics",
    "TripletMetrics",
    "accuracy_by_frequency",
    "alignment",
    "collapse_reason",
    "direction_auc",
    "directional_scores",
    "effective_rank",
    "effective_rank_of_gram",
    "f1_macro",
    "f1_micro",
    "few_shot_accuracy",
    "filtered_rank",
    "hit_rate_at_k",
    "knn_predict",
    "knn_predict_labels",
    "knn_shares",
    "macro_accuracy",
    "map_at_k",
    "map_at_r",
    "mean_pairwise_cosine",
    "ndcg_at_k",
    "pairwise_spread",
    "percentile_interval",
    "precision_at_k",
    "prediction_counts",
    "propensities",
    "psp_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
    "resampled_means",
    "uniformity",
]

refuse_old_names(__name__)
