"""The LightningModules."""

from lit_metric.modules.learner import MetricLearner
from lit_metric.modules.two_tower import TwoTowerLearner

__all__ = ["MetricLearner", "TwoTowerLearner"]
