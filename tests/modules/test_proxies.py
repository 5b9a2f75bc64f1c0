"""Losses with learned proxies in whole runs: made from the data, trained, saved, resumed, and left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric.batching import EpisodePlanner
from lit_metric.data import PairRelations
from lit_metric.losses import (
    ClassWeightedLoss,
    InfoNCELoss,
    LossContext,
    MatryoshkaLoss,
    PrototypicalLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SumLoss,
)
from tests.small import CLASSES, Small, Watch, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", [ProxyNCALoss, ProxyAnchorLoss])
def test_proxies_are_made_from_the_data_and_move(small: Small, tmp_path: Path, kind: type) -> None:
    learner, watch = small.learner(kind(), lr_scale={"loss.proxies": 20}), Watch()
    fit = trainer(tmp_path, watch, max_epochs=3)
    fit.fit(learner, small.data())
    assert learner.loss.proxies.shape == (CLASSES, learner.encoder.dimension)
    assert watch.losses[-1] < watch.losses[0]
    groups = fit.optimizers[0].param_groups
    [own] = [group for group in groups if any(each is learner.loss.proxies for each in group["params"])]
    assert own["initial_lr"] == pytest.approx(20 * 1e-3)


def test_a_step_s_loss_is_that_of_the_batch_s_texts_and_classes(small: Small, tmp_path: Path) -> None:
    data, learner, watch = small.data(), small.learner(ProxyNCALoss(0.5)), Watch()
    untrained = small.learner().encoder
    torch.manual_seed(3)
    trainer(tmp_path, watch, max_steps=1).fit(learner, data)
    torch.manual_seed(3)
    proxies = torch.nn.init.kaiming_normal_(torch.empty(CLASSES, untrained.dimension), mode="fan_out")
    ids = watch.anchors[0]
    vectors = torch.from_numpy(untrained.encode([data.texts_of(item)[0] for item in ids]))
    classes = data.relations.labels[torch.tensor(ids)]
    vectors, proxies = (torch.nn.functional.normalize(side.float()) for side in (vectors, proxies))
    logits = -torch.cdist(vectors, proxies).square() / 0.5
    expected = torch.nn.functional.cross_entropy(logits, classes).item()
    assert watch.losses == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("memory", [0, 9])
def test_prototypes_have_the_classes_of_all_candidates(small: Small, tmp_path: Path, memory: int) -> None:
    """Those of the support set, and of the support sets before it that a memory holds."""
    data, watch = small.data(planner=EpisodePlanner(ways=3, shots=2, queries=1)), Watch()
    learner = small.learner(PrototypicalLoss(0.5), lr=1e-12, memory=memory)
    trainer(tmp_path, watch, max_steps=3).fit(learner, data)
    learner.encoder.normalize = False
    remembered: list[int] = []
    for anchors, candidates, loss in zip(watch.anchors, watch.candidates, watch.losses, strict=True):
        remembered = [item for item in remembered if item not in candidates]
        known = torch.tensor([*candidates, *remembered])
        own, others = (
            torch.from_numpy(learner.encode([data.texts_of(int(item))[0] for item in ids]))
            for ids in (torch.tensor(anchors), known)
        )
        of_own, of_others = (data.relations.labels[ids] for ids in (torch.tensor(anchors), known))
        classes = of_others.unique()
        centres = torch.stack([others[of_others == each].mean(dim=0) for each in classes])
        logits = torch.cosine_similarity(own[:, None], centres, dim=2) / 0.5
        expected = torch.nn.functional.cross_entropy(logits, torch.searchsorted(classes, of_own))
        assert loss == pytest.approx(expected.item(), rel=1e-4)
        remembered = [*remembered, *sorted(candidates)][-memory:] if memory else []


def test_proxies_are_saved_and_resumed_and_not_needed_for_evaluation(small: Small, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    whole = small.learner(ProxyAnchorLoss())
    trainer(tmp_path, saving, max_epochs=2).fit(whole, small.data())
    middle = str(tmp_path / "saved" / "epoch=0.ckpt")
    resumed = small.learner(ProxyAnchorLoss())
    trainer(tmp_path, max_epochs=2).fit(resumed, small.data(), ckpt_path=middle)
    assert distance(weights(resumed), weights(whole)) == 0
    # A loss that was never built takes what was saved.
    evaluated = small.learner(ProxyAnchorLoss())
    trainer(tmp_path).validate(evaluated, small.data(), ckpt_path=middle, verbose=False)
    saved = torch.load(middle, weights_only=True)["state_dict"]
    assert torch.equal(evaluated.loss.proxies, saved["loss.proxies"])


def test_a_checkpoint_of_another_loss_is_refused(small: Small, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", filename="last")
    trainer(tmp_path, saving, max_steps=1).fit(small.learner(ProxyNCALoss()), small.data())
    with pytest.raises(ValueError, match=r"another model: loss.proxies is \(6, \d+\) there and missing here"):
        trainer(tmp_path).fit(
            small.learner(InfoNCELoss()), small.data(), ckpt_path=str(tmp_path / "saved" / "last.ckpt")
        )


def test_a_sum_and_cuts_of_losses_train_and_log_each_part(small: Small, tmp_path: Path) -> None:
    inner = SumLoss({"near": ClassWeightedLoss(InfoNCELoss(0.2)), "own": ProxyNCALoss()}, {"own": 0.5})
    learner, watch = small.learner(MatryoshkaLoss(inner, [8, 4])), Watch()
    fit = trainer(tmp_path, watch, max_epochs=2)
    fit.fit(learner, small.data())
    assert watch.losses[-1] < watch.losses[0]
    logged = {name: float(value) for name, value in fit.callback_metrics.items()}
    by_hand = sum(logged[f"train/dim{n}/near"] + 0.5 * logged[f"train/dim{n}/own"] for n in (8, 4))
    assert logged["train/loss"] == pytest.approx(by_hand, rel=1e-5)
    assert logged["train/dim8/near/anchors_used"] == 1
    saving = tmp_path / "last.ckpt"
    fit.save_checkpoint(saving)
    again = small.learner(MatryoshkaLoss(SumLoss({"near": InfoNCELoss(0.2), "own": ProxyNCALoss()}), [8, 4]))
    trainer(tmp_path).validate(again, small.data(), ckpt_path=saving, verbose=False)
    [name] = [name for name in weights(again) if name.endswith("proxies")]
    assert torch.equal(weights(again)[name], weights(learner)[name])


class CountingSteps(InfoNCELoss):
    """Notes its setup and the steps of the optimizer."""

    def __init__(self) -> None:
        super().__init__(0.2)
        self.contexts: list[LossContext] = []
        self.steps = 0

    def setup(self, context: LossContext) -> None:
        self.contexts.append(context)

    def after_step(self) -> None:
        self.steps += 1


def test_every_loss_is_set_up_and_told_of_each_step(small: Small, tmp_path: Path) -> None:
    loss, data = CountingSteps(), small.data()
    fit = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    learner = small.learner(SumLoss({"near": loss}))
    fit.fit(learner, data)
    assert 0 < loss.steps == fit.global_step < fit.num_training_batches
    [context] = loss.contexts
    assert context.dimension == learner.encoder.dimension
    assert context.class_counts.tolist() == data.class_counts.tolist()
    assert context.relations is not None


def test_data_without_one_class_for_each_item_are_refused(small: Small, tmp_path: Path) -> None:
    data = small.data()
    data.read()
    first, second = data.splits["train"].split([30, len(data.splits["train"]) - 30])
    count = min(len(first), len(second))
    relations = PairRelations(first[:count], second[:count], None, data.items.fingerprints)
    data._dataset = replace(data.dataset, relations=relations)
    with pytest.raises(TypeError, match="needs one class for each item, and there are PairRelations"):
        trainer(tmp_path).fit(small.learner(ProxyNCALoss()), data)
