"""When negatives are mined anew: before the first batch, with training stopped, or in a worker process."""

from lit_metric.refresh.schedule import Refresh

__all__ = ["Refresh"]
