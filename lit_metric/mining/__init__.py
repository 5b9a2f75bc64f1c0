"""Hard negatives: propose candidates, filter out those that may be positives, draw some for each batch."""

from lit_metric.mining.candidates import Candidates, PositiveScores
from lit_metric.mining.draw import Draw, Moment, Pool, SimANS, TopK, UniformWindow, WeightedDraw, WithRandom
from lit_metric.mining.duplicates import DuplicateFilter
from lit_metric.mining.files import TableError
from lit_metric.mining.filters import (
    AbsoluteMargin,
    CeilingFilter,
    MaxScore,
    NegativeFilter,
    RankRange,
    RelativeMargin,
)
from lit_metric.mining.guide import CrossEncoderGuide, EncoderGuide, Guide, GuideFilter
from lit_metric.mining.joined import JoinedProposer
from lit_metric.mining.lexical import BM25Proposer
from lit_metric.mining.miner import Miner
from lit_metric.mining.near_clusters import ClusterProposer
from lit_metric.mining.positives import positive_scores
from lit_metric.mining.propose import NeighbourProposer, Proposer, RandomProposer
from lit_metric.mining.published import TableVectors
from lit_metric.mining.source import TableNegatives
from lit_metric.mining.table import NegativeTable
from lit_metric.mining.texts import give_texts, write_texts
from lit_metric.renamed import refuse_old_names
from lit_metric.store import collect_versions, versions

__all__ = [
    "AbsoluteMargin",
    "BM25Proposer",
    "Candidates",
    "CeilingFilter",
    "ClusterProposer",
    "CrossEncoderGuide",
    "Draw",
    "DuplicateFilter",
    "EncoderGuide",
    "Guide",
    "GuideFilter",
    "JoinedProposer",
    "MaxScore",
    "Miner",
    "Moment",
    "NegativeFilter",
    "NegativeTable",
    "NeighbourProposer",
    "Pool",
    "PositiveScores",
    "Proposer",
    "RandomProposer",
    "RankRange",
    "RelativeMargin",
    "SimANS",
    "TableError",
    "TableNegatives",
    "TableVectors",
    "TopK",
    "UniformWindow",
    "WeightedDraw",
    "WithRandom",
    "collect_versions",
    "give_texts",
    "positive_scores",
    "versions",
    "write_texts",
]

refuse_old_names(__name__)
