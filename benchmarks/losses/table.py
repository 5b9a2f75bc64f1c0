"""What is compared: the data sets with their budgets, and the losses with their settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.banking77 import files
from benchmarks.results import REPOSITORY, digest
from benchmarks.short_fits import short
from benchmarks.tagged_items import SHIPPED
from lit_metric.cli.training import resolved

Spec = dict[str, Any]


def loss_of(name: str, **arguments: Any) -> Spec:
    """The class and arguments of a loss, as a YAML has them."""
    return {"class_path": f"lit_metric.losses.{name}", "init_args": arguments}


def planner_of(name: str, **arguments: Any) -> Spec:
    """The class and arguments of a planner, as a YAML has them."""
    return {"class_path": f"lit_metric.batching.{name}", "init_args": arguments}


@dataclass(frozen=True)
class Setup:
    """A data set and how losses are compared on it.

    Args:
        config: YAML file, relative to the repository, whose encoder and data are taken.
        sources: the training and the test file, the latter None where the former holds all splits.
        choose_by: the measure of the validation items by which a learning rate is chosen.
        budget: items that each fit encodes.
        lrs: learning rates to choose from, unless a loss has its own.
        planner: batches of losses that ask for nothing special.
        single: batches of losses that need no two items of a class.
        pairs: the same number of items, two of each class of the batch, each an anchor.
        n_pair: the same, where the first is an anchor and the second its candidate.
        grouped: batches of as many items as ``pairs``, of fewer classes with more items each.
        protocol: who searches whom, in words.
        data: options of the data module, beside those of the config.
    """

    config: str
    sources: Callable[[], tuple[Path, Path | None]]
    choose_by: str
    budget: int
    lrs: tuple[float, ...]
    planner: Spec
    single: Spec
    pairs: Spec
    n_pair: Spec
    grouped: Spec
    protocol: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Of the data; of the config, what counts is kept with each fit."""
        return digest(*(path for path in self.sources() if path is not None))


SETUPS: dict[str, Setup] = {
    "debtags": Setup(
        config="configs/debtags.yaml",
        sources=lambda: (SHIPPED, None),
        choose_by="knn10_accuracy",
        budget=20 * 5362,
        lrs=(3e-4, 1e-3, 3e-3),
        planner=planner_of("ShufflePlanner", batch_size=1024),
        single=planner_of("ShufflePlanner", batch_size=1024),
        pairs=planner_of("PKPlanner", classes=48, per_class=2),
        n_pair=planner_of("NPairPlanner", classes=48),
        grouped=planner_of("PKPlanner", classes=24, per_class=4),
        protocol="training items vote; MAP@R is that of the test items among themselves",
        data={"validation_corpus": "both", "test_corpus": "both"},
    ),
    "banking77": Setup(
        config="configs/banking77.yaml",
        sources=lambda: files("test", Path()),
        choose_by="map@r",
        budget=5120,
        lrs=(1e-4, 3e-4, 9e-4),
        planner=planner_of("PKPlanner", classes=32, per_class=4),
        single=planner_of("ShufflePlanner", batch_size=128),
        pairs=planner_of("PKPlanner", classes=64, per_class=2),
        n_pair=planner_of("NPairPlanner", classes=64),
        grouped=planner_of("PKPlanner", classes=32, per_class=4),
        protocol="each text against the others of its split; validation has a tenth of the training texts",
        data={"validation_corpus": "self", "test_corpus": "self"},
    ),
}


@dataclass(frozen=True)
class Entry:
    """A loss and what it is trained with.

    Args:
        loss: its class and arguments.
        batches: which of a set-up's batches suit it.
        lr_scale: factors on the learning rate by the name of a part, as of ``MetricLearner``.
        slower: by how much its learning rates are smaller than the set-up's.
        note: what differs from the entry that a reader would look at first.
    """

    loss: Spec
    batches: str = "planner"
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    slower: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def planner(self, setup: Setup) -> Spec:
        """The batches of a set-up that suit it."""
        planner: Spec = getattr(setup, self.batches)
        return planner

    def lrs(self, data: str, setup: Setup) -> tuple[float, ...]:
        """The learning rates to choose from, ascending."""
        return tuple(float(f"{lr / self.slower.get(data, 1.0):.3g}") for lr in setup.lrs)


# A batch of a tenth of the items makes ten times the steps.
SMALL = {"debtags": 10**0.5}
# Batch-hard triplets collapse at rates that other losses bear (arXiv 2210.11173).
HARD = {"debtags": 10.0, "banking77": 10**0.5}
PROXIES = {"loss.proxies": 100.0}
INFO_NCE = loss_of("InfoNCELoss", temperature=0.05)
TRIPLET = {"margin": 0.2, "average": "active"}
BATCH_HARD = loss_of("TripletLoss", mining="hard", margin="soft", distance="euclidean")

LOSSES: dict[str, Entry] = {
    "contrastive": Entry(loss_of("ContrastiveLoss")),
    "contrastive_wide": Entry(
        loss_of("ContrastiveLoss", margin=1.4),
        note="a margin of nearly √2, where unrelated vectors are",
    ),
    "triplet_all": Entry(loss_of("TripletLoss", mining="all", **TRIPLET)),
    "triplet_semi_hard": Entry(loss_of("TripletLoss", mining="semi_hard", **TRIPLET)),
    "triplet_hard": Entry(BATCH_HARD, "grouped", slower=HARD),
    "tuplet": Entry(loss_of("TupletLoss")),
    "n_pair": Entry(loss_of("NPairLoss"), "n_pair", slower=SMALL),
    "info_nce": Entry(INFO_NCE),
    "sup_con": Entry(loss_of("InfoNCELoss", temperature=0.1, positives_in_denominator=True)),
    "nca": Entry(loss_of("NCALoss", temperature=0.05)),
    # It looks at each triplet: a shuffled batch of a thousand packages has a hundred million.
    "pair_logistic": Entry(loss_of("PairLogisticLoss"), "grouped", slower=SMALL),
    "multi_similarity": Entry(loss_of("MultiSimilarityLoss")),
    "circle": Entry(loss_of("CircleLoss")),
    "lifted_structure": Entry(loss_of("LiftedStructureLoss")),
    "angular": Entry(loss_of("AngularLoss"), "grouped", slower=SMALL),
    "proxy_nca": Entry(loss_of("ProxyNCALoss"), "single", PROXIES),
    "proxy_anchor": Entry(loss_of("ProxyAnchorLoss"), "single", PROXIES),
    "soft_triple": Entry(loss_of("SoftTripleLoss", centres=5), "single", PROXIES),
    "n_pair_angular": Entry(
        loss_of(
            "SumLoss",
            losses={"n_pair": loss_of("NPairLoss"), "angular": loss_of("AngularLoss")},
            weights={"angular": 2.0},
        ),
        "n_pair",
        slower=SMALL,
        note="SumLoss",
    ),
    "class_weighted": Entry(loss_of("ClassWeightedLoss", loss=INFO_NCE), note="InfoNCE"),
    "triplet_hard_pairs": Entry(
        BATCH_HARD, "pairs", slower=HARD, note="batch-hard triplets in batches of two of each class"
    ),
    "n_pair_grouped": Entry(
        loss_of("NPairLoss"), "grouped", slower=SMALL, note="N-pair in the batches of batch-hard triplets"
    ),
}
"""The last two are the ablation of class-composed batches: each of both losses in the other's batches."""


@functools.cache
def _read(config: Path) -> Spec:
    """A config with all defaults; read once, as that takes as long as a short fit."""
    return resolved("--config", str(config))


def configuration(
    setup: Setup, entry: Entry | None, lr: float, seed: int, precision: str = "32-true"
) -> Spec:
    """What ``lit-metric fit`` would read for a fit, without its length and its reports.

    Args:
        setup: the data and the encoder.
        entry: the loss and its batches, None for those of the config.
        lr: learning rate.
        seed: of weights, batches and validation splits.
        precision: of Lightning's trainer.
    """
    config = short(_read(REPOSITORY / setup.config), lr, seed, precision)
    model, source = config["model"]["init_args"], config["data"]["init_args"]
    train, test = setup.sources()
    source |= {"train": str(train), **({} if test is None else {"test": str(test)}), **setup.data}
    if entry is not None:
        model["loss"], source["planner"] = deepcopy((entry.loss, entry.planner(setup)))
        model["lr_scale"] = {**(model.get("lr_scale") or {}), **entry.lr_scale}
    return config
