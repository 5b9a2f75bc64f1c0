"""Neighbours among the items of a report: who searches whom, what is found, and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.evaluation import Measured
from lit_metric.report.near import nearest
from lit_metric.report.structure import Floats, Ints, Items, TypedQuery
from lit_metric.report.vectors import Encoded

NEIGHBOURS = 10
"""Nearest items that are shown of each."""

Pools = list[tuple[Tensor, Tensor]]
"""``[N]`` masks of items that search, and of those that they search."""


def pools_of(data: MetricDataModule, ids: Tensor, items: Items, split: str | None) -> Pools:
    """Which items search which: ``[N]`` masks of those that search and of those that are searched.

    Queries of the measured split search what its retrieval metrics search, other queries their corpus. All
    other items search their own split.
    """
    pools = []
    for number, name in enumerate(items.splits):
        target = data.dataset.corpus_of(name) if name in data.splits and not name.endswith("corpus") else None
        if target is None:
            target = "train" if name == split and data.compared_with(name) == "train" else name
        asking = torch.from_numpy(items.split == number)
        pools.append((asking, torch.isin(ids, data.splits[target])))
    return pools


def ever_searched(pools: Pools) -> np.ndarray:
    """``[N]`` bool, whether any item searches an item."""
    return np.logical_or.reduce([found.numpy() for _, found in pools]) if pools else np.zeros(0, bool)


def search(vectors: Tensor, pools: Pools) -> tuple[Ints, Floats]:
    """The nearest items of each of ``vectors [N, d]``, and their cosines."""
    places = np.full((len(vectors), NEIGHBOURS), -1, np.int32)
    cosines = np.zeros((len(vectors), NEIGHBOURS), np.float32)
    for asking, found in pools:
        some = (asking | found).nonzero()[:, 0]
        near, scores = nearest(vectors[some], NEIGHBOURS, found[some].numpy())
        rows = asking[some].numpy()
        own, here = near[rows], some.numpy().astype(np.int32)
        places[asking.numpy()] = np.where(own >= 0, here[own.clip(min=0)], -1)
        cosines[asking.numpy()] = np.where(own >= 0, scores[rows], 0.0)
    return places, cosines


def right_of(data: MetricDataModule, measured: Measured) -> tuple[Tensor, Tensor]:
    """The queries, and whether the nearest searched item of each belongs together with it: 1, 0, or -1 where
    no item does."""
    queries = measured.queries[""]
    ids, found = queries.ids.cpu(), queries.nearest.cpu()
    right = data.relations.positive_pairs(ids, found.clamp(min=0)).long()
    return ids, right.masked_fill((found < 0) | queries.columns["mrr"].cpu().isnan(), -1)


def places_of(own: Tensor, ids: Tensor) -> Ints:
    """``[n]`` the place of each of ``own [n]`` in the rising ``ids [N]``, -1 for none."""
    at = torch.searchsorted(ids, own).clamp(max=max(len(ids) - 1, 0))
    return torch.where(ids[at] == own, at, -1).numpy().astype(np.int32)


def answers_at(right: tuple[Tensor, Tensor] | None, ids: Tensor) -> Ints:
    """``[N]`` the answer for each shown item, -1 where it wasn't asked."""
    answers = np.full(len(ids), -1, np.int32)
    if right is not None:
        places = places_of(right[0], ids)
        answers[places[places >= 0]] = right[1].numpy()[places >= 0]
    return answers


def first_of(measured: Measured, ids: Tensor, near: Ints) -> Ints:
    """``[N]`` the place of the item that was nearest to each query in the evaluation, -1 for other items.

    Args:
        measured: with the nearest item of each query.
        ids: ``[N]`` of the items of the report.
        near: ``[N, K]`` places of the nearest items of the report, for queries whose nearest isn't in it.
    """
    queries = measured.queries[""]
    own, found = places_of(queries.ids.cpu(), ids), places_of(queries.nearest.cpu(), ids)
    here = own >= 0
    first = np.full(len(ids), -1, np.int32)
    first[own[here]] = np.where(found[here] >= 0, found[here], near[own[here], 0])
    return first


def typed_queries(
    queries: Sequence[tuple[str, Any]],
    encoders: Sequence[Encoder | None],
    encoded: Sequence[Encoded | None],
    data: MetricDataModule,
    ids: Tensor,
    split: str | None,
) -> list[TypedQuery]:
    """The neighbours of texts that were asked for, among what the measured split searches.

    Args:
        queries: as they are shown, and as the encoders take them.
        encoders, encoded: before and after; None: unknown.
        data: of the items.
        ids: ``[N]`` of the items of the report.
        split: that is measured, if any.
    """
    if not queries:
        return []
    corpus = data.splits[data.dataset.corpus_of(split) or split] if split else ids
    searched = torch.isin(ids, corpus).nonzero()[:, 0]
    if not len(searched):
        searched = torch.arange(len(ids))
    answers: list[list[tuple[list[int], list[float]]]] = []
    for encoder, known in zip(encoders, encoded, strict=True):
        if encoder is None or known is None:
            answers.append([([], []) for _ in queries])
            continue
        roles = encoder.tokenizer.roles
        vectors = encoder.encode([item for _, item in queries], role="query" if "query" in roles else None)
        cosines = (
            F.normalize(torch.from_numpy(vectors).float(), dim=1)
            @ F.normalize(known.of(ids[searched]), dim=1).T
        )
        best = cosines.topk(min(NEIGHBOURS, len(searched)), dim=1)
        answers.append(list(zip(searched[best.indices].tolist(), best.values.tolist(), strict=True)))
    return [
        TypedQuery(text, before[0], after[0], before[1], after[1])
        for (text, _), before, after in zip(queries, *answers, strict=True)
    ]
