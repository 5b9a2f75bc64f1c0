"""Losses of lightning-ir, which are of scores, on the products of the same random vectors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lit_metric.losses import (
    DensePairs,
    DistillationKLLoss,
    InfoNCELoss,
    Loss,
    MarginMSELoss,
    PairLogisticLoss,
)
from lit_metric.metrics import ndcg_at_k, reciprocal_rank
from tests.peers.cases import DTYPES, agree, count, module, seeds

PEER = "lightning-ir"
approximate = module("lightning_ir.loss.approximate")
in_batch = module("lightning_ir.loss.in_batch")
listwise = module("lightning_ir.loss.listwise")
pairwise = module("lightning_ir.loss.pairwise")


class Case(NamedTuple):
    """A loss of each query's own documents in both libraries.

    Attributes:
        graded: whether the documents have grades, and not one relevant among them.
    """

    ours: Loss
    theirs: Any
    graded: bool = False


CASES = {
    "InfoNCELoss": Case(InfoNCELoss(1.0, distance="dot"), listwise.InfoNCE()),
    "DistillationKLLoss": Case(DistillationKLLoss(1.0), listwise.KLDivergence(), graded=True),
    "MarginMSELoss": Case(MarginMSELoss(), pairwise.SupervisedMarginMSE(), graded=True),
    "MarginMSELoss, positives": Case(MarginMSELoss("positives"), pairwise.ConstantMarginMSE(1.0)),
    "PairLogisticLoss": Case(PairLogisticLoss(temperature=1.0, distance="dot"), pairwise.RankNet()),
}


def lists(seed: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """Vectors of queries ``[Q, d]``, of their documents ``[Q * D, d]``, relevance and grades ``[Q, D]``."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents, d = (int(torch.randint(2, 8, (), generator=generator)) for _ in range(3))
    vectors = torch.randn(queries * (1 + documents), d, generator=generator, dtype=torch.float64).to(dtype)
    relevant = torch.zeros(queries, documents, dtype=dtype)
    relevant[torch.arange(queries), torch.randint(documents, (queries,), generator=generator)] = 1
    grades = torch.randn(queries, documents, generator=generator, dtype=torch.float64).to(dtype)
    return [vectors[:queries], vectors[queries:]], relevant, grades


def own_products(queries: Tensor, documents: Tensor) -> Tensor:
    return torch.einsum("qd,qcd->qc", queries, documents.unflatten(0, (len(queries), -1)))


def spread(rows: Tensor) -> Tensor:
    """``[Q, D]`` of a query's own documents, among those of all: ``[Q, Q * D]``, NaN elsewhere."""
    blocks = torch.block_diag(*[row[None] for row in rows.unbind(0)])
    own = torch.block_diag(*[torch.ones_like(row[None]) for row in rows.unbind(0)]) > 0
    return blocks.masked_fill(~own, torch.nan)


@pytest.mark.filterwarnings("ignore:Using a target size")
@seeds(quick=3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_losses(name: str, dtype: torch.dtype, seed: int) -> None:
    case = CASES[name]
    inputs, relevant, grades = lists(seed, dtype)
    target = spread(grades if case.graded else relevant)
    neither = torch.zeros_like(target, dtype=torch.bool)
    pairs = DensePairs(neither, neither, target=target)
    if not case.graded:
        pairs = DensePairs(target == 1, target == 0, target=target)
    labels = SimpleNamespace(targets=grades if case.graded else relevant)
    agree(
        PEER,
        name.split(",")[0],
        lambda queries, documents: case.ours.on_pairs(queries, documents, pairs)["loss"],
        lambda *vectors: case.theirs.compute_loss(SimpleNamespace(scores=own_products(*vectors)), labels),
        inputs,
    )


@seeds(quick=3)
def test_negatives_of_the_batch(seed: int) -> None:
    inputs, relevant, _ = lists(seed, torch.float64)
    loss = in_batch.InBatchCrossEntropy("first", "all_and_non_first")

    def theirs(queries: Tensor, documents: Tensor) -> Tensor:
        output = SimpleNamespace(scores=own_products(queries, documents))
        positive, negative = loss.get_ib_idcs(output, SimpleNamespace(targets=relevant))
        products = queries @ documents.T
        chosen = torch.cat([positive[:, None], negative.view(len(queries), -1)], dim=1)
        return loss.compute_loss(SimpleNamespace(scores=products.gather(1, chosen)))

    first = torch.zeros_like(relevant)
    first[:, 0] = 1
    positive = spread(first) == 1
    agree(
        PEER,
        "InfoNCELoss",
        lambda queries, documents: InfoNCELoss(1.0, distance="dot").on_pairs(
            queries, documents, DensePairs(positive, ~positive)
        )["loss"],
        theirs,
        inputs,
    )


@seeds(quick=3)
def test_measures(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (int(torch.randint(2, 20, (), generator=generator)) for _ in range(2))
    scores = torch.randn(queries, documents, generator=generator)
    grades = torch.randint(0, 4, scores.shape, generator=generator).float()
    grades[:, 0] = 2
    order = scores.argsort(dim=1, descending=True)
    ranks = order.argsort(dim=1) + 1
    ideal = grades.sort(dim=1, descending=True).values
    measure: Callable[..., Tensor] = approximate.ApproxNDCG.get_ndcg
    for k in (1, 3, 10):
        theirs = measure(ranks, grades, k=k, scale_gains=False)
        torch.testing.assert_close(ndcg_at_k(grades.gather(1, order), ideal, k), theirs)
        count(PEER, "ndcg", queries)
    theirs = approximate.ApproxMRR.get_mrr(ranks, (grades > 0).float())
    torch.testing.assert_close(reciprocal_rank(grades.gather(1, order) > 0), theirs)
    count(PEER, "mrr", queries)
