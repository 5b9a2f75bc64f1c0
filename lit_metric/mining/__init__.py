"""Hard negatives: propose candidates, filter out those that may be positives, draw some for each batch."""

from lit_metric.mining.candidates import Candidates, PositiveScores, positive_scores
from lit_metric.mining.concepts import ConceptFilter
from lit_metric.mining.draw import Draw, DrawContext, SimANS, TopK, UniformWindow, WeightedDraw, WithRandom
from lit_metric.mining.filters import (
    AbsoluteMargin,
    CeilingFilter,
    DuplicateFilter,
    FloorFilter,
    MaxScore,
    NegativeFilter,
    RankRange,
    RelativeMargin,
)
from lit_metric.mining.guide import CrossEncoderGuide, EncoderGuide, Guide, GuideFilter
from lit_metric.mining.miner import Miner
from lit_metric.mining.propose import (
    ClusterProposer,
    JoinedProposer,
    NeighbourProposer,
    Proposer,
    RandomProposer,
)
from lit_metric.mining.published import TableError, open_vectors
from lit_metric.mining.table import NegativeTable, TableNegatives
from lit_metric.mining.teacher import EncoderProposer
from lit_metric.mining.texts import BM25Proposer, give_texts, write_texts
from lit_metric.renamed import refuse_old_names
from lit_metric.store import collect_versions, versions

__all__ = [
    "AbsoluteMargin",
    "BM25Proposer",
    "Candidates",
    "CeilingFilter",
    "ClusterProposer",
    "ConceptFilter",
    "CrossEncoderGuide",
    "Draw",
    "DrawContext",
    "DuplicateFilter",
    "EncoderGuide",
    "EncoderProposer",
    "FloorFilter",
    "Guide",
    "GuideFilter",
    "JoinedProposer",
    "MaxScore",
    "Miner",
    "NegativeFilter",
    "NegativeTable",
    "NeighbourProposer",
    "PositiveScores",
    "Proposer",
    "RandomProposer",
    "RankRange",
    "RelativeMargin",
    "SimANS",
    "TableError",
    "TableNegatives",
    "TopK",
    "UniformWindow",
    "WeightedDraw",
    "WithRandom",
    "collect_versions",
    "give_texts",
    "open_vectors",
    "positive_scores",
    "versions",
    "write_texts",
]

refuse_old_names(__name__)
