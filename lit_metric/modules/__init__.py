"""The LightningModules."""

from lit_metric.modules.learner import MetricLearner

__all__ = ["MetricLearner"]
