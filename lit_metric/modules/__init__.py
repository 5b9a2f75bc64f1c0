"""The LightningModules."""

from lit_metric.modules.learner import MetricLearner
from lit_metric.modules.two_tower import TwoTowerLearner
from lit_metric.renamed import refuse_old_names

__all__ = ["MetricLearner", "TwoTowerLearner"]

refuse_old_names(__name__)
