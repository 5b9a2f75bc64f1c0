"""The planner that suits a data set."""

from __future__ import annotations

from collections.abc import Mapping

from lit_metric.batching.classes import PKPlanner
from lit_metric.batching.mixture import MixturePart, MixturePlanner, Strategy
from lit_metric.batching.pairs import PairPlanner, ScoredPairPlanner
from lit_metric.batching.plan import BatchPlanner
from lit_metric.data.dataset import Dataset

PLANNERS = {"classes": PKPlanner, "pairs": PairPlanner}


def suitable_planner(dataset: Dataset) -> BatchPlanner:
    """The planner of a data set for which none is given."""
    if dataset.planned == "scores":
        # Scores of documents for a query come from a teacher, and its losses compare them with each other.
        return ScoredPairPlanner(together=not getattr(dataset.relations, "symmetric", True))
    return PLANNERS[dataset.planned]()


def mixture_planner(
    parts: Mapping[str, MixturePart], read: Mapping[str, Dataset], strategy: Strategy
) -> MixturePlanner:
    """The planner of a mixture: the given ones of its parts, or those that suit.

    Args:
        parts: by name.
        read: the data set of each.
        strategy: see :class:`MixturePlanner`.
    """
    weights = [part.weight for part in parts.values()] if strategy == "weighted" else None
    planners = [part.planner or suitable_planner(read[name]) for name, part in parts.items()]
    return MixturePlanner(planners, strategy, weights)
