"""From a run, its data and its encoders to a report."""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data import Ragged
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import Precision
from lit_metric.evaluation import Measured
from lit_metric.index import Embeddings
from lit_metric.report.advice import advise
from lit_metric.report.attended import attention_of
from lit_metric.report.chosen import (
    choose,
    cut_items,
    cut_texts,
    describe_items,
    labels_of,
    summarise_splits,
)
from lit_metric.report.data_sets import data_set_of
from lit_metric.report.measures import (
    HALF_TOLERANCE,
    TOLERANCE,
    compare,
    difference,
    health_of,
    metric_rows,
)
from lit_metric.report.mined import mined_negatives
from lit_metric.report.near import class_rows, confusions
from lit_metric.report.problems import problems_of
from lit_metric.report.projection import project
from lit_metric.report.searched import (
    answers_at,
    ever_searched,
    first_of,
    places_of,
    pools_of,
    right_of,
    search,
    together_of,
    typed_queries,
)
from lit_metric.report.structure import Attention, Ints, Items, MinedNegatives, Report, Run
from lit_metric.report.vectors import Encoded, encode_once, measure_encoded

log = logging.getLogger(__name__)

Pair = list[Any]
"""Before and after; None where it is unknown."""
ATTENDED = 40
"""Items whose attention is shown."""
NAMES = ("untrained", "trained")
NEGATIVES = "negatives"
"""Folder of mined negatives in that of a run."""
KINDS = {
    "classes": "labels",
    "several classes": "several labels",
    "grades": "judgements",
    "triplets": "triples",
}
"""What a report calls kinds of data that an evaluation calls otherwise."""


@dataclass
class Inspected:
    """What a report is made of.

    Args:
        title: name of the run.
        run: what its folder says.
        data: its data, or others.
        after: the trained encoder.
        before: the untrained one, or that of the first of two runs; None: unknown.
        written: the content of ``metrics.json``, if it is about these data.
        options: of :class:`~lit_metric.evaluation.Evaluation`.
        folder: of the run; None: there is none.
        names: what before and after are called.
        compared: whether two runs are compared.
        exact: whether ``before`` is surely the encoder that was trained.
        missing: why parts can't be there, by their names in :class:`~lit_metric.report.structure.Report`.
        known: vectors that ``before`` and ``after`` made of some items; None: all are to be encoded.
    """

    title: str
    run: Run
    data: MetricDataModule
    after: Encoder
    before: Encoder | None = None
    written: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    names: tuple[str, str] = NAMES
    compared: bool = False
    exact: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    known: tuple[Embeddings | None, Embeddings | None] = (None, None)


def gather(
    inspected: Inspected,
    queries: Sequence[tuple[str, Any]] = (),
    max_items: int = 20_000,
    precision: Precision = "float32",
    seed: int = 0,
    shown: bool = True,
) -> Report:
    """Encode, measure, search and look for what is wrong.

    Args:
        inspected: what there is.
        queries: texts that were asked for, as they are shown and as the encoder takes them.
        max_items: shown; see :func:`~lit_metric.report.chosen.choose`.
        precision: of matrix products.
        seed: of the choice of items, the bootstrap and the projection.
        shown: whether to tell of long work.

    Raises:
        DataError: when the data can't be used.
        ValueError: when a number is out of range.
    """
    seconds: dict[str, float] = {}
    run = replace(inspected.run, warnings=[*inspected.run.warnings])
    data = inspected.data
    with _timed(seconds, "read"):
        data.read()
        split = measured_split(data, inspected.written)
        ids = choose(data, split, max_items, seed)
    encoded, measured = _encode(inspected, split, ids, precision, seconds, shown)
    vectors = [None if each is None else each.of(ids) for each in encoded]
    # In half precision, a few queries may find another nearest item.
    tolerance = (
        HALF_TOLERANCE + 2 / max(len(data.splits[split]), 1)
        if precision != "float32" and split
        else TOLERANCE
    )
    _check(inspected, split, measured, run, tolerance)
    with _timed(seconds, "read"):
        items = describe_items(data, ids, split)
        cut = cut_texts(data, inspected.after.tokenizer)
    with _timed(seconds, "search"), stage("searching neighbours", shown):
        pools = pools_of(data, ids, items, split)
        near = [None if each is None else search(each, pools) for each in vectors]
    (items.neighbours_before, items.scores_before), (items.neighbours_after, items.scores_after) = (
        (None, None) if each is None else each for each in near
    )
    neighbours = [items.neighbours_before, items.neighbours_after]
    items.together_before, items.together_after = (together_of(data, ids, each) for each in neighbours)
    headlines = data.headlines(split) if split else ()
    written = None if inspected.compared else inspected.written
    report = Report(
        title=inspected.title,
        version=importlib.metadata.version("lit-metric"),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        names=inspected.names,
        measured_split=split or "",
        kind=kind_of(data, split),
        run=run,
        splits=summarise_splits(data, ids, cut),
        metrics=metric_rows(measured[0], measured[1], headlines, written, seed),
        health=health_of(vectors, neighbours, ever_searched(pools)),
        items=items,
        queries=typed_queries(queries, (inspected.before, inspected.after), encoded, data, ids, split),
        confusions=[],
        classes=[],
        negatives=None,
        attention=[],
        problems=[],
        advice=[],
        comparison=None,
        missing=dict(inspected.missing),
        seconds_to_write=seconds,
        precision=precision,
    )
    if split is None:
        report.missing["metrics"] = "Nothing was measured: there is neither a test nor a validation split."
    _judge(report, inspected, measured, ids, vectors[1])
    with _part(report, "map"), _timed(seconds, "project"), stage("projecting items", shown):
        items.map_before, items.map_after, items.projection = project(vectors[0], vectors[1], seed=seed)
    _look(report, inspected, encoded, ids, cut_items(data, ids, cut), seed, shown)
    if not run.curves:
        report.missing.setdefault("curves", "The run has no metrics.csv, which RunLogger writes.")
    return report


def kind_of(data: MetricDataModule, split: str | None) -> str:
    """What a report calls the data; "" if no split is measured."""
    if data.parts:
        return "several data sets"
    return "" if split is None else KINDS.get(data.kind(split), data.kind(split))


def _judge(report: Report, inspected: Inspected, measured: Pair, ids: Tensor, vectors: Tensor | None) -> None:
    """Fill in which neighbours are right, confusions and classes, and the comparison of two runs."""
    data, items = inspected.data, report.items
    right = [None if each is None else right_of(data, each) for each in measured]
    items.correct_before, items.correct_after = (answers_at(each, ids) for each in right)
    firsts = [
        None if own is None or near is None else first_of(own, ids, near)
        for own, near in zip(measured, (items.neighbours_before, items.neighbours_after), strict=True)
    ]
    _classes(report, data, vectors, firsts)
    before, after = right
    scores = items.scores_before, items.scores_after
    if not inspected.compared or before is None or after is None or scores[0] is None or scores[1] is None:
        return
    places = places_of(after[0], ids)
    nearest = scores[0][places, 0], scores[1][places, 0]
    report.comparison = compare(inspected.names, before[1].numpy(), after[1].numpy(), places, nearest)


def _look(
    report: Report,
    inspected: Inspected,
    encoded: Pair,
    ids: Tensor,
    cut: NDArray[np.bool_],
    seed: int,
    shown: bool,
) -> None:
    """Fill in what was mined, what poolings look at, what is wrong with the data, and what to do next."""
    data, items, seconds = inspected.data, report.items, report.seconds_to_write
    with _part(report, "negatives"), _timed(seconds, "mined negatives"):
        report.negatives = _mined(inspected, encoded, report.missing)
    with _part(report, "attention"), _timed(seconds, "attention"):
        report.attention = _attention(inspected, items, ids, seed)
        if not report.attention:
            report.missing["attention"] = (
                "This encoder makes one vector of those of its tokens without weights, such as by their "
                "mean, so there is nothing to show here. Pooling by attention has weights."
            )
    with _part(report, "problems"), _timed(seconds, "problems"), stage("looking for wrong data", shown):
        # Near duplicates are found by untrained vectors, which neither of two runs has.
        before, after = (None if each is None else each.of(ids) for each in encoded)
        untrained = None if inspected.compared else before
        parts = data_set_of(data, ids).numpy()
        report.problems = problems_of(items, untrained, after, cut, data.items.kind == "set", parts=parts)
        if not report.problems:
            report.missing["problems"] = "No rule found a row to look at."
    with _part(report, "advice"):
        report.advice = advise(report)


@contextmanager
def _part(report: Report, name: str) -> Iterator[None]:
    """Leave out a part that can't be made; the page says why, and shows the others."""
    try:
        yield
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("The page has no %s (%s: %s)", name, type(error).__name__, why)
        report.missing[name] = f"It could not be made: {why}"


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def measured_split(data: MetricDataModule, written: dict[str, Any]) -> str | None:
    """The split that is measured: that of ``metrics.json``, else test, else validation; None of neither."""
    names = [written.get("split"), "test", "validation"]
    return next((name for name in names if isinstance(name, str) and name in data.splits), None)


def _encode(
    inspected: Inspected,
    split: str | None,
    ids: Tensor,
    precision: Precision,
    seconds: dict[str, float],
    shown: bool,
) -> tuple[Pair, Pair]:
    """The vectors before and after, and what the evaluation of the measured split finds."""
    data = inspected.data
    device = "cuda" if torch.cuda.is_available() else "cpu"
    groups = [] if split is None else [data.splits[name] for name in data.roles(split).values()]
    encoded: list[Encoded | None] = []
    measured: list[Measured | None] = []
    encoders = inspected.before, inspected.after
    for encoder, name, known in zip(encoders, inspected.names, inspected.known, strict=True):
        if encoder is None:
            encoded.append(None)
            measured.append(None)
            continue
        with _timed(seconds, "encode"):
            title = f"encoding ({name})" if shown else None
            found = encode_once(encoder.to(device), data, [*groups, ids], precision, title, known)
            encoded.append(found)
        with _timed(seconds, "measure"):
            own = None
            if split is not None:
                own = measure_encoded(found, data, split, inspected.options, device, shown)
            measured.append(own)
    return encoded, measured


def _check(inspected: Inspected, split: str | None, measured: Pair, run: Run, tolerance: float) -> None:
    """Warn where what is measured now isn't what the run has measured."""
    if inspected.compared or split is None or split != inspected.written.get("split"):
        return
    after = difference(measured[1], inspected.written.get("after"), tolerance)
    if after is not None:
        name, old, new = after
        run.warnings.append(
            f"Measured for this page, {name} of the trained encoder is {new:.4f}, and metrics.json says "
            f"{old:.4f}: the data have changed, or the run measured in another precision. Neighbours and "
            "positions are those of now."
        )
        return
    before = difference(measured[0], inspected.written.get("before"), tolerance)
    if before is not None and not inspected.exact:
        name, old, new = before
        run.warnings.append(
            "The untrained encoder was built again from config.yaml and isn't exactly that of the run: "
            f"{name} is {new:.4f}, and was {old:.4f}. Neighbours and positions before training are those of "
            "the encoder that was built again; fit --report keeps the exact one."
        )


def _mined(inspected: Inspected, encoded: Pair, missing: dict[str, str]) -> MinedNegatives | None:
    """What the miner found, judged by the vectors of training items."""
    data = inspected.data
    if inspected.folder is None:
        missing["negatives"] = "There is no folder of a run."
        return None
    spaces = []
    for each in (encoded[1], None if inspected.compared else encoded[0]):  # the trained one first
        if each is not None and "train" in data.splits:
            own = torch.isin(each.ids, data.splits["train"])
            spaces += [Embeddings(each.ids[own], each.vectors[own])] if bool(own.any()) else []
    if (found := mined_negatives(inspected.folder / NEGATIVES, data, spaces)) is None:
        missing["negatives"] = "The run mined no negatives. A run with data.miner in its config does."
    return found


def _attention(inspected: Inspected, items: Items, ids: Tensor, seed: int) -> list[Attention]:
    """What the poolings look at in some measured items: half of them with a wrong neighbour, if there are as
    many."""
    data, random = inspected.data, np.random.default_rng(seed)
    right = items.correct_after
    wrong, others = (random.permutation(np.flatnonzero(each)) for each in (right == 0, right != 0))
    chosen = np.concatenate([wrong[: ATTENDED // 2], others])[:ATTENDED]
    roles = data.items.role_names
    found = []
    for number in np.unique(items.role[chosen]).tolist():
        places = np.sort(chosen[items.role[chosen] == number])
        own = ids[torch.from_numpy(places)]
        texts = [data.texts_of(each) for each in own.tolist()]
        weights = None
        if data.items.weights is not None:
            weights = Ragged(data.items.weights, data.items.texts.offsets).select(own).tolist()
        inputs = texts if data.items.kind == "set" else [each[0] for each in texts]
        role = roles[number] if data.items.roles is not None else None
        encoders = inspected.before, inspected.after
        found += attention_of(*encoders, inputs, places.tolist(), role, weights)
    return sorted(found, key=lambda each: each.item)


def _classes(
    report: Report, data: MetricDataModule, vectors: Tensor | None, first: Sequence[Ints | None]
) -> None:
    """Fill in confusions and classes."""
    items = report.items
    if not items.labels or first[1] is None:
        why = (
            "The items have no labels, so there are no classes."
            if not items.labels
            else report.missing["metrics"]
        )
        report.missing |= {"confusions": why, "classes": why}
        return
    sizes = None
    if "train" in data.splits:
        _, _, places = labels_of(data, data.splits["train"])
        sizes = np.bincount(places, minlength=len(items.labels)).astype(np.int32)
    labels = items.label_offsets, items.label_ids
    scores = items.scores_after
    report.confusions = confusions(*labels, first[1], first[0], None if scores is None else scores[:, 0])
    report.classes = class_rows(*labels, len(items.labels), first[1], first[0], vectors, sizes)
    if not report.confusions:
        report.missing["confusions"] = "The nearest item of every measured item has one of its labels."
