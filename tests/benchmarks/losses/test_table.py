"""Every loss that learns from classes is compared, in batches of one size where that is the point."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
import yaml

from benchmarks.losses.table import LOSSES, SETUPS, configuration
from benchmarks.results import REPOSITORY
from benchmarks.tagged_items import SHIPPED
from lit_metric import losses
from lit_metric.batching import BatchPlanner, NPairPlanner, PKPlanner
from lit_metric.losses import Loss

# Of scores, or for another end than a better score.
ELSEWHERE = {
    "CoSENTLoss",
    "MarginMSELoss",
    "DistillationKLLoss",
    "MatryoshkaLoss",
    "GuidedLoss",
    "SymmetricLoss",
    # These have an entry in benchmarks/methods,
    "AdversarialLoss",
    "DeduplicatedLoss",
    "HardestHingeLoss",
    "NoiseNegatives",
    "RareEventMemoryLoss",
    # and these have none yet.
    "AsymmetricLoss",
    "NormRatioLoss",
    "ICNNLoss",
    "PrototypeTripletLoss",
    "PrototypicalLoss",
    "WhiteningMSELoss",
}


def built(spec: Any) -> Any:
    """What a YAML would make of ``class_path`` and ``init_args``."""
    if isinstance(spec, dict) and "class_path" in spec:
        module, _, name = spec["class_path"].rpartition(".")
        return getattr(import_module(module), name)(**built(spec["init_args"]))
    return {key: built(value) for key, value in spec.items()} if isinstance(spec, dict) else spec


def test_every_loss_is_compared_or_measured_elsewhere() -> None:
    concrete = {
        name
        for name, each in vars(losses).items()
        if inspect.isclass(each) and issubclass(each, Loss) and not inspect.isabstract(each)
    }
    compared = {type(module).__name__ for entry in LOSSES.values() for module in built(entry.loss).modules()}
    bases = {"Loss", "MetricLoss", "ProxyLoss", "CombinedLoss"}
    assert concrete - bases - ELSEWHERE == compared & concrete
    assert compared & ELSEWHERE == set()


@pytest.mark.parametrize("data", SETUPS)
def test_the_ablation_of_batches_is_at_one_size(data: str) -> None:
    setup = SETUPS[data]
    grouped, pairs, n_pair = (built(each) for each in (setup.grouped, setup.pairs, setup.n_pair))
    assert isinstance(grouped, PKPlanner)
    assert isinstance(pairs, PKPlanner)
    assert isinstance(n_pair, NPairPlanner)
    assert pairs.per_class == 2 < grouped.per_class
    assert grouped.classes * grouped.per_class == pairs.classes * 2 == n_pair.classes * 2
    assert LOSSES["triplet_hard"].loss == LOSSES["triplet_hard_pairs"].loss
    assert LOSSES["n_pair"].loss == LOSSES["n_pair_grouped"].loss
    batches = [LOSSES[name].batches for name in ("triplet_hard", "n_pair_grouped", "triplet_hard_pairs")]
    assert batches == ["grouped", "grouped", "pairs"]
    assert all(isinstance(built(entry.planner(setup)), BatchPlanner) for entry in LOSSES.values())


def test_a_grid_is_as_much_slower_as_the_loss_asks() -> None:
    setup = SETUPS["debtags"]
    assert LOSSES["nca"].lrs("debtags", setup) == (3e-4, 1e-3, 3e-3)
    assert LOSSES["triplet_hard"].lrs("debtags", setup) == (3e-5, 1e-4, 3e-4)
    assert LOSSES["n_pair"].lrs("debtags", setup) == (9.49e-5, 3.16e-4, 9.49e-4)
    assert LOSSES["n_pair"].lrs("banking77", SETUPS["banking77"]) == (1e-4, 3e-4, 9e-4)


def test_a_configuration_is_that_of_the_project_with_another_loss_rate_and_batches() -> None:
    theirs = yaml.safe_load((REPOSITORY / "configs" / "debtags.yaml").read_text())["model"]["encoder"]
    config = configuration(SETUPS["debtags"], LOSSES["proxy_anchor"], 0.002, 2)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["encoder"]["class_path"].endswith(theirs["class_path"])
    assert model["encoder"]["init_args"]["text"]["init_args"].items() >= theirs["init_args"]["text"].items()
    assert (model["loss"]["class_path"], model["lr"]) == ("lit_metric.losses.ProxyAnchorLoss", 0.002)
    assert model["lr_scale"] == {"loss.proxies": 100.0}
    assert data["planner"]["init_args"] == {"batch_size": 1024}
    assert (data["train"], data["tags"], data["validation_corpus"]) == (str(SHIPPED), "tags", "both")
    assert (config["seed_everything"], config["trainer"]["gradient_clip_val"]) == (2, 1.0)
