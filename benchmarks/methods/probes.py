"""What is measured of a trained learner: a list with a value for each query, or a figure, by name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F

from benchmarks.supervision import read, scored
from lit_metric import MetricDataModule, MetricLearner
from lit_metric.data import LabelRelations, PairRelations
from lit_metric.evaluation import encode_split, evaluation_of, measure
from lit_metric.losses import NormRatioLoss
from lit_metric.metrics import SpaceMetrics, TripletMetrics, direction_auc, few_shot_accuracy

Found = dict[str, list[float | None] | float]


def usual(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """Figures of a usual evaluation, with the values of each query where there are any."""
    evaluation = evaluation_of(data, split, ks=(1, 10), knn=(1, 10), knn_temperature=model.knn_temperature)
    measured = measure(model.encoder, data, split, evaluation)
    columns: dict[str, Tensor] = {}
    for each in measured.queries.values():
        columns |= each.columns
    found: Found = {}
    for name in names:
        found[name] = listed(columns[name]) if name in columns else float(measured.values[name])
    return found


def listed(values: Tensor) -> list[float | None]:
    """The values, None for NaN.

    Example:
        >>> listed(torch.tensor([1.0, torch.nan]))
        [1.0, None]
    """
    return [None if value != value else value for value in values.tolist()]


def encoded(model: MetricLearner, data: MetricDataModule, ids: Tensor) -> Tensor:
    """``[n, d]`` raw vectors of the items ``ids [n]``."""
    parts = [*encode_split(model.encoder, data, ids)]
    found = torch.cat([each for each, _ in parts]).float()
    order = torch.cat([each for _, each in parts]).argsort()
    return found[order][ids.argsort().argsort()]


def pair_ap(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual, and ``pair_ap``: the average precision of finding the pairs of one class among all pairs of
    different items by their cosine."""
    ids = data.splits[split]
    space = SpaceMetrics(data.relations)
    space.update(encoded(model, data, ids), ids)
    found = usual(model, data, split, [name for name in names if name != "pair_ap"])
    return {**found, "pair_ap": float(space.compute()["all_pairs_ap"])}


def head_and_votes(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """Right answers of ten neighbours, or of the head that was trained with the encoder, in bins of the
    classes' sizes in training: ``tail`` up to 20 items, ``head`` from 200 on, ``medium`` between.

    A loss with one proxy for each class is a head; with any other loss the neighbours answer.
    """
    assert isinstance(data.relations, LabelRelations)
    ids, voters = data.splits[split], data.splits["train"]
    labels, counts = data.relations.labels, data.class_counts
    vectors, proxies = encoded(model, data, ids), getattr(model.loss, "proxies", None)
    if proxies is None or split != "test":
        unit, known = F.normalize(vectors, dim=1), F.normalize(encoded(model, data, voters), dim=1)
        nearest = labels[voters][(unit @ known.T).topk(min(10, len(voters)), dim=1).indices]
        answers = nearest.mode(dim=1).values
    else:
        classes = (counts > 0).nonzero()[:, 0]
        answers = classes[(vectors @ proxies.detach().T).argmax(dim=1)]
    right = (answers == labels[ids]).float()
    size = counts[labels[ids]]
    bins = {"all": size >= 0, "tail": size <= 20, "medium": (size > 20) & (size < 200), "head": size >= 200}
    each = {name: listed(torch.where(rows, right, torch.nan)) for name, rows in bins.items()}
    of_class = [float(right[labels[ids] == label].mean()) for label in labels[ids].unique()]
    return {**each, "macro": sum(of_class) / len(of_class)}


def norms(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual, and ``norm`` of each vector, with ``norm_ratio``, the ratio of their 99th and first
    percentiles."""
    lengths = encoded(model, data, data.splits[split]).norm(dim=1)
    low, high = torch.quantile(lengths, torch.tensor([0.01, 0.99])).tolist()
    found = usual(model, data, split, [name for name in names if not name.startswith("norm")])
    return {**found, "norm": float(lengths.mean()), "norm_ratio": high / low}


def collapse(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual, and ``spread`` of the vectors: √(1 − mean pairwise cosine), 0 at a point."""
    unit = F.normalize(encoded(model, data, data.splits[split]), dim=1)
    count = len(unit)
    mean = (unit.sum(dim=0).square().sum() - count) / (count * (count - 1))
    found = usual(model, data, split, [name for name in names if name != "spread"])
    return {**found, "spread": float((1 - mean).clamp(min=0).sqrt())}


def by_subset(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """``tot`` of all triplets of all splits, and of each subset; the validation is that of all, too."""
    found: dict[str, Any] = {}
    for part in ("train", "validation", "test"):
        triplets = data.dataset.triplets.get(part)
        if triplets is None:
            continue
        metric = TripletMetrics(triplets.anchors, triplets.positives, triplets.negatives, triplets.groups)
        for vectors, ids in encode_split(model.encoder, data, metric.wanted):
            metric.update(vectors, ids)
        values = {name: float(value) for name, value in metric.compute().items()}
        for name, value in values.items():
            group = name.removeprefix("tot").removeprefix("_")
            count = sum(each == group for each in triplets.groups or []) or len(triplets.anchors)
            total, number = found.get(name, (0.0, 0))
            found[name] = total + value * count, number + count
    return {name: total / number for name, (total, number) in found.items() if name in names}


def few_shot(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual, and ``few_shot_K``: the accuracy of episodes of five classes with K examples each, with a
    value for each episode."""
    assert isinstance(data.relations, LabelRelations)
    ids = data.splits[split]
    vectors, labels = encoded(model, data, ids), data.relations.labels[ids]
    shots = {name: int(name.rpartition("_")[2]) for name in names if name.startswith("few_shot_")}
    found = usual(model, data, split, [name for name in names if name not in shots])
    return {**found, **{name: listed(few_shot_accuracy(vectors, labels, 5, k)) for name, k in shots.items()}}


def of_labels(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual, and ``macro_map``: the average precision of each label, whose text ranks the queries of the
    split; the mean over labels that any of them has."""
    assert isinstance(data.relations, PairRelations)
    ids, labels = data.splits[split], data.splits[data.roles(split)["corpus"]]
    own, others = (F.normalize(encoded(model, data, each), dim=1) for each in (ids, labels))
    anchors, judged, grades = data.relations.judgements(ids)
    place = torch.full((len(data.items),), -1)
    place[ids], place[labels] = torch.arange(len(ids)), torch.arange(len(labels))
    right = torch.zeros(len(ids), len(labels), dtype=torch.bool)
    right[place[anchors[grades > 0]], place[judged[grades > 0]]] = True
    scores = (own @ others.T).numpy()
    precision: list[float | None] = [
        float(average_precision_score(column.numpy(), scores[:, label])) if column.any() else None
        for label, column in enumerate(right.T)
    ]
    found = usual(model, data, split, [name for name in names if name != "macro_map"])
    return {**found, "macro_map": precision}


def direction(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """The usual; ``direction_auc``, of norms; and ``micro_ap`` of all pairs of a text with another one, of
    which those of an excerpt and its source are right, and the same the other way round wrong.

    A loss that trains norms also drops pairs whose query is the longer vector.
    """
    pairs = data.relations
    assert isinstance(pairs, PairRelations)
    anchors, sources, _ = pairs.judgements(data.splits[split])
    parts, wholes = encoded(model, data, anchors), encoded(model, data, sources)
    scores = F.normalize(parts, dim=1) @ F.normalize(wholes, dim=1).T
    forward, backward = scores.clone(), scores.T.clone()
    if any(isinstance(each, NormRatioLoss) for each in model.loss.modules()):
        lengths, others = parts.norm(dim=1)[:, None], wholes.norm(dim=1)[None]
        forward[lengths > others] = -1.0
        backward[(others > lengths).T] = -1.0
    right = torch.cat(
        [(anchors[:, None] == anchors).flatten(), torch.zeros(backward.numel(), dtype=torch.bool)]
    )
    found = usual(model, data, split, [name for name in names if name not in ("direction_auc", "micro_ap")])
    together = torch.cat([forward.flatten(), backward.flatten()])
    return {
        **found,
        "direction_auc": direction_auc(parts, wholes),
        "micro_ap": float(average_precision_score(right.numpy(), together.numpy())),
    }


def swapped(model: MetricLearner, data: MetricDataModule, split: str, names: Sequence[str]) -> Found:
    """``tot`` of each triplet of a split, ``tot_GROUP`` of those of a subset, and, of the test,
    ``spearman``: the rank correlation of cosines and shared tags, for pairs of package descriptions that no
    arm was trained on."""
    triplets = data.dataset.triplets[split]
    sides = [triplets.anchors, triplets.positives, triplets.negatives]
    one, other, wrong = (F.normalize(encoded(model, data, each), dim=1) for each in sides)
    match = (one * other).sum(1)
    right = (match > (one * wrong).sum(1)) & (match > (other * wrong).sum(1))
    found: Found = {"tot": listed(right.float())}
    for name in names:
        if name.startswith("tot_"):
            group = torch.tensor([each == name.removeprefix("tot_") for each in triplets.groups or []])
            if group.any():
                found[name] = listed(torch.where(group, right.float(), torch.nan))
    if split == "test" and "spearman" in names:
        with tempfile.TemporaryDirectory() as folder:
            rows = read(Path(scored(Path(os.environ["LIT_METRIC_DATA"]), Path(folder), 600)[1]))
        first, second = (
            torch.as_tensor(model.encoder.encode([[row[name]] for row in rows]))  # of sets of one text
            for name in ("sentence1", "sentence2")
        )
        cosines = F.cosine_similarity(first, second).numpy()
        found["spearman"] = float(stats.spearmanr(cosines, [row["score"] for row in rows]).statistic)
    return found
