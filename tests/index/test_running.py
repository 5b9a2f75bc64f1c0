"""The best of scores that come block by block, against a sort of all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.index import scores as running
from lit_metric.index.scores import RunningTop


def sorted_all(scores: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``k`` of a stable sort of each row, -1 and -inf for those that are -inf."""
    values = np.pad(scores.numpy(), [(0, 0), (0, k)], constant_values=-np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(values, order, 1)
    return best, np.where(np.isneginf(best), -1, order)


def fed(scores: Tensor, out: Tensor, k: int, sizes: list[int]) -> RunningTop:
    top, start = RunningTop(len(scores), k, torch.device("cpu")), 0
    for size in sizes:
        block = slice(start, start + size)
        top.add(scores[:, block].clone(), start, out[:, block])
        start += size
    assert start == scores.shape[1]
    return top


ORDERS = {
    "at random": lambda scores: scores,
    "the best first": lambda scores: scores.sort(dim=1, descending=True).values,
    "the best last": lambda scores: scores.sort(dim=1).values,
    "many ties": lambda scores: (scores * 2).round(),
    "all equal": torch.zeros_like,
    "one row far above": lambda scores: scores.index_fill(0, torch.tensor(3), 9.0),
}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sizes", [[1024], [256] * 4, [512, 7, 1, 504], [1, 1023]])
def test_they_are_the_first_of_a_stable_sort(order: str, sizes: list[int], share: float) -> None:
    lots = torch.Generator().manual_seed(1)
    scores = ORDERS[order](torch.randn(37, 1024, generator=lots))
    out = torch.rand(37, 1024, generator=lots) < share
    for k in (1, 5, 60):
        expected = sorted_all(scores.masked_fill(out, -torch.inf), k)
        for got, right in zip(fed(scores, out, k, sizes).result(), expected, strict=True):
            np.testing.assert_array_equal(got.numpy(), right)


def test_few_of_the_later_scores_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_scores, top_k = [], running.top_k
    monkeypatch.setattr(
        running,
        "top_k",
        lambda *args, **named: sorted_scores.append(args[0].numel()) or top_k(*args, **named),
    )
    scores = torch.randn(16, 32768, generator=torch.Generator().manual_seed(1))
    fed(scores, torch.zeros_like(scores, dtype=torch.bool), 10, [2048] * 16).result()
    assert sum(sorted_scores) < scores.numel() / 20
