"""Who meets whom: planners of batches, and the dataset and sampler that serve their plans."""

from lit_metric.batching.data_set import DataSet
from lit_metric.batching.evaluation import ChunkDataset, chunks
from lit_metric.batching.loader import PlanDataset, PlanSampler, resume_epoch, resume_position
from lit_metric.batching.mixture import MixturePlanner
from lit_metric.batching.n_pair import NPairPlanner
from lit_metric.batching.pairs import PairPlanner, ScoredPairPlanner
from lit_metric.batching.pk import PKPlanner
from lit_metric.batching.plan import BatchPlanner, Plan
from lit_metric.batching.shuffle import ShufflePlanner
from lit_metric.batching.stratified import StratifiedPlanner

__all__ = [
    "BatchPlanner",
    "ChunkDataset",
    "DataSet",
    "MixturePlanner",
    "NPairPlanner",
    "PKPlanner",
    "PairPlanner",
    "Plan",
    "PlanDataset",
    "PlanSampler",
    "ScoredPairPlanner",
    "ShufflePlanner",
    "StratifiedPlanner",
    "chunks",
    "resume_epoch",
    "resume_position",
]
