"""Speed is taken in turns, and what is compared does the same work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import throughput
from benchmarks.throughput import in_turns
from lit_metric import TextEncoder
from tests.small import Small, questions


def test_contenders_take_turns_and_the_first_does_not_count() -> None:
    now, order = [0.0], []

    def work(name: str, seconds: list[float]) -> Any:
        def do() -> int:
            order.append(name)
            now[0] += seconds[order.count(name) - 1]
            return 10

        return do

    rates = in_turns(
        {"a": work("a", [100, 1, 2]), "b": work("b", [1, 5, 10])}, rounds=2, clock=lambda: now[0]
    )
    assert order == ["a", "b"] * 3
    assert {name: rate.values for name, rate in rates.items()} == {"a": [10.0, 5.0], "b": [2.0, 1.0]}
    assert rates["b"].mean == 1.5


@pytest.mark.filterwarnings("ignore")
def test_all_contenders_train_on_the_same_texts(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    monkeypatch.setattr(throughput, "update", lambda loss, optimizer: losses.append(float(loss)))
    seen: list[list[str]] = []

    def peer(backbone: str, attention: str = "sdpa") -> Any:
        return lambda texts, labels: seen.append(list(texts))

    monkeypatch.setattr(throughput, "peer", peer)
    rows = questions(30, 0)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    options = {"backbone": small / "backbone", "freeze": ["embeddings"], "dropout": 0.0}
    monkeypatch.setattr(throughput, "TextEncoder", lambda **given: TextEncoder(**{**given, "dropout": 0.0}))
    rates = throughput.training(texts, labels, options, batches=2, size=12, rounds=1)
    assert list(rates) == [
        "lit-metric, as configured",
        "lit-metric, with dropout and all trained",
        "lit-metric, the same, padded",
        "sentence-transformers",
        "lit-metric, bfloat16, as configured",
        "lit-metric, bfloat16, with dropout and all trained",
        "sentence-transformers, bfloat16",
        "sentence-transformers, bfloat16, eager attention",
    ]
    # Two turns of two batches by five encoders whose weights stay the same: padding changes nothing, and
    # bfloat16 little.
    turns = np.array(losses).reshape(2, 5, 2)
    exact, rounded = turns[:, :3], turns[:, 3:]
    np.testing.assert_allclose(exact, np.broadcast_to(exact[:1, :1], exact.shape), rtol=1e-5)
    np.testing.assert_allclose(rounded, np.broadcast_to(exact[:1, :1], rounded.shape), rtol=2e-2)
    assert not np.array_equal(rounded, exact[:, :2])
    encoder = TextEncoder(small / "backbone", dropout=0.0)
    kinds = np.array([labels[texts.index(text)] for text in seen[0]])
    scores = torch.from_numpy(encoder.encode(seen[0])) @ torch.from_numpy(encoder.encode(seen[0])).T / 0.05
    same = torch.from_numpy(kinds[:, None] == kinds)
    terms = []
    for row in range(12):  # InfoNCE by its definition, other positives out
        others = [column for column in range(12) if same[row, column] and column != row]
        negatives = scores[row][~same[row]].exp().sum()
        rated = [-(scores[row, column] - (scores[row, column].exp() + negatives).log()) for column in others]
        terms += [torch.stack(rated).mean()] if rated else []
    assert losses[0] == pytest.approx(float(torch.stack(terms).mean()), rel=1e-4)


def test_a_step_changes_what_is_not_frozen(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TextEncoder] = []

    def encoder(**options: Any) -> TextEncoder:
        made.append(TextEncoder(**options))
        return made[0]

    monkeypatch.setattr(throughput, "TextEncoder", encoder)
    step = throughput.ours({"backbone": small / "backbone", "freeze": ["embeddings"], "dropout": 0.0})
    before = {name: value.detach().clone() for name, value in made[0].named_parameters()}
    step(["w4 w5", "w4 w6", "w9 w10", "w9 w11"], torch.tensor([0, 0, 1, 1]))
    changed = {name for name, value in made[0].named_parameters() if not torch.equal(value, before[name])}
    trainable = {name for name, value in made[0].named_parameters() if value.requires_grad}
    assert changed == trainable
    assert not any("embeddings" in name for name in changed)
