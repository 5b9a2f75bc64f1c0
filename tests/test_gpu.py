"""What must hold on a GPU: packed attention, training, recomputation, and the mining process beside it.

Run by ``pytest -m gpu tests/test_gpu.py``; skipped where torch sees no GPU.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from lit_metric import Miner, TextEncoder
from lit_metric.data.ragged import EncoderInput
from lit_metric.loggers import RunLogger
from lit_metric.losses import InfoNCELoss
from lit_metric.refresh import Refresh
from tests.small import Small, Watch, questions, trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.filterwarnings("ignore"),
]

TEXTS = [text for text, _ in questions(50, seed=7)] + ["w4", " ".join(["w5"] * 40)]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_packed_vectors_equal_padded_ones_and_those_of_the_processor(
    small: Small, precision: str, tolerance: float
) -> None:
    expected = TextEncoder(small / "backbone", packing="never").encode(TEXTS)
    for packing in ("always", "never"):
        encoder = TextEncoder(small / "backbone", packing=packing).cuda()
        found = encoder.encode(TEXTS, precision=precision)
        assert abs(found - expected).max() < tolerance


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-3), (True, 5e-2)])
def test_packed_gradients_equal_those_of_the_processor(small: Small, half: bool, tolerance: float) -> None:
    gradients = []
    for device, packing in (("cpu", "never"), ("cuda", "always"), ("cuda", "never")):
        encoder = TextEncoder(small / "backbone", packing=packing, dropout=0.0).to(device)
        encoder.train()
        inputs = EncoderInput.of_texts(encoder.tokenizer.tokenize_ragged(TEXTS[:40])).to(torch.device(device))
        with torch.autocast(device, torch.bfloat16, enabled=half and device == "cuda"):
            vectors = encoder(inputs)
            InfoNCELoss(0.5)(vectors[:20], vectors[20:]).backward()
        parts = [each.grad.flatten().float().cpu() for each in encoder.parameters() if each.grad is not None]
        gradients.append(torch.cat(parts))
    expected = gradients[0]
    for found in gradients[1:]:
        assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("recompute", ["chunks", "layers"])
def test_recomputation_changes_no_gradient_and_holds_less(small: Small, recompute: str) -> None:
    gradients, peaks = [], []
    texts = [text for text, _ in questions(2000, seed=3)]
    for option in ("none", recompute):
        more = {"max_tokens_in_memory": 256} if option == "chunks" else {}
        encoder = TextEncoder(small / "backbone", dropout=0.0, recompute=option, **more).cuda()
        encoder.train()
        inputs = EncoderInput.of_texts(encoder.tokenizer.tokenize_ragged(texts)).to(torch.device("cuda"))
        torch.cuda.reset_peak_memory_stats()
        vectors = encoder(inputs)
        vectors[:1000].mul(vectors[1000:]).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated())
        parts = [each.grad.flatten() for each in encoder.parameters() if each.grad is not None]
        gradients.append(torch.cat(parts))
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-3
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_learns(small: Small, tmp_path: Path, precision: str) -> None:
    watch = Watch()
    run = trainer(tmp_path, watch, accelerator="gpu", max_epochs=4, precision=precision)
    run.fit(small.learner(), small.data())
    assert all(math.isfinite(loss) for loss in watch.losses)
    assert sum(watch.losses[-5:]) < sum(watch.losses[:5])
    assert run.callback_metrics["val/map@r"] > 0


@pytest.mark.parametrize("reuse", [True, False])
def test_a_process_mines_beside_training(small: Small, tmp_path: Path, reuse: bool) -> None:
    refresh = Refresh(delay=2, strict=True, timeout=600, reuse_training_embeddings=reuse)
    data = small.data(miner=Miner(top_k=6, negatives=2), refresh=refresh)
    logger = RunLogger("run", str(tmp_path))
    run = trainer(tmp_path, accelerator="gpu", max_epochs=3, logger=logger, log_every_n_steps=1)
    run.fit(small.learner(), data)
    tables = [*(tmp_path / "run" / "negatives").rglob("manifest.json")]
    assert tables, "no table of negatives was published"
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        stalls = [
            row["mining/stall_seconds"] for row in csv.DictReader(file) if row.get("mining/stall_seconds")
        ]
    assert len(stalls) >= 2  # one for each refresh after the first table
