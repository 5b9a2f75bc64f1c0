"""What neighbours say about an embedding: retrieval, k-NN classification, given pairs, collapse."""

from lit_metric.metrics.collapse import CollapseMonitor
from lit_metric.metrics.functional import collapse_reason
from lit_metric.metrics.given import PairMetrics, TripletMetrics
from lit_metric.metrics.neighbours import NeighbourMetrics
from lit_metric.metrics.space import SpaceMetrics
from lit_metric.renamed import refuse_old_names

__all__ = [
    "CollapseMonitor",
    "NeighbourMetrics",
    "PairMetrics",
    "SpaceMetrics",
    "TripletMetrics",
    "collapse_reason",
]

refuse_old_names(__name__)
