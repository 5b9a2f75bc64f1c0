"""Losses between anchors and candidates under masks of positive and negative pairs, exact across ranks."""

from lit_metric.losses.angular import AngularLoss, angular
from lit_metric.losses.base import Loss, LossOutput, MetricLoss, Part, Parts, VectorLoss, masked_mean, share
from lit_metric.losses.circle import CircleLoss, circle
from lit_metric.losses.class_weights import ClassWeightedLoss, WeightedAnchors, effective_number_weights
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.contrastive import ContrastiveLoss, contrastive
from lit_metric.losses.cosent import CoSENTLoss, cosent
from lit_metric.losses.distillation import DistillationKLLoss, distillation_kl
from lit_metric.losses.gather import gather_ids, gather_with_grad, rank, sum_over_ranks, world_size
from lit_metric.losses.guided import GuidedLoss, GuidedPairs, too_alike
from lit_metric.losses.info_nce import InfoNCELoss, info_nce
from lit_metric.losses.lifted_structure import LiftedStructureLoss, lifted_structure
from lit_metric.losses.margin_mse import MarginMSELoss, margin_mse
from lit_metric.losses.matryoshka import MatryoshkaLoss
from lit_metric.losses.multi_similarity import MultiSimilarityLoss, informative, multi_similarity
from lit_metric.losses.n_pair import NPairLoss, pair_norms
from lit_metric.losses.nca import NCALoss, nca
from lit_metric.losses.pair_logistic import PairLogisticLoss, pair_logistic
from lit_metric.losses.pairs import DensePairs, PairBlock, Pairs, RelationPairs
from lit_metric.losses.proxies import ProxyLoss, SameClass, allocate_saved
from lit_metric.losses.proxy_anchor import ProxyAnchorLoss, proxy_anchor
from lit_metric.losses.proxy_nca import ProxyNCALoss, proxy_nca
from lit_metric.losses.scores import Distance, prepare, similarity, unit
from lit_metric.losses.soft_triple import SoftTripleLoss, soft_triple
from lit_metric.losses.sum import SumLoss
from lit_metric.losses.triplet import TripletLoss, batch_all, batch_hard, batch_semi_hard
from lit_metric.losses.tuplet import TupletLoss, tuplet
from lit_metric.renamed import refuse_old_names

__all__ = [
    "AngularLoss",
    "CircleLoss",
    "ClassWeightedLoss",
    "CoSENTLoss",
    "CombinedLoss",
    "ContrastiveLoss",
    "DensePairs",
    "Distance",
    "DistillationKLLoss",
    "GuidedLoss",
    "GuidedPairs",
    "InfoNCELoss",
    "LiftedStructureLoss",
    "Loss",
    "LossOutput",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MetricLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairLoss",
    "PairBlock",
    "PairLogisticLoss",
    "Pairs",
    "Part",
    "Parts",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "RelationPairs",
    "SameClass",
    "SoftTripleLoss",
    "SumLoss",
    "TripletLoss",
    "TupletLoss",
    "VectorLoss",
    "WeightedAnchors",
    "allocate_saved",
    "angular",
    "batch_all",
    "batch_hard",
    "batch_semi_hard",
    "circle",
    "contrastive",
    "cosent",
    "distillation_kl",
    "effective_number_weights",
    "gather_ids",
    "gather_with_grad",
    "info_nce",
    "informative",
    "lifted_structure",
    "margin_mse",
    "masked_mean",
    "multi_similarity",
    "nca",
    "pair_logistic",
    "pair_norms",
    "prepare",
    "proxy_anchor",
    "proxy_nca",
    "rank",
    "share",
    "similarity",
    "soft_triple",
    "sum_over_ranks",
    "too_alike",
    "tuplet",
    "unit",
    "world_size",
]

refuse_old_names(__name__)
