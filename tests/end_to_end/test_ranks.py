"""Two processes train, mine, evaluate and resume as one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lit_metric
from tests.distributed import RankPool
from tests.end_to_end import ranks
from tests.small import Small, distance, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def both(
    small: Small, folder: Path, pool: RankPool, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same fit in this process and on two ranks."""
    alone = ranks.fit(small.root, folder / "alone", 1, **options)
    return alone, pool.run(_fit, small.root, folder / "ranks", options)


def _fit(root: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    return ranks.fit(root, folder, 2, **options)


@pytest.mark.parametrize("negatives", [0, 3])
def test_one_step(small: Small, tmp_path: Path, pool: RankPool, negatives: int) -> None:
    alone, shared = both(small, tmp_path, pool, max_steps=1, negatives=negatives)
    start = ranks.weights(small.learner(ranks.InfoNCELoss(0.2, learnable=True)).double())
    assert distance(alone["weights"], start) > 1e-3
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-9
    assert np.mean([rank["losses"] for rank in shared]) == pytest.approx(alone["losses"][0], abs=1e-12)
    # Each has its share of what one process has.
    assert shared[0]["candidates"][0] != shared[1]["candidates"][0]
    union = [item for rank in shared for item in rank["candidates"][0]]
    assert sorted(union) == sorted(alone["candidates"][0])
    assert len(union) == len(set(union))
    assert (len(union) > 12) == (negatives > 0)


def test_whole_fits_with_mining_between_epochs(small: Small, tmp_path: Path, pool: RankPool) -> None:
    alone, shared = both(small, tmp_path, pool, max_epochs=3, negatives=2, report=True)
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-7
        names = {name for name in alone["metrics"] if name.startswith("val/")}
        assert {name: rank["metrics"][name] for name in names} == pytest.approx(
            {name: alone["metrics"][name] for name in names}, abs=1e-6
        )
    assert np.mean([rank["losses"] for rank in shared], axis=0) == pytest.approx(alone["losses"], abs=1e-7)
    reports = [json.loads((tmp_path / of / "metrics.json").read_text()) for of in ("alone", "ranks")]
    for part in ("before", "after"):
        assert reports[1][part] == pytest.approx(reports[0][part], abs=1e-6)
    assert reports[1]["steps"] == reports[0]["steps"] == 15
    assert reports[1]["texts"] == reports[0]["texts"]


def test_resuming_in_mid_epoch(small: Small, tmp_path: Path, pool: RankPool) -> None:
    options = {"max_epochs": 3, "negatives": 2, "dropout": 0.2}
    whole = pool.run(_fit, small.root, tmp_path, {**options, "save": 7})
    rest = pool.run(_fit, small.root, tmp_path, {**options, "resume": tmp_path / "7.ckpt"})
    for before, after in zip(whole, rest, strict=True):
        assert after["candidates"] == before["candidates"][7:]
        assert after["losses"] == before["losses"][7:]
        assert distance(after["weights"], before["weights"]) == 0
    # Dropout is not that of the other rank.
    assert whole[0]["losses"] != whole[1]["losses"]


def test_both_plan_the_batches_that_one_plans_by_vectors(
    small: Small, tmp_path: Path, pool: RankPool
) -> None:
    alone, shared = both(small, tmp_path, pool, max_epochs=3, negatives=1, hard=True)
    for step, met in enumerate(alone["candidates"]):
        assert sorted(item for rank in shared for item in rank["candidates"][step]) == sorted(met)
    plain = ranks.fit(small.root, tmp_path / "plain", 1, max_epochs=1, negatives=1)
    assert plain["candidates"][0] != alone["candidates"][0]
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-7


def test_one_goes_on_where_two_left_off(small: Small, tmp_path: Path, pool: RankPool) -> None:
    options = {"max_epochs": 3, "negatives": 2}
    whole = pool.run(_fit, small.root, tmp_path, {**options, "save": 7})[0]
    alone = ranks.fit(small.root, tmp_path, 1, tmp_path / "7.ckpt", **options)
    assert distance(alone["weights"], whole["weights"]) < 1e-7


@pytest.mark.parametrize("max_tokens", [60, 16384])
def test_evaluation_and_predictions(small: Small, tmp_path: Path, pool: RankPool, max_tokens: int) -> None:
    alone = ranks.evaluate(small.root, tmp_path / "alone", 1, max_tokens)
    for rank in pool.run(ranks.evaluate, small.root, tmp_path / "ranks", 2, max_tokens):
        assert rank == pytest.approx(alone, abs=1e-6)
    whole = np.load(tmp_path / "alone" / "predictions.npy")
    shared = np.load(tmp_path / "ranks" / "predictions.npy")
    np.testing.assert_allclose(shared, whole, atol=1e-6)
    assert len(shared) == 30
    assert not [*(tmp_path / "ranks").glob("predictions.shards")]


LORA = {"peft_type": "LORA", "r": 2, "init_lora_weights": False}


def _encoder(small: Small, adapter: dict[str, Any] | None) -> lit_metric.TextEncoder:
    torch.manual_seed(0)
    return lit_metric.TextEncoder(small / "backbone", adapter=adapter)


def _sharded(root: Path, folder: Path, adapter: dict[str, Any] | None) -> tuple[str, str]:
    """Errors of a run that shards weights, and of saving a sharded encoder; rank zero saves it gathered."""
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    ranks.quiet()
    small = Small(root)
    strategy = ModelParallelStrategy(save_distributed_checkpoint=False)
    run = trainer(folder, **{**ranks.places(2), "strategy": strategy})
    with pytest.raises(ValueError, match="several processes") as refused:
        run.fit(lit_metric.MetricLearner(_encoder(small, adapter), ranks.InfoNCELoss(0.2)), small.data())
    encoder: Any = _encoder(small, adapter)
    _scale(encoder)
    for layer in encoder.backbone.model.encoder.layer:
        fully_shard(layer)
    fully_shard(encoder)
    with pytest.raises(ValueError, match="several processes") as unsaved:
        encoder.save(folder / "sharded")
    whole = _encoder(small, adapter)
    whole.load_state_dict(get_model_state_dict(encoder, options=StateDictOptions(full_state_dict=True)))
    if torch.distributed.get_rank() == 0:
        whole.save(folder / "whole")
    return str(refused.value), str(unsaved.value)


def _scale(encoder: lit_metric.Encoder) -> None:
    """Change what is trained."""
    with torch.no_grad():
        for value in encoder.parameters():
            if value.requires_grad:
                value.mul_(1.5)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["all", "lora"])
def test_sharded_weights_are_refused_and_can_be_gathered(
    adapter: dict[str, Any] | None, small: Small, tmp_path: Path, pool: RankPool
) -> None:
    if adapter is not None:
        pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")
    for refused, unsaved in pool.run(_sharded, small.root, tmp_path, adapter):
        assert "can't use ModelParallelStrategy" in refused
        assert "Take strategy ddp" in refused
        assert "gather them by get_model_state_dict" in unsaved
    assert not (tmp_path / "sharded").exists()
    expected = _encoder(small, adapter)
    _scale(expected)
    found = lit_metric.load(tmp_path / "whole")
    assert distance(ranks.weights(found), ranks.weights(expected)) == 0
    assert distance(ranks.weights(found), ranks.weights(_encoder(small, adapter))) > 1e-3
