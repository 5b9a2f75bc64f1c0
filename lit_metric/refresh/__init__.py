"""When negatives are mined again: before the first batch, with training stopped, or in a worker process."""

from lit_metric.refresh.background import BackgroundRefresher, start_refresher
from lit_metric.refresh.client import MiningFailed
from lit_metric.refresh.refresher import InlineRefresher, Refresher, TrainingRun
from lit_metric.refresh.schedule import Refresh
from lit_metric.refresh.spec import MiningTask

__all__ = [
    "BackgroundRefresher",
    "InlineRefresher",
    "MiningFailed",
    "MiningTask",
    "Refresh",
    "Refresher",
    "TrainingRun",
    "start_refresher",
]
