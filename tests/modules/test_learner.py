"""The training step against a loop, and what surrounds it: rates, modes, dropout, precision, predictions."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lit_metric import MetricLearner, Miner, Refresh, SetEncoder, TextEncoder
from lit_metric.batching import BatchPlanner, NPairPlanner, Plan
from lit_metric.data import Batch
from lit_metric.data.ragged import Ragged
from lit_metric.losses import InfoNCELoss, NPairLoss
from tests.small import Small, Watch, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def naive_info_nce(vectors: np.ndarray, labels: list[str], texts: list[str], temperature: float) -> float:
    """InfoNCE over all pairs of a batch whose items are anchors and candidates alike, as in a book."""
    terms = []
    for anchor in range(len(labels)):
        similar = [math.exp(float(vectors[anchor] @ other) / temperature) for other in vectors]
        negatives = [
            similar[other]
            for other in range(len(labels))
            if labels[other] != labels[anchor] and texts[other] != texts[anchor]
        ]
        positives = [
            similar[other]
            for other in range(len(labels))
            if labels[other] == labels[anchor] and other != anchor
        ]
        terms.append(np.mean([-math.log(one / (one + sum(negatives))) for one in positives]))
    return float(np.mean(terms))


def test_the_loss_of_a_step_is_that_of_its_texts(small: Small, tmp_path: Path) -> None:
    data, learner, watch = small.data(), small.learner(InfoNCELoss(0.5)), Watch()
    untrained = small.learner().encoder
    trainer(tmp_path, watch, max_steps=1).fit(learner, data)
    ids = watch.anchors[0]
    assert ids == watch.candidates[0]
    texts = [data.texts_of(item)[0] for item in ids]
    labels = [data.relations.classes[data.relations.labels[item]] for item in ids]
    assert len(set(labels)) == 4
    assert watch.losses == [
        pytest.approx(naive_info_nce(untrained.encode(texts), labels, texts, 0.5), rel=1e-5)
    ]


def test_a_step_moves_all_weights_by_the_gradient_of_that_loss(small: Small, tmp_path: Path) -> None:
    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            self.batch = batch

    keep, learner, expected = Keep(), small.learner().double(), small.learner().double()
    data = small.data()
    trainer(tmp_path, keep, max_steps=1).fit(learner, data)
    batch = keep.batch
    expected.train()
    vectors = torch.nn.functional.normalize(expected(batch)[batch.anchors], dim=1)
    logits = vectors @ vectors.T / 0.2
    labels, losses = data.relations.labels[batch.anchor_ids].tolist(), []
    for anchor, label in enumerate(labels):
        others = [other for other in range(len(labels)) if labels[other] != label]
        positives = [other for other in range(len(labels)) if labels[other] == label and other != anchor]
        terms = [logits[anchor, [one, *others]].logsumexp(0) - logits[anchor, one] for one in positives]
        losses.append(torch.stack(terms).mean())
    torch.stack(losses).mean().backward()
    matrices = [each for each in expected.parameters() if each.requires_grad and each.ndim > 1]
    gains = [each for each in expected.parameters() if each.requires_grad and each.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": gains, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3).step()
    assert distance(weights(learner), weights(expected)) < 1e-9
    assert distance(weights(learner), weights(small.learner().double())) > 5e-4


def test_training_lowers_the_loss(small: Small, tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path, watch, max_epochs=8).fit(small.learner(), small.data())
    assert sum(watch.losses[-5:]) < 0.7 * sum(watch.losses[:5])


def test_rates_rise_then_fall_and_parts_have_their_own(small: Small, tmp_path: Path) -> None:
    watch = Watch()
    learner = small.learner(
        lr=0.01, warmup=0.2, lr_scale={"encoder.backbone.model.embeddings": 0.1}, weight_decay=0
    )
    fit = trainer(tmp_path, watch)
    fit.fit(learner, small.data())
    # 10 steps, 2 of them warm-up, then straight down.
    expected = [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    peaks = [0.001 if "embeddings" in group["name"] else 0.01 for group in fit.optimizers[0].param_groups]
    assert set(peaks) == {0.001, 0.01}
    for peak, rates in zip(peaks, zip(*watch.rates, strict=True), strict=True):
        assert rates == pytest.approx([peak * share for share in expected])
    assert fit.global_step == 10


def test_frozen_parts_and_a_learned_temperature(small: Small, tmp_path: Path) -> None:
    encoder = TextEncoder(small / "backbone", freeze=["embeddings", "encoder.layer.0"], dropout=0.1)
    learner = MetricLearner(encoder, InfoNCELoss(0.2, learnable=True), lr=1e-3)
    before = weights(learner)
    fit = trainer(tmp_path)
    fit.fit(learner, small.data())
    after = weights(learner)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "loss.log_temperature" in moved
    assert any("layer.1." in name for name in moved)
    assert not any("embeddings" in name or "layer.0." in name for name in moved)
    in_optimizer = {
        id(parameter) for group in fit.optimizers[0].param_groups for parameter in group["params"]
    }
    names = {name for name, parameter in learner.named_parameters() if id(parameter) in in_optimizer}
    assert moved <= names
    assert names == {name for name, parameter in learner.named_parameters() if parameter.requires_grad}


class Modes(pl.Callback):
    """Which modules are in evaluation mode in each training batch."""

    def __init__(self) -> None:
        self.evaluating: list[set[str]] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.evaluating.append({name for name, module in pl_module.named_modules() if not module.training})


def test_dropout_works_from_the_first_step_and_a_frozen_backbone_has_none(
    small: Small, tmp_path: Path
) -> None:
    modes = Modes()
    trainer(tmp_path, modes, max_epochs=2).fit(small.learner(dropout=0.1), small.data())
    assert modes.evaluating == [set()] * 10
    modes = Modes()
    encoder = TextEncoder(small / "backbone", projection=8, freeze=True, dropout=0.1)
    trainer(tmp_path, modes).fit(MetricLearner(encoder, InfoNCELoss()), small.data())
    assert all("encoder.backbone.model" in evaluating for evaluating in modes.evaluating)
    assert not any("encoder.projection" in evaluating for evaluating in modes.evaluating)


class Waste(pl.Callback):
    """Uses up random numbers between the batches."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.rand(3)


def test_dropout_depends_on_seed_and_step_and_nothing_else(small: Small, tmp_path: Path) -> None:
    class Same(BatchPlanner):
        """The same batch, again and again."""

        def plan(self, ids: torch.Tensor, relations: Any, seed: int, epoch: int) -> Plan:
            items = Ragged.from_lengths(ids[:12].repeat(4), torch.full((4,), 12))
            return Plan(items, items)

    def losses(*callbacks: pl.Callback, dropout: float = 0.3, seed: int = 0, **options: Any) -> list[float]:
        # A rate of next to nothing: the weights stay, and what differs is dropout.
        watch, learner = Watch(), small.learner(dropout=dropout, lr=1e-30, weight_decay=0)
        data = small.data(seed=seed, planner=Same(), validation=small / "test.csv")
        trainer(tmp_path, watch, *callbacks, max_epochs=1, **options).fit(learner, data)
        return watch.losses

    torch.manual_seed(1)
    once = losses()
    assert len(set(once)) == 4
    torch.manual_seed(2)
    assert losses(Waste()) == once
    assert not set(losses(seed=1)) & set(once)
    assert len(set(losses(dropout=0.0))) == 1
    # Nor do the batches share their noise that are accumulated for one step.
    assert len(set(losses(accumulate_grad_batches=4))) == 4


def test_bfloat16_scores_in_float32(small: Small, tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Loss(InfoNCELoss):
        def parts(self, scores: torch.Tensor, pairs: Any) -> Any:
            seen.append(scores.dtype)
            return super().parts(scores, pairs)

    losses, final = {}, {}
    for precision in ("32-true", "bf16-mixed"):
        watch, learner = Watch(), small.learner(Loss(0.2))
        fit = trainer(tmp_path, watch, precision=precision)
        fit.fit(learner, small.data())
        losses[precision], final[precision] = watch.losses, fit.callback_metrics
    assert set(seen) == {torch.float32}
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"][0] == pytest.approx(losses["32-true"][0], rel=0.01)
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.1)
    reached = [float(final[precision]["val/map@r"]) for precision in ("32-true", "bf16-mixed")]
    assert reached[0] == pytest.approx(reached[1], abs=0.1)


def test_gradients_are_clipped_under_bfloat16(small: Small, tmp_path: Path) -> None:
    norms: list[tuple[float, float]] = []

    class Learner(MetricLearner):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            before = self.norm()
            super().configure_gradient_clipping(*args, **kwargs)
            norms.append((before, self.norm()))

        def norm(self) -> float:
            gradients = [each.grad for each in self.parameters() if each.grad is not None]
            return math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))

    fit = trainer(tmp_path, precision="bf16-mixed", gradient_clip_val=0.01, max_steps=2)
    fit.fit(Learner(small.learner().encoder, InfoNCELoss(0.05)), small.data())
    assert len(norms) == 2
    assert all(before > 0.02 for before, _ in norms)
    assert [after for _, after in norms] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_true_double_and_half_precision_train(small: Small, tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "64-true", "bf16-true"):
        watch, learner = Watch(), small.learner(InfoNCELoss(0.2))
        fit = trainer(tmp_path, watch, precision=precision, max_epochs=1)
        fit.fit(learner, small.data())
        losses[precision] = watch.losses
        dtypes = {parameter.dtype for parameter in learner.parameters()}
        assert dtypes == {
            {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
        }
        assert math.isfinite(fit.callback_metrics["val/map@r"])
    assert losses["64-true"] == pytest.approx(losses["32-true"], rel=1e-4)
    assert losses["64-true"] != losses["32-true"]
    assert losses["bf16-true"] == pytest.approx(losses["32-true"], rel=0.1)


def test_sets_of_tags_and_n_pairs_train(small: Small, tmp_path: Path) -> None:
    encoder = SetEncoder(TextEncoder(small / "backbone"), projection=16)
    learner, watch = (
        MetricLearner(encoder, NPairLoss(l2=0.002), lr=3e-3, lr_scale={"encoder.pooling": 10}),
        Watch(),
    )
    data = small.data(
        train=small / "train.parquet", test=small / "test.parquet", planner=NPairPlanner(6, batches=5)
    )
    trainer(tmp_path, watch, max_epochs=6).fit(learner, data)
    assert data.items.kind == "set"
    assert len(data.vocabulary) < 60 < len(data.items)  # each tag is encoded once
    assert sum(watch.losses[-5:]) < 0.8 * sum(watch.losses[:5])
    assert float(encoder.pooling.query.detach().abs().max()) > 0
    labels = data.relations.labels
    for anchors, candidates in zip(watch.anchors, watch.candidates, strict=True):
        assert labels[anchors].tolist() == labels[candidates].tolist()
        assert len(set(labels[anchors].tolist())) == 6
        assert not set(anchors) & set(candidates)


def test_only_our_data_module_will_do(small: Small, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="MetricLearner needs a MetricDataModule, got NoneType"):
        trainer(tmp_path).fit(small.learner(), torch.utils.data.DataLoader([0]))


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"weight_decay": -1.0}, {"warmup": 1.0}, {"warmup": -0.1}])
def test_numbers_out_of_range_are_refused(small: Small, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lr=.* must be > 0, weight_decay=.* >= 0, warmup=.* in \[0, 1\)"):
        small.learner(**options)


def test_an_odd_name_among_the_scales_is_told_before_training(small: Small, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no parameter is called 'pooling'; there are encoder\.backbone"):
        trainer(tmp_path).fit(small.learner(lr_scale={"pooling": 2.0}), small.data())


def test_mining_changes_the_gradient(small: Small, tmp_path: Path) -> None:
    learners = [small.learner(), small.learner()]
    for learner, miner in zip(learners, (None, Miner(top_k=4, negatives=2)), strict=True):
        data = small.data(miner=miner, refresh=Refresh(mode="inline"))
        trainer(tmp_path, max_steps=2).fit(learner, data)
    assert distance(weights(learners[0]), weights(learners[1])) > 1e-5


@pytest.mark.parametrize("kind", [ModelParallelStrategy, FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_keep_weights_in_pieces_are_refused(small: Small, kind: type) -> None:
    learner = small.learner()
    learner._trainer = SimpleNamespace(strategy=kind.__new__(kind))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"can't use {kind.__name__}.* recompute: layers"):
        learner.setup("predict")
