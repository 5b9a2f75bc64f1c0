"""What a resumed run does with options that are not those of its checkpoint: each is applied or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging, Timer

from lit_metric import MetricLearner, Miner, Refresh, TextEncoder
from lit_metric.batching import PKPlanner
from lit_metric.losses import InfoNCELoss, Loss, TripletLoss
from tests.small import Small, Watch, trainer

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 5
"""Batches of an epoch."""

PEAK = 1e-3


def learner(small: Small, loss: Loss | None = None, **options: Any) -> MetricLearner:
    encoder = {name: options.pop(name) for name in ("freeze", "dropout", "backbone") if name in options}
    encoder = {"backbone": small / "backbone", **encoder}
    return MetricLearner(TextEncoder(**encoder), loss or InfoNCELoss(0.2), **{"lr": PEAK, **options})


def checkpoint(small: Small, folder: Path, *callbacks: Any, step: int = 10, **options: Any) -> Path:
    """That of a run of two epochs with a linear fall over all of its 10 steps after one of warm-up."""
    saving = ModelCheckpoint(folder / "ckpt", "{step}", None, None, False, -1, every_n_train_steps=1)
    saving.CHECKPOINT_NAME_LAST = "last"
    fit = trainer(folder, saving, *callbacks, max_epochs=2)
    fit.fit(learner(small, **options), small.data())
    return folder / "ckpt" / f"step={step}.ckpt"


@pytest.fixture(scope="module")
def plain(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of each step of one run with the usual options, to read only."""
    return checkpoint(small, tmp_path_factory.mktemp("plain")).parent


def go_on(
    small: Small, folder: Path, path: Path, *callbacks: Any, data: Any = None, epochs: int = 4, **options: Any
) -> tuple[Watch, Any, MetricLearner]:
    watch, module = Watch(), learner(small, **options)
    fit = trainer(folder, watch, *callbacks, max_epochs=epochs)
    fit.fit(module, data or small.data(), ckpt_path=path)
    return watch, fit, module


def fall(steps: int, start: int, peak: float = PEAK) -> list[float]:
    """Rates by hand: one tenth of the steps of warm-up, then down to 0."""
    warmup = round(0.1 * steps)
    return [peak * (1 - (step - warmup) / (steps - warmup)) for step in range(start, steps)]


def test_a_raised_length_goes_on_along_the_new_plan(
    small: Small, tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = plain / "step=10.ckpt"
    caplog.set_level(logging.INFO)
    watch, _, _ = go_on(small, tmp_path, path)
    assert [rates[0] for rates in watch.rates] == pytest.approx(fall(20, 10))
    assert "differ from the checkpoint's apply from step 10 on: planned steps 10 → 20" in caplog.text


@pytest.mark.parametrize("step", [7, 10])
def test_another_rate_decay_and_scale_count_from_the_next_step(
    small: Small, tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    path = plain / f"step={step}.ckpt"
    caplog.set_level(logging.INFO)
    scales = {"encoder.backbone.model.embeddings": 3.0}
    watch, fit, _ = go_on(small, tmp_path, path, lr=PEAK / 100, weight_decay=0.5, lr_scale=scales)
    groups = {group["name"]: place for place, group in enumerate(fit.optimizers[0].param_groups)}
    assert "encoder.backbone.model.embeddings" in groups
    for name, place in groups.items():
        factor = 3.0 if "embeddings" in name else 1.0
        expected = fall(20, step, PEAK / 100 * factor)
        assert [rates[place] for rates in watch.rates] == pytest.approx(expected), name
        group = fit.optimizers[0].param_groups[place]
        assert group["weight_decay"] == (0.0 if name.endswith(".no_decay") else 0.5)
    [line] = [record.getMessage() for record in caplog.records if "apply from step" in record.getMessage()]
    assert f"apply from step {step} on: lr 0.001 → 1e-05; weight_decay 0.01 → 0.5; lr_scale {{}} → " in line


def moments(module: MetricLearner, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: state["exp_avg"] for parameter, state in optimizer.state.items()}


def test_moments_stay_with_their_parameters_when_groups_change(
    small: Small, tmp_path: Path, plain: Path
) -> None:
    path = plain / "step=10.ckpt"
    saved = torch.load(path, weights_only=True)["optimizer_states"][0]
    expected = {
        name: saved["state"][number]["exp_avg"]
        for group in saved["param_groups"]
        for name, number in zip(group["param_names"], group["params"], strict=True)
    }

    class Look(Watch):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.found = {
                name: value.clone() for name, value in moments(pl_module, trainer.optimizers[0]).items()
            }

    look = Look()
    go_on(small, tmp_path, path, look, lr_scale={"encoder.backbone.model.encoder.layer.1": 2.0})
    assert look.found.keys() == expected.keys()
    assert all(torch.equal(look.found[name], expected[name]) for name in expected)


def test_what_is_frozen_may_change(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = checkpoint(small, tmp_path, freeze=["embeddings"])
    before = torch.load(path, weights_only=True)["state_dict"]
    caplog.set_level(logging.INFO)
    _, _, module = go_on(small, tmp_path, path, freeze=[])
    assert "encoder.freeze ['embeddings'] → []" in caplog.text
    assert (
        "encoder.backbone.model.embeddings.word_embeddings.weight, …) are trained from now on" in caplog.text
    )
    name = "encoder.backbone.model.embeddings.word_embeddings.weight"
    assert not torch.equal(module.state_dict()[name], before[name])
    again = checkpoint(small, tmp_path / "thawed", freeze=[])
    before = torch.load(again, weights_only=True)["state_dict"]
    _, _, module = go_on(small, tmp_path, again, freeze=["embeddings"])
    assert "are trained no longer" in caplog.text
    assert torch.equal(module.state_dict()[name], before[name])


def test_another_loss_and_dropout_are_applied_and_told(
    small: Small, tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = plain / "step=10.ckpt"
    caplog.set_level(logging.INFO)
    _, _, module = go_on(small, tmp_path, path, dropout=0.3)
    assert "encoder.dropout None → 0.3" in caplog.text
    assert module.encoder.backbone.model.embeddings.dropout.p == 0.3
    caplog.clear()
    go_on(small, tmp_path, path, loss=InfoNCELoss(0.1))
    assert "loss.temperature 0.2 → 0.1" in caplog.text
    caplog.clear()
    go_on(small, tmp_path, path, loss=TripletLoss())
    assert "loss 'InfoNCELoss' → 'TripletLoss'" in caplog.text
    assert "loss.temperature" not in caplog.text


def test_a_learned_temperature_is_the_checkpoints(small: Small, tmp_path: Path) -> None:
    path = checkpoint(small, tmp_path, loss=InfoNCELoss(0.2, learnable=True))
    go_on(small, tmp_path, path, loss=InfoNCELoss(0.2, learnable=True))
    with pytest.raises(ValueError, match=r"loss.temperature is 0\.2 in the checkpoint and 0\.1 here"):
        go_on(small, tmp_path, path, loss=InfoNCELoss(0.1, learnable=True))
    with pytest.raises(ValueError, match=r"another model: loss.log_temperature is \(\) there and missing"):
        go_on(small, tmp_path, path, loss=InfoNCELoss(0.2))


def test_weights_of_another_backbone_are_refused(small: Small, tmp_path: Path, plain: Path) -> None:
    path = plain / "step=10.ckpt"
    other = tmp_path / "renamed"
    other.symlink_to(small / "backbone")
    with pytest.raises(ValueError, match=r"encoder.backbone is .*backbone' in .* and .*renamed' here"):
        go_on(small, tmp_path, path, backbone=str(other))
    moved = tmp_path / "elsewhere" / "backbone"
    moved.parent.mkdir()
    moved.symlink_to(small / "backbone")
    go_on(small, tmp_path, path, backbone=str(moved))


@pytest.mark.parametrize("change", ["planner", "seed"])
def test_batches_may_change_between_epochs_only(
    small: Small, tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    options: dict[str, Any] = {"planner": PKPlanner(3, 3)} if change == "planner" else {"seed": 0}
    whole, within = plain / "step=10.ckpt", plain / "step=7.ckpt"
    data = small.data(**options)
    data.read()
    if change == "seed":
        data.seed = 5  # the split into training and validation items stays
    with pytest.raises(ValueError, match=rf"data.{change}.* the checkpoint is from the middle of an epoch"):
        go_on(small, tmp_path, within, data=data)
    caplog.set_level(logging.INFO)
    watch, _, _ = go_on(small, tmp_path, whole, data=data)
    assert f"data.{change}" in caplog.text
    assert watch.epochs == [2] * data.batches_per_epoch + [3] * data.batches_per_epoch
    if change == "planner":
        assert {len(anchors) for anchors in watch.anchors} == {9}


def test_precision_and_its_scaler_are_those_of_the_resumed_run(
    small: Small, tmp_path: Path, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = plain / "step=10.ckpt"
    caplog.set_level(logging.INFO)
    watch, module = Watch(), learner(small)
    fit = trainer(tmp_path, watch, max_epochs=3, precision="bf16-mixed", gradient_clip_val=0.5)
    fit.fit(module, small.data(), ckpt_path=path)
    assert "trainer.precision '32-true' → 'bf16-mixed'; trainer.gradient_clip_val None → 0.5" in caplog.text
    assert len(watch.losses) == STEPS


def test_early_stopping_has_the_patience_of_the_resumed_run(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stopping(patience: int) -> EarlyStopping:
        return EarlyStopping("val/map@r", patience=patience, mode="max", check_finite=False)

    path = checkpoint(small, tmp_path, stopping(1), lr=1e-12)
    caplog.set_level(logging.INFO)
    patient = stopping(50)
    go_on(small, tmp_path, path, patient, lr=1e-12)
    assert patient.patience == 50
    assert "patience of EarlyStopping 1 → 50" in caplog.text


def test_a_limit_of_time_counts_earlier_parts_and_says_so(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(small, tmp_path, Timer({"hours": 1}))
    state = torch.load(path, weights_only=True)
    state["callbacks"]["Timer"]["time_elapsed"]["train"] = 3000.0
    torch.save(state, path)
    caplog.set_level(logging.INFO)
    timer = Timer({"hours": 1})
    go_on(small, tmp_path, path, timer, epochs=3)
    assert 3000 < timer.time_elapsed() < 3600
    assert "max_time counts the earlier parts of this run, too: 0:50:00 of 1:00:00 are used" in caplog.text


def test_rates_that_averaging_has_set_stay_or_the_change_is_refused(small: Small, tmp_path: Path) -> None:
    def averaging() -> StochasticWeightAveraging:
        return StochasticWeightAveraging(swa_lrs=5e-4, swa_epoch_start=1, annealing_epochs=1)

    path = checkpoint(small, tmp_path, averaging())
    watch, _, _ = go_on(small, tmp_path, path, averaging())
    assert {rate for rates in watch.rates for rate in rates} == {5e-4}
    with pytest.raises(ValueError, match="were set by a callback, such as StochasticWeightAveraging"):
        go_on(small, tmp_path, path, averaging(), lr=1e-5)


def test_without_options_it_goes_on_by_the_order_of_parameters(
    small: Small, tmp_path: Path, plain: Path
) -> None:
    path = plain / "step=10.ckpt"
    state = torch.load(path, weights_only=True)
    del state["run_options"]
    for group in state["optimizer_states"][0]["param_groups"]:
        del group["param_names"], group["name"]
    torch.save(state, tmp_path / "old.ckpt")
    watch, _, _ = go_on(small, tmp_path, tmp_path / "old.ckpt")
    assert [rates[0] for rates in watch.rates] == pytest.approx(fall(20, 10))
    with pytest.raises(ValueError, match="freeze and lr_scale must be as in the run's config"):
        go_on(small, tmp_path, tmp_path / "old.ckpt", lr_scale={"encoder.backbone.model.embeddings": 2.0})


def test_a_miner_starts_anew_where_batches_are_counted_otherwise(small: Small, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "ckpt", "kept")
    mining: Any = {"miner": Miner(top_k=5, negatives=2), "refresh": Refresh(mode="inline")}
    trainer(tmp_path, saving, max_epochs=2).fit(learner(small), small.data(**mining))
    data = small.data(**mining, planner=PKPlanner(3, 3))
    watch, _, _ = go_on(small, tmp_path, tmp_path / "ckpt" / "kept.ckpt", data=data)
    assert watch.epochs == [2] * 7 + [3] * 7
    assert data.refresher is not None
    assert [(use.first, use.taken) for use in data.refresher.uses.uses] == [(21, 21)]
    assert all(len(met) > len(own) for own, met in zip(watch.anchors, watch.candidates, strict=True))
