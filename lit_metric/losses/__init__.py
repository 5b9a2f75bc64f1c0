"""Losses between anchors and candidates under masks of positive and negative pairs, exact across ranks."""

from lit_metric.losses.base import Loss, LossOutput, MetricLoss, Part, Parts, masked_mean, share
from lit_metric.losses.contrastive import ContrastiveLoss, contrastive
from lit_metric.losses.gather import gather_ids, gather_with_grad, rank, sum_over_ranks, world_size
from lit_metric.losses.info_nce import InfoNCELoss, info_nce
from lit_metric.losses.n_pair import NPairLoss, pair_norms
from lit_metric.losses.nca import NCALoss, nca
from lit_metric.losses.pairs import DensePairs, PairBlock, Pairs, RelationPairs
from lit_metric.losses.scores import Distance, prepare, similarity, unit
from lit_metric.losses.triplet import TripletLoss, batch_all, batch_hard, batch_semi_hard
from lit_metric.losses.tuplet import TupletLoss, tuplet

__all__ = [
    "ContrastiveLoss",
    "DensePairs",
    "Distance",
    "InfoNCELoss",
    "Loss",
    "LossOutput",
    "MetricLoss",
    "NCALoss",
    "NPairLoss",
    "PairBlock",
    "Pairs",
    "Part",
    "Parts",
    "RelationPairs",
    "TripletLoss",
    "TupletLoss",
    "batch_all",
    "batch_hard",
    "batch_semi_hard",
    "contrastive",
    "gather_ids",
    "gather_with_grad",
    "info_nce",
    "masked_mean",
    "nca",
    "pair_norms",
    "prepare",
    "rank",
    "share",
    "similarity",
    "sum_over_ranks",
    "tuplet",
    "unit",
    "world_size",
]
