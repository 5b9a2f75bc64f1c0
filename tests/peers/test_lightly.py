"""Losses of lightly, on the same random batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_metric.losses import InfoNCELoss
from lit_metric.metrics import alignment, uniformity
from tests.peers.cases import DTYPES, agree, batch, module, seeds

PEER = "lightly"
ntx_ent = module("lightly.loss.ntx_ent_loss")
hypersphere = module("lightly.loss.hypersphere_loss")


@seeds(quick=3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_two_views(temperature: float, dtype: torch.dtype, seed: int) -> None:
    given = batch("pairs", seed, dtype)
    half = len(given.labels) // 2
    agree(
        PEER,
        "InfoNCELoss",
        lambda e: InfoNCELoss(temperature).on_pairs(e, e, given.pairs)["loss"],
        lambda e: ntx_ent.NTXentLoss(temperature)(e[:half], e[half:]),
        [given.embeddings],
    )


@seeds(quick=3)
@pytest.mark.parametrize("t", [1.0, 2.0])
def test_alignment_and_uniformity(t: float, seed: int) -> None:
    given = batch("pairs", seed)
    half = len(given.labels) // 2

    def ours(vectors: Tensor) -> Tensor:
        first, second = nn.functional.normalize(vectors, dim=1).split(half)
        return alignment(first, second) + 0.7 * (uniformity(first, t) + uniformity(second, t)) / 2

    theirs = hypersphere.HypersphereLoss(t, lam=0.7)
    vectors = [given.embeddings]
    agree(
        PEER, "alignment and uniformity", ours, lambda e: theirs(e[:half], e[half:]), vectors, gradient=False
    )
