"""Training an adapter: checkpoints hold it alone, resuming is exact, and another process mines with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

import lit_metric
from lit_metric import MetricLearner, TextEncoder
from lit_metric.evaluation import encode_split
from lit_metric.index import Embeddings
from lit_metric.losses import InfoNCELoss
from lit_metric.mining import NegativeTable
from lit_metric.refresh.snapshot import trained
from tests.encoders.tokens import model_folder
from tests.refresh.fits import fit
from tests.small import Small, distance, trainer, weights

pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")
pytestmark = pytest.mark.filterwarnings("ignore")

LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "target_modules": ["query", "value"],
    "lora_dropout": 0.1,
}
TEXTS = ["w5 w6 w30", "w8 w9 w40"]


def learner(backbone: str, **options: Any) -> MetricLearner:
    torch.manual_seed(3)  # of the adapter's initial weights
    encoder = TextEncoder(backbone, dropout=0.1, adapter=LORA)
    return MetricLearner(encoder, InfoNCELoss(0.2), **{"lr": 1e-2, **options})


def test_a_checkpoint_holds_the_adapter_and_a_resumed_run_is_the_same(small: Small, tmp_path: Path) -> None:
    backbone = model_folder(tmp_path / "base")
    saved = ModelCheckpoint(tmp_path / "half", filename="{step}", every_n_train_steps=7, save_top_k=-1)
    whole = learner(backbone, layer_decay=0.9)
    before = weights(whole)
    trainer(tmp_path, saved).fit(whole, small.data())
    path = tmp_path / "half" / "step=7.ckpt"
    content = torch.load(path, weights_only=True)["state_dict"]
    assert {name for name in content if name.startswith("encoder.")} == {
        f"encoder.backbone.model.encoder.layer.{layer}.attention.self.{part}.lora_{side}.default.weight"
        for layer in range(2)
        for part in ("query", "value")
        for side in "AB"
    }
    moved = {name for name, value in weights(whole).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in content if name.startswith("encoder.")}
    resumed = learner(backbone, layer_decay=0.9)
    trainer(tmp_path).fit(resumed, small.data(), ckpt_path=str(path))
    assert distance(weights(resumed), weights(whole)) == 0
    # Loaded, it is the encoder of that step.
    loaded = MetricLearner.load_from_checkpoint(path)
    assert (loaded.layer_decay, loaded.encoder.backbone.adapter.kind) == (0.9, "LORA")
    expected = loaded.encode(TEXTS)
    np.testing.assert_array_equal(lit_metric.load(path).encode(TEXTS), expected)
    other = weights(loaded)
    assert all(torch.equal(other[name], value) for name, value in content.items())
    shutil.rmtree(backbone)
    with pytest.raises(FileNotFoundError, match=r"base model of the adapter.*export the model merged"):
        lit_metric.load(path)


@pytest.fixture(scope="module")
def scheduled(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scheduled")
    return fit(small, folder, learner=learner(small / "backbone"), epochs=2, mode="scheduled")


def test_a_worker_mines_what_training_itself_would(small: Small, scheduled: Any) -> None:
    assert scheduled.tables.versions == [1] * 8 + [2] * 2
    # The tables are of the weights after 0 and 5 batches, with which another encoder mines the same here.
    again, data = learner(small / "backbone"), scheduled.data
    ids = data.splits["train"].sort().values
    for version, batch in ((1, 0), (2, 5)):
        again.load_state_dict(scheduled.tables.states[batch])
        vectors, order = (
            torch.cat(part) for part in zip(*encode_split(again.encoder, data, ids), strict=True)
        )
        embeddings = Embeddings(ids, vectors.float()[order.argsort()])
        expected = data.miner.mine(embeddings, data.relations, data.seed)
        found: NegativeTable = scheduled.tables.opened[version]
        assert found.manifest["weights"] == scheduled.tables.weights[batch]
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()
    scores = [scheduled.tables.opened[version].scores.tolist() for version in (1, 2)]
    assert scores[0] != scores[1]


def test_a_snapshot_is_as_small_as_the_adapter(scheduled: Any) -> None:
    encoder = scheduled.learner.encoder
    # Buffers of positions besides, which are in no file of weights.
    names = set(trained(encoder))
    assert {name for name in names if "lora_" not in name} <= {name for name, _ in encoder.named_buffers()}
    sizes = [
        sum(value.numel() for value in each.values()) for each in (trained(encoder), encoder.state_dict())
    ]
    assert sizes[0] < sizes[1] / 10
    files = [*scheduled.folder.rglob("*.safetensors")]
    assert not any(
        "lora" not in name for path in files if "untouched" not in path.name for name in load_file(path)
    )
