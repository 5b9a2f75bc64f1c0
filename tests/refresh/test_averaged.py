"""Lightning's averages of weights beside mining: who uses which weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from safetensors.torch import load_file

import lit_metric
from lit_metric import MetricLearner, Miner, Refresh
from lit_metric.callbacks import RunReport
from lit_metric.evaluation import evaluate, evaluation_of
from lit_metric.loggers import RunLogger
from lit_metric.mining import NegativeTable, versions
from tests.small import Small, Watch, trainer
from tests.test_loggers import rows

pytestmark = pytest.mark.filterwarnings("ignore")
DECAY = 0.5


class Trained(Callback):
    """Follows the average by itself, and keeps the last trained weights."""

    def __init__(self) -> None:
        self.mean: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: object, pl_module: MetricLearner, *given: object) -> None:
        for name, value in pl_module.encoder.state_dict().items():
            before = self.mean.get(name, value)
            self.mean[name] = (DECAY * before + (1 - DECAY) * value).clone()


def fit(small: Small, folder: Path, *callbacks: Callback) -> tuple[MetricLearner, Watch]:
    watch = Watch()
    data = small.data(miner=Miner(negatives=1, top_k=8, filters=[]), refresh=Refresh(mode="inline"))
    model = small.learner()
    logger = RunLogger("run", str(folder))
    trainer(folder, watch, *callbacks, RunReport(), logger=logger, max_epochs=2).fit(model, data)
    return model, watch


def test_mining_and_training_use_the_trained_weights_and_evaluations_the_average(
    small: Small, tmp_path: Path
) -> None:
    trained = Trained()
    _, plain = fit(small, tmp_path / "plain", trained)
    model, averaged = fit(small, tmp_path / "ema", EMAWeightAveraging(decay=DECAY))
    # Batches, mined negatives and losses are those of training without an average, bit for bit.
    assert averaged.candidates == plain.candidates
    assert averaged.losses == plain.losses
    tables = [tmp_path / name / "run" / "negatives" for name in ("plain", "ema")]
    assert versions(tables[0]) == versions(tables[1])
    newest = [NegativeTable.open(folder, max(versions(folder))) for folder in tables]
    assert newest[0].ids.tolist() == newest[1].ids.tolist()
    # What is measured, saved and left in the module is the average.
    for name, value in model.encoder.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, trained.mean[name], atol=1e-6, rtol=1e-5)
    saved = load_file(tmp_path / "ema" / "run" / "model" / "backbone" / "model.safetensors")
    own = model.encoder.backbone.model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in saved.items())
    data = small.data()
    data.prepare(model.encoder.tokenizer)
    encoder = lit_metric.load(tmp_path / "ema" / "run")
    expected = evaluate(encoder, data, "validation", evaluation_of(data, "validation"))
    logged = [float(row["val/map@r"]) for row in rows(tmp_path / "ema" / "run") if row.get("val/map@r")]
    assert logged[-1] == pytest.approx(expected["map@r"], abs=1e-5)
