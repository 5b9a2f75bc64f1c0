"""Losses between anchors and candidates under masks of positive and negative pairs, exact across ranks."""

from lit_metric.losses.adversarial import AdversarialLoss
from lit_metric.losses.angular import AngularLoss
from lit_metric.losses.asymmetric import AsymmetricLoss
from lit_metric.losses.base import Loss, LossContext, LossOutput, MetricLoss, VectorLoss
from lit_metric.losses.circle import CircleLoss
from lit_metric.losses.class_weights import ClassWeightedLoss, effective_number_weights
from lit_metric.losses.combine import CombinedLoss, MatryoshkaLoss, SumLoss, SymmetricLoss
from lit_metric.losses.contrastive import ContrastiveLoss
from lit_metric.losses.cosent import CoSENTLoss, cosent
from lit_metric.losses.deduplicated import DeduplicatedLoss
from lit_metric.losses.distillation import DistillationKLLoss
from lit_metric.losses.extended import ExtendedPairs
from lit_metric.losses.frozen_corpus import FrozenCorpus
from lit_metric.losses.gather import (
    gather_ids,
    gather_with_grad,
    own_share,
    rank,
    shared_generator,
    sum_over_ranks,
    world_size,
)
from lit_metric.losses.guided import GuidedLoss, too_similar
from lit_metric.losses.hardest_hinge import HardestHingeLoss
from lit_metric.losses.icnn import ICNNLoss
from lit_metric.losses.info_nce import InfoNCELoss
from lit_metric.losses.lifted_structure import LiftedStructureLoss
from lit_metric.losses.margin_mse import MarginMSELoss
from lit_metric.losses.memory import CandidateBank, CandidateMemory
from lit_metric.losses.multi_similarity import MultiSimilarityLoss
from lit_metric.losses.n_pair import NPairLoss, TupletLoss, tuplet
from lit_metric.losses.nca import NCALoss, nca
from lit_metric.losses.noise import NoiseNegatives
from lit_metric.losses.norm_ratio import NormRatioLoss
from lit_metric.losses.pair_logistic import PairLogisticLoss
from lit_metric.losses.pairs import (
    DensePairs,
    ItemRelations,
    LabelPairs,
    PairBlock,
    Pairs,
    PairsWrapper,
    RelationPairs,
)
from lit_metric.losses.parts import Part, Parts, masked_mean, share
from lit_metric.losses.prototypes import PrototypeLoss, PrototypeTripletLoss, PrototypicalLoss
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.proxy_anchor import ProxyAnchorLoss
from lit_metric.losses.proxy_nca import ProxyNCALoss
from lit_metric.losses.rare_events import RareEventMemoryLoss
from lit_metric.losses.scores import Distance, prepare, similarity, unit
from lit_metric.losses.soft_triple import SoftTripleLoss
from lit_metric.losses.triplet import TripletLoss
from lit_metric.losses.whitening_mse import WhiteningMSELoss
from lit_metric.renamed import refuse_old_names

__all__ = [
    "AdversarialLoss",
    "AngularLoss",
    "AsymmetricLoss",
    "CandidateBank",
    "CandidateMemory",
    "CircleLoss",
    "ClassWeightedLoss",
    "CoSENTLoss",
    "CombinedLoss",
    "ContrastiveLoss",
    "DeduplicatedLoss",
    "DensePairs",
    "Distance",
    "DistillationKLLoss",
    "ExtendedPairs",
    "FrozenCorpus",
    "GuidedLoss",
    "HardestHingeLoss",
    "ICNNLoss",
    "InfoNCELoss",
    "ItemRelations",
    "LabelPairs",
    "LiftedStructureLoss",
    "Loss",
    "LossContext",
    "LossOutput",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MetricLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairLoss",
    "NoiseNegatives",
    "NormRatioLoss",
    "PairBlock",
    "PairLogisticLoss",
    "Pairs",
    "PairsWrapper",
    "Part",
    "Parts",
    "PrototypeLoss",
    "PrototypeTripletLoss",
    "PrototypicalLoss",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "RareEventMemoryLoss",
    "RelationPairs",
    "SoftTripleLoss",
    "SumLoss",
    "SymmetricLoss",
    "TripletLoss",
    "TupletLoss",
    "VectorLoss",
    "WhiteningMSELoss",
    "cosent",
    "effective_number_weights",
    "gather_ids",
    "gather_with_grad",
    "masked_mean",
    "nca",
    "own_share",
    "prepare",
    "rank",
    "share",
    "shared_generator",
    "similarity",
    "sum_over_ranks",
    "too_similar",
    "tuplet",
    "unit",
    "world_size",
]

refuse_old_names(__name__)
