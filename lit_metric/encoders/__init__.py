"""Encoders: from texts and sets of texts to vectors, without padding where a check finds equal results."""

from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders.backbone import Backbone
from lit_metric.encoders.base import Encoder
from lit_metric.encoders.composed import SetEncoder, TwoTowerEncoder
from lit_metric.encoders.composing import ComposedPooling
from lit_metric.encoders.conjunction import ConjunctionPooling
from lit_metric.encoders.distillation import distill
from lit_metric.encoders.merging import merge_encoders
from lit_metric.encoders.pooling import (
    AttentionPooling,
    CLSPooling,
    LastTokenPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
    Projection,
)
from lit_metric.encoders.static import StaticEncoder
from lit_metric.encoders.text import TextEncoder, frozen_encoder
from lit_metric.encoders.tokenizer import TextTokenizer
from lit_metric.renamed import refuse_old_names

__all__ = [
    "AttentionPooling",
    "Backbone",
    "CLSPooling",
    "ComposedPooling",
    "ConjunctionPooling",
    "Encoder",
    "EncoderInput",
    "LastTokenPooling",
    "MaxPooling",
    "MeanPooling",
    "Pooling",
    "Projection",
    "SetEncoder",
    "StaticEncoder",
    "TextEncoder",
    "TextTokenizer",
    "TwoTowerEncoder",
    "distill",
    "frozen_encoder",
    "merge_encoders",
]

refuse_old_names(__name__)
