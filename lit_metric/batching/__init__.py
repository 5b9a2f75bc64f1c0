"""Planners that decide which items share a batch, and the dataset and sampler that serve their plans."""

from lit_metric.batching.classes import NPairPlanner, PKPlanner, ShufflePlanner, StratifiedPlanner
from lit_metric.batching.episodes import EpisodePlanner
from lit_metric.batching.hard_classes import HardPKPlanner, NegativeClassPlanner, NGAMEPlanner
from lit_metric.batching.labels import LabelPlanner
from lit_metric.batching.loader import (
    ChunkDataset,
    PlanDataset,
    PlanSampler,
    RowDataset,
    Step,
    chunks,
    resume_position,
)
from lit_metric.batching.mixture import MixturePart, MixturePlanner
from lit_metric.batching.pairs import PairPlanner, ScoredPairPlanner
from lit_metric.batching.plan import BatchPlanner, Plan, VectorPlanner
from lit_metric.batching.plan_files import PlanFiles
from lit_metric.batching.suitable import mixture_planner, suitable_planner
from lit_metric.renamed import refuse_old_names

__all__ = [
    "BatchPlanner",
    "ChunkDataset",
    "EpisodePlanner",
    "HardPKPlanner",
    "LabelPlanner",
    "MixturePart",
    "MixturePlanner",
    "NGAMEPlanner",
    "NPairPlanner",
    "NegativeClassPlanner",
    "PKPlanner",
    "PairPlanner",
    "Plan",
    "PlanDataset",
    "PlanFiles",
    "PlanSampler",
    "RowDataset",
    "ScoredPairPlanner",
    "ShufflePlanner",
    "Step",
    "StratifiedPlanner",
    "VectorPlanner",
    "chunks",
    "mixture_planner",
    "resume_position",
    "suitable_planner",
]

refuse_old_names(__name__)
