"""The comparison of ways to find wrong labels: its noise, and its scores by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import label_errors
from benchmarks.results import BenchmarkError, read_json
from lit_metric.neighbours import find_label_errors


def corpus(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1 around the centres of 6 classes, and the classes."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), 40)
    return label_errors.unit(draw.normal(size=(6, 8))[labels] + draw.normal(size=(240, 8)) * 0.4), labels


@pytest.mark.parametrize("noise", label_errors.NOISE)
def test_a_twentieth_of_the_labels_is_changed(noise: str) -> None:
    vectors, labels = corpus()
    after, which = label_errors.changed(labels, vectors, noise, seed=1)
    assert which.sum() == 12
    assert ((after != labels) == which).all()
    again, _ = label_errors.changed(labels, vectors, noise, seed=1)
    assert (again == after).all()
    means = label_errors.unit(np.stack([vectors[labels == number].mean(axis=0) for number in range(6)]))
    for place in np.flatnonzero(which):
        own = means[labels[place]] if noise == "nearest" else vectors[place]
        others = [number for number in range(6) if number != labels[place]]
        if noise != "random":
            assert after[place] == max(others, key=lambda number: means[number] @ own)


def test_what_is_changed_does_not_depend_on_what_a_fit_holds_out() -> None:
    # A fit with the same seed draws its validation items from a permutation, too.
    labels = np.arange(4000) % 8
    vectors = np.eye(8, dtype=np.float32)[labels]
    for seed in range(3):
        _, which = label_errors.changed(labels, vectors, "random", seed)
        drawn = np.random.default_rng(seed).permutation(4000)[:400]
        assert 5 <= which[drawn].sum() <= 40  # 20 expected; 4.4 standard deviations


def test_the_vote_is_a_share_of_the_others() -> None:
    vectors, labels = corpus()
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    expected = [
        (labels[np.argsort(-row)[:10]] != label).mean() for row, label in zip(cosines, labels, strict=True)
    ]
    np.testing.assert_allclose(label_errors.vote(vectors.astype(np.float32), labels), expected)


def test_all_methods_are_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    vectors, labels = corpus()
    folder = tmp_path / "data" / "banking77"
    folder.mkdir(parents=True)
    texts = [f"text {number}" for number in range(240)]
    pq.write_table(
        pa.table({"text": texts, "label": [f"class {each}" for each in labels]}), folder / "train.parquet"
    )
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(label_errors.Measurement, "backbone", vectors)
    monkeypatch.setattr(label_errors, "cleanlab_scores", lambda vectors, labels: {"cleanlab": np.zeros(240)})
    for _ in range(2):
        label_errors.main(["--out", str(tmp_path / "out"), "--seeds", "2", "--noise", "random"])
    assert "kept, the settings are the same" in capsys.readouterr().out
    content = read_json(tmp_path / "out" / "banking77" / "label-errors.json")
    assert content["suspicion"]["as published"]["2"]["changed"] == 0
    both = []
    for seed in range(2):
        after, which = label_errors.changed(labels, vectors, "random", seed)
        both.append(label_errors.suspicion(vectors, after, texts, which)["2"]["changed"])
    assert content["suspicion"]["random"]["2"]["changed"]["values"] == pytest.approx(both)
    found = content["untrained"]["random"]
    assert set(found) == {"lit-metric", "vote of 10 neighbours", "cleanlab"}
    assert len(found["lit-metric"]["values"]) == 2
    assert found["lit-metric"]["mean"] > 0.9
    assert found["cleanlab"]["mean"] == pytest.approx(0.05)


def test_labels_are_counted_from_a_bound_on() -> None:
    vectors, labels = corpus()
    after, which = label_errors.changed(labels, vectors, "random", seed=1)
    texts = [f"text {number}" for number in range(240)]
    found = label_errors.suspicion(vectors.astype(np.float32), after, texts, which)
    odds = find_label_errors(vectors.astype(np.float32), after.tolist(), texts).score
    for bound, row in found.items():
        reached = [place for place in range(240) if odds[place] >= float(bound)]
        assert row["share"] == len(reached) / 240
        assert row["changed"] == pytest.approx(sum(which[place] for place in reached) / max(len(reached), 1))


def test_data_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"there is no .*train\.parquet"):
        label_errors.read("banking77")
    monkeypatch.delenv("LIT_METRIC_DATA")
    with pytest.raises(SystemExit, match="set LIT_METRIC_DATA"):
        label_errors.main(["--out", str(tmp_path)])
