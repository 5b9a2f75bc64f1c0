"""What is known about which items belong together; one class for each kind of knowledge."""

from lit_metric.data.relations.base import Relations
from lit_metric.data.relations.labels import LabelRelations
from lit_metric.data.relations.multi_label import MultiLabelRelations
from lit_metric.data.relations.pairs import PairRelations
from lit_metric.data.relations.union import UnionRelations

__all__ = ["LabelRelations", "MultiLabelRelations", "PairRelations", "Relations", "UnionRelations"]
