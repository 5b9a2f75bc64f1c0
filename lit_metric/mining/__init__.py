"""Hard negatives: propose candidates, filter out those that may be positives, draw some for each batch."""

from lit_metric.mining.candidates import Candidates, PositiveScores
from lit_metric.mining.draw import Draw, Moment, Pool, SimANS, TopK, UniformWindow, WeightedDraw, WithRandom
from lit_metric.mining.files import TableError, collect, versions
from lit_metric.mining.filters import AbsoluteMax, MarginFilter, NegativeFilter, PercentageFilter, RankWindow
from lit_metric.mining.miner import Miner
from lit_metric.mining.positives import positive_scores
from lit_metric.mining.propose import NeighbourProposer, Proposer, RandomProposer
from lit_metric.mining.source import TableNegatives
from lit_metric.mining.table import NegativeTable

__all__ = [
    "AbsoluteMax",
    "Candidates",
    "Draw",
    "MarginFilter",
    "Miner",
    "Moment",
    "NegativeFilter",
    "NegativeTable",
    "NeighbourProposer",
    "PercentageFilter",
    "Pool",
    "PositiveScores",
    "Proposer",
    "RandomProposer",
    "RankWindow",
    "SimANS",
    "TableError",
    "TableNegatives",
    "TopK",
    "UniformWindow",
    "WeightedDraw",
    "WithRandom",
    "collect",
    "positive_scores",
    "versions",
]
