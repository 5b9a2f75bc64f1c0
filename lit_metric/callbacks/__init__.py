"""Small callbacks, each for one purpose."""

from lit_metric.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, StopEarly
from lit_metric.callbacks.collapse import CollapseAlarm
from lit_metric.callbacks.mining import MiningCallback
from lit_metric.callbacks.predictions import WriteEmbeddings
from lit_metric.callbacks.projector import EmbeddingProjector
from lit_metric.callbacks.report import RunReport
from lit_metric.callbacks.trec import WriteTrecRun
from lit_metric.renamed import refuse_old_names

__all__ = [
    "BestCheckpoint",
    "CollapseAlarm",
    "EmbeddingProjector",
    "LastCheckpoint",
    "MiningCallback",
    "RunReport",
    "StopEarly",
    "WriteEmbeddings",
    "WriteTrecRun",
]

refuse_old_names(__name__)
