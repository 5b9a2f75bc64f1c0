"""The benchmark of false negatives: its rules against loops, and the figures that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import false_negatives, label_errors
from benchmarks.results import read_json
from lit_metric.neighbours.label_errors import label_probabilities
from tests.benchmarks.test_label_errors import corpus


def test_rules_name_the_pairs_of_which_one_has_the_label_of_the_other() -> None:
    vectors, right = corpus()
    vectors = vectors.astype(np.float32)
    labels, _ = label_errors.changed(right, vectors, "nearest", seed=0)
    copies = torch.arange(len(labels))
    anchors, candidates = false_negatives.mined(vectors, labels, copies, seed=0)
    assert (labels[anchors] != labels[candidates]).all()
    named = false_negatives.rules([vectors, vectors], labels, copies, anchors, candidates)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)[:, :20]
    shares = label_probabilities([vectors], torch.from_numpy(labels), 6, copies).numpy()
    for pair in range(0, len(anchors), 37):
        one, other = anchors[pair], candidates[pair]
        votes = [(labels[near[a]] == labels[b]).mean() for a, b in ((one, other), (other, one))]
        assert named["votes"][pair] == (max(votes) >= 0.7 - 1e-9)
        likely = max(shares[one, labels[other]], shares[other, labels[one]]) >= 0.8
        assert named["probability, trained vectors"][pair] == likely
    assert (named["probability, both"] == named["probability, trained vectors"]).all()


def test_figures_are_those_of_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    vectors, labels = corpus()
    vectors = vectors.astype(np.float32)
    folder = tmp_path / "data" / "banking77"
    folder.mkdir(parents=True)
    names = [f"class {each}" for each in labels]
    texts = [f"text {number}" for number in range(240)]
    pq.write_table(pa.table({"text": texts, "label": names}), folder / "train.parquet")
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(label_errors.Measurement, "backbone", vectors)
    false_negatives.main(["--out", str(tmp_path / "out"), "--seeds", "2"])
    content = read_json(tmp_path / "out" / "banking77" / "false-negatives-head.json")
    assert set(content["rules"]) == {"votes", "probability, trained vectors", "probability, both"}
    for seed in range(2):
        noisy, _ = label_errors.changed(labels, vectors, "nearest", seed)
        copies = torch.arange(240)
        trained = false_negatives.with_head(vectors, noisy, seed)
        anchors, candidates = false_negatives.mined(trained, noisy, copies, seed)
        false = labels[anchors] == labels[candidates]
        assert content["kept"][seed] == len(false)
        assert content["false"]["values"][seed] == pytest.approx(false.mean())
        named = false_negatives.rules([trained, vectors], noisy, copies, anchors, candidates)
        found = named["probability, both"]
        own = content["rules"]["probability, both"]
        assert own["found"]["values"][seed] == pytest.approx((found & false).sum() / false.sum())
        assert own["precision"]["values"][seed] == pytest.approx((found & false).sum() / max(found.sum(), 1))
    assert "The numbers are in" in capsys.readouterr().out
