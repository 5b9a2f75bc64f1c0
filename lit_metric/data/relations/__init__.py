"""What is known about which items belong together; one class for each kind of knowledge."""

from lit_metric.data.relations.base import Relations, UnionRelations
from lit_metric.data.relations.labels import LabelRelations, MultiLabelRelations
from lit_metric.data.relations.pairs import PairRelations

__all__ = ["LabelRelations", "MultiLabelRelations", "PairRelations", "Relations", "UnionRelations"]
