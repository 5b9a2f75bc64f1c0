"""Neighbours among the items of a report: who searches whom, what is found, and whether it is right."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.data import LabelRelations, MultiLabelRelations
from lit_metric.data.evaluated import EvaluationView
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.evaluation import Measured
from lit_metric.report.chosen import first_labels
from lit_metric.report.data_sets import data_sets
from lit_metric.report.near import nearest
from lit_metric.report.structure import Floats, Ints, Items, TypedQuery
from lit_metric.report.vectors import Encoded

NEIGHBOURS = 10
"""Nearest items that are shown of each."""
BLOCK = 1024
"""Items whose positives are looked up at once."""

Pools = list[tuple[Tensor, Tensor]]
"""``[N]`` masks of items that search, and of those that they search."""


def pools_of(data: MetricDataModule, ids: Tensor, items: Items, split: str | None) -> Pools:
    """Which items search which: ``[N]`` masks of those that search and of those that are searched.

    Queries of the measured split search what its retrieval metrics search, other queries their corpus. All
    other items search their own split.
    """
    pools = []
    for view, (number, whole) in itertools.product(data_sets(data), enumerate(items.splits)):
        asking = torch.from_numpy(items.split == number) & view.mine(ids)
        own, name = view.data, whole.removeprefix(f"{view.name}/")
        if not asking.any():
            continue
        target = own.dataset.corpus_of(name) if name in own.splits and not name.endswith("corpus") else None
        if target is None:
            target = "train" if name == split and own.compared_with(name) == "train" else name
        pools.append((asking, torch.isin(ids, own.splits[target] + view.start)))
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


def together_of(data: MetricDataModule, ids: Tensor, near: Ints | None) -> NDArray[np.int8] | None:
    """Which of the neighbours belong together with each item.

    Args:
        data: whose relations say so.
        ids: ``[N]`` of the items of the report.
        near: ``[N, K]`` places of the nearest, -1 for none; None: unknown.

    Returns:
        ``[N, K]``: 1, 0, or -1 where it is unknown: items of labelled data without a label, and other items
        that belong together with none of ``ids``.
    """
    if near is None:
        return None
    places = torch.from_numpy(near.astype(np.int64))
    asked = places >= 0
    rows = asked.nonzero()[:, 0]
    found = places[asked]
    answers = data.relations.positive_pairs(ids[rows], ids[found]).to(torch.int8)
    known, labelled = _known(data, ids)
    answers[~known[rows] | (labelled[rows] & ~known[found])] = -1
    together = torch.full(places.shape, -1, dtype=torch.int8)
    together[asked] = answers
    return together.numpy()


def _known(data: EvaluationView, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``[N]`` each: whether anything is known of what belongs to an item; whether labels would say so."""
    relations = data.relations
    if data.parts:
        known, labelled = torch.zeros(2, len(ids), dtype=torch.bool)
        for view in data_sets(data):
            own = view.mine(ids)
            known[own], labelled[own] = _known(view.data, ids[own] - view.start)
        return known, labelled
    if isinstance(relations, LabelRelations | MultiLabelRelations):
        return first_labels(data, ids) >= 0, torch.ones(len(ids), dtype=torch.bool)
    found = [relations.positives(block, ids).lengths > 0 for block in ids.split(BLOCK)]
    return torch.cat([torch.empty(0, dtype=torch.bool), *found]), torch.zeros(len(ids), dtype=torch.bool)


def right_of(data: MetricDataModule, measured: Measured) -> tuple[Tensor, Tensor]:
    """The queries, and whether the nearest searched item of each belongs together with it: 1, 0, or -1 where
    no item does."""
    answers = []
    for queries in measured.queries.values():  # of each data set
        ids, found = queries.ids.cpu(), queries.nearest.cpu()
        right = data.relations.positive_pairs(ids, found.clamp(min=0)).long()
        answers.append((ids, right.masked_fill((found < 0) | queries.columns["mrr"].cpu().isnan(), -1)))
    all_ids, all_right = (torch.cat(each) for each in zip(*answers, strict=True))
    return all_ids, all_right


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
    first = np.full(len(ids), -1, np.int32)
    for queries in measured.queries.values():
        own, found = places_of(queries.ids.cpu(), ids), places_of(queries.nearest.cpu(), ids)
        here = own >= 0
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
    corpus = ids
    if split:
        views = [view for view in data_sets(data) if split in view.data.splits]
        names = [view.data.dataset.corpus_of(split) or split for view in views]
        found = [view.data.splits[name] + view.start for view, name in zip(views, names, strict=True)]
        corpus = torch.cat(found)
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
