"""Which labels are hidden, which drawn negatives are counted, and how runs are put together."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.mining import draw
from benchmarks.results import Finished
from lit_metric.configurable import rebuilt
from lit_metric.data import LabelRelations
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, UniformWindow
from tests import forked
from tests.small import Small


def test_a_fifth_of_the_labels_is_hidden_by_seed(tmp_path: Path) -> None:
    rows = {"text": [f"t{n}" for n in range(4000)], "label": [f"l{n % 7}" for n in range(4000)]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    hidden = []
    for seed in (0, 1, 0):
        truth = draw.hide(tmp_path / "train.parquet", tmp_path / "new" / "hidden.parquet", seed)
        found = pq.read_table(tmp_path / "new" / "hidden.parquet").to_pydict()
        assert (truth, found["text"]) == (rows["label"], rows["text"])
        assert all(shown in (None, label) for shown, label in zip(found["label"], truth, strict=True))
        hidden.append({n for n, shown in enumerate(found["label"]) if shown is None})
    assert len(hidden[0]) == pytest.approx(800, abs=4 * (4000 * 0.2 * 0.8) ** 0.5)
    assert hidden[0] == hidden[2] != hidden[1]


def test_hidden_positives_among_the_drawn_are_counted(tmp_path: Path) -> None:
    # Two classes along two axes; the miner sees no label of items 4 and 5, which truly are of each class.
    vectors = torch.tensor([[1, 0.0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05], [0.05, 1]])
    shown = ["a", "a", "b", "b", None, None]
    relations = LabelRelations.from_names(shown, torch.arange(6), "negative")  # type: ignore[arg-type]
    miner = Miner(top_k=3, negatives=1, filters=[], draw=UniformWindow(0, 1))
    table = miner.mine(Embeddings(torch.arange(6), vectors), relations)
    settings = {"corpus": "c", "tokenizer": "t", "weights": "w", "step": 0, "epoch": 0}
    table.save(tmp_path / "negatives", **settings)
    found = draw.hidden_positives(tmp_path, ["a", "a", "b", "b", "a", "b"], seed=0, steps=(0,))
    # The nearest that may be a negative is the hidden one; items 4 and 5 are no anchors.
    assert found == {"hidden_positives": 1.0, "without": pytest.approx(2 / 6)}
    found = draw.hidden_positives(tmp_path, ["a", "a", "b", "b", "b", "b"], seed=0, steps=(0,))
    assert found["hidden_positives"] == 0.5


def test_variants_can_be_given_to_a_fit(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variant is a miner that the command line takes, and the runs' figures are put side by side."""
    given: list[list[str]] = []

    def fake(config: str, folder: Path, *words: str, log: Path) -> tuple[dict[str, Any], Finished]:
        given.append(list(words))
        return {"after": {"map@r": 0.1 * len(given)}, "seconds": 2.0}, Finished(3.0, 100.0)

    pq.write_table(pa.table({"text": ["x", "y"], "label": ["a", "a"]}), tmp_path / "train.parquet")
    monkeypatch.setattr(draw, "fit", fake)
    monkeypatch.setattr(draw, "hidden_positives", lambda *_: {"hidden_positives": 0.25, "without": 0.0})
    where = (tmp_path / "train.parquet", tmp_path / "train.parquet")
    found = draw.measure(tmp_path / "out", {}, *where, seeds=2, options=["--a", "b"])
    assert list(found["runs"]) == ["none", *draw.variants()]
    assert len(given) == 2 * (1 + len(draw.variants()))
    assert not any(word.startswith("--data.miner") for word in given[0])
    assert "hidden_positives" not in found["runs"]["none"]
    assert found["runs"]["top-k"]["map@r"].values == pytest.approx([0.2, 0.1 * (3 + len(draw.variants()))])
    assert found["ratio"] == pytest.approx(found["ours"] / found["peer"])
    draw.measure(tmp_path / "out", {}, *where, seeds=2, options=["--a", "b"])
    assert len(given) == 2 * (1 + len(draw.variants()))
    for words in given[1 : 1 + len(draw.variants())]:
        [miner] = [word.partition("=")[2] for word in words if word.startswith("--data.miner=")]
        assert isinstance(rebuilt(json.loads(miner)), Miner)


@pytest.mark.filterwarnings("ignore")
def test_a_run_draws_hidden_positives(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit in a process of its own, on the tiny backbone."""

    def run(command: list[str], log: Path) -> Finished:
        forked.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return Finished(3.0, 100.0)

    monkeypatch.setattr("benchmarks.results.run", run)
    with open(small / "many_train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [row[name] for row in rows] for name in ("text", "label")}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    options = [
        f"--model.encoder.init_args.backbone={small / 'deep'}",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        f"--data.cache_dir={small / 'cache'}",
        "--data.planner.init_args.classes=20",
    ]
    where = (tmp_path / "train.parquet", tmp_path / "train.parquet")
    found = draw.measure(tmp_path / "out", {}, *where, seeds=1, options=options, names=["top-k"])
    runs = found["runs"]
    assert 0 < runs["top-k"]["hidden_positives"].mean < 0.5
    assert runs["top-k"]["map@r"].mean > 0
    assert "ratio" not in found
