"""Which items a report shows, and what is known of each."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_metric.data import DataError, LabelRelations, MultiLabelRelations, Problems, Ragged, read_table
from lit_metric.data.evaluated import EvaluationView
from lit_metric.data.table import Table
from lit_metric.data.texts import Texts
from lit_metric.datamodule import MetricDataModule
from lit_metric.report.data_sets import data_set_of, data_sets
from lit_metric.report.structure import Ints, Items, SplitSummary

log = logging.getLogger(__name__)

LONGEST = 10_000
"""Characters of a text that are shown."""
COLUMNS, SHORT = 8, 40
"""Other columns of the sources that are shown at most, and the characters of a value in them."""
ORDER = ("test", "validation", "train", "predict")
SIZES, QUANTILES = 1000, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
"""Of a split: class sizes at most, and shares of its items that are no longer than the lengths told."""
DATA_SET = "data set"
"""Column of items of a mixture."""
VALUES = 200
"""Distinct strings of a column that is shown, at most."""


def choose(data: EvaluationView, split: str | None, most: int, seed: int = 0) -> Tensor:
    """The items that are shown: those of the measured split, what they search, then training items.

    Where there are more than ``most``, queries take half at most if they search a corpus. Of the corpus, what
    belongs to the queries that are shown comes first. Items with labels are taken from each class in
    proportion. Data sets of a mixture share the room evenly; what a small one leaves is for the others.

    Args:
        data: after :meth:`~lit_metric.MetricDataModule.read`.
        split: that is measured; None: there is none.
        most: how many items.
        seed: of what is left to chance.

    Returns:
        ``[N]`` int64, rising global ids.

    Raises:
        ValueError: if ``most`` is below 10.
    """
    if most < 10:
        raise ValueError(f"--max_items {most}: at least 10 are needed")
    if data.parts:
        views = sorted(data_sets(data), key=lambda view: len(view.data.relations))
        found, left = [], most
        for place, view in enumerate(views):
            own = split if split in view.data.splits else None
            found.append(_choose(view.data, own, left // (len(views) - place), seed) + view.start)
            left -= len(found[-1])
        return torch.cat(found).sort().values
    return _choose(data, split, most, seed)


def _choose(data: EvaluationView, split: str | None, most: int, seed: int) -> Tensor:
    """:func:`choose` from one data set."""
    chosen = torch.empty(0, dtype=torch.int64)
    splits = data.splits
    if split is not None:
        queries, corpus_name = splits[split].unique(), data.dataset.corpus_of(split)
        if corpus_name is None:
            chosen = _in_proportion(data, queries, most, seed)
        else:
            corpus = splits[corpus_name].unique()
            room = most if len(queries) + len(corpus) <= most else most // 2
            queries = _in_proportion(data, queries, room, seed)
            found = data.relations.positives(queries, corpus).values.unique()
            found = _in_proportion(data, found, most - len(queries), seed)
            rest = corpus[~torch.isin(corpus, found)]
            rest = _in_proportion(data, rest, most - len(queries) - len(found), seed)
            chosen = torch.cat([queries, found, rest]).unique()
    for name in ("train", "validation", data.dataset.corpus_of("train") or "train"):
        if name in splits and len(chosen) < most:
            left = splits[name].unique()
            left = left[~torch.isin(left, chosen)]
            chosen = torch.cat([chosen, _in_proportion(data, left, most - len(chosen), seed)])
    return chosen.sort().values


def _in_proportion(data: EvaluationView, ids: Tensor, most: int, seed: int) -> Tensor:
    """At most that many of ``ids [n]``, of each class in proportion to its size."""
    if len(ids) <= most:
        return ids
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(ids), generator=generator)
    labels = first_labels(data, ids[order])
    # Sorted by class in random order, item r of n gets the key (r + chance) / n. The smallest are taken.
    by_class = labels.argsort(stable=True)
    _, sizes = labels[by_class].unique_consecutive(return_counts=True)
    rank = torch.cat([torch.arange(size) for size in sizes.tolist()])
    keys = (rank + torch.rand(len(ids), generator=generator)) / sizes.repeat_interleave(sizes)
    return ids[order[by_class[keys.argsort()[:most]]]]


def first_labels(data: EvaluationView, ids: Tensor) -> Tensor:
    """``[n]`` int64, a class of each item, -1 without any."""
    relations = data.relations
    if isinstance(relations, LabelRelations):
        return relations.labels[ids]
    if isinstance(relations, MultiLabelRelations):
        rows = relations.labels.select(ids)
        firsts = torch.full([len(ids)], -1)
        having = rows.lengths > 0
        firsts[having] = rows.values[rows.offsets[:-1][having]]
        return firsts
    return torch.full([len(ids)], -1)


def labels_of(data: EvaluationView, ids: Tensor) -> tuple[list[str], Ints, Ints]:
    """The distinct labels, sorted, and those of each item as offsets ``[n + 1]`` and places ``[L]``.

    Labels of a data set in a mixture have its name before them, as in ``intents: card_lost``.
    """
    names: list[str] = []
    lengths = torch.zeros(len(ids), dtype=torch.int64)
    numbers, owners = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for view in data_sets(data):
        relations, mine = view.data.relations, view.mine(ids).nonzero()[:, 0]
        if isinstance(relations, LabelRelations):
            own = relations.labels[ids[mine] - view.start]
            rows = Ragged.from_lengths(own[own >= 0], (own >= 0).long())
        elif isinstance(relations, MultiLabelRelations):
            rows = relations.labels.select(ids[mine] - view.start)
        else:
            continue
        lengths[mine] = rows.lengths
        numbers.append(rows.values + len(names))
        owners.append(mine[rows.segment_ids])
        names += [f"{view.name}: {each}" if view.name else str(each) for each in relations.classes]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names), dtype=np.int32)
    values = torch.cat(numbers)[torch.cat(owners).argsort(stable=True)].numpy()
    offsets = np.concatenate([[0], lengths.cumsum(0).numpy()]).astype(np.int32)
    return [names[number] for number in order], offsets, place[values]


def home_of(data: MetricDataModule, ids: Tensor, measured: str | None) -> list[str]:
    """The split of each item: the measured one if it is in there, else the first of the usual order."""
    names = dict.fromkeys([*([measured] if measured else []), *ORDER, *data.splits])
    found = [""] * len(ids)
    left = torch.ones(len(ids), dtype=torch.bool)
    for name in names:
        if name in data.splits:
            own = torch.isin(ids, data.splits[name]) & left
            left &= ~own
            for place in own.nonzero()[:, 0].tolist():
                found[place] = name
    return found


def shown_texts(data: MetricDataModule, ids: Tensor) -> list[str]:
    """The text of each item; of several, such as tags, with `` | `` between them."""
    rows = data.items.texts.select(ids)
    texts = data.vocabulary.texts
    if isinstance(texts, Texts):
        members = texts.take(rows.values.numpy())
    else:
        members = [texts[place] for place in rows.values.tolist()]
    bounds = rows.offsets.tolist()
    joined = (" | ".join(members[start:end]) for start, end in itertools.pairwise(bounds))
    return [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in joined]


def token_counts(data: MetricDataModule, ids: Tensor) -> Tensor:
    """``[n]`` int64, the tokens of each item, as the encoder gets them."""
    rows = data.items.texts.select(ids)
    lengths = data.collator.tokens.lengths[rows.values]
    return torch.zeros(len(ids), dtype=torch.int64).index_add_(0, rows.segment_ids, lengths)


def describe_items(data: MetricDataModule, ids: Tensor, measured: str | None) -> Items:
    """All that is known of items without vectors.

    Args:
        data: after :meth:`~lit_metric.MetricDataModule.prepare`.
        ids: ``[N]`` global ids.
        measured: the split that is measured.
    """
    names, offsets, places = labels_of(data, ids)
    home = home_of(data, ids, measured)
    splits = [*dict.fromkeys(name for name in (*ORDER, *sorted(data.splits)) if name in {*home})]
    roles, of_items = data.items.role_names, data.items.roles
    role = np.zeros(len(ids), np.int32) if of_items is None else of_items[ids].numpy().astype(np.int32)
    files, file, row, columns = _sources(data, ids, home)
    if data.parts:
        sets = [view.name for view in data_sets(data)]
        columns = {DATA_SET: [sets[number] for number in data_set_of(data, ids).tolist()], **columns}
    keys = [data.items.keys[each] if data.items.keys else "" for each in ids.tolist()]
    keys = [
        key or (f"{files[number]}:{line}" if number >= 0 else "")
        for key, number, line in zip(keys, file.tolist(), row.tolist(), strict=True)
    ]
    if data.dataset.groups is not None:
        columns.setdefault("group", [data.dataset.groups[each] or "" for each in ids.tolist()])
    return Items(
        texts=shown_texts(data, ids),
        keys=keys,
        files=files,
        file=file,
        row=row,
        labels=names,
        label_offsets=offsets,
        label_ids=places,
        splits=splits,
        split=np.array([splits.index(name) for name in home], np.int32),
        roles=[*roles] if of_items is not None else [""],
        role=role,
        columns={**columns, "tokens": token_counts(data, ids).tolist()}
        if data.parts
        else {"tokens": token_counts(data, ids).tolist(), **columns},
        map_before=None,
        map_after=None,
        projection="",
        neighbours_before=None,
        neighbours_after=None,
        scores_before=None,
        scores_after=None,
        correct_before=np.full(len(ids), -1, np.int32),
        correct_after=np.full(len(ids), -1, np.int32),
    )


def _sources(
    data: MetricDataModule, ids: Tensor, home: Sequence[str]
) -> tuple[list[str], Ints, Ints, dict[str, list[Any]]]:
    """The file and row of each item, and its values in other columns of the sources."""
    file, row = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
    files: dict[str, int] = {}
    columns: dict[str, list[Any]] = {}
    rows = np.full(len(ids), -1, np.int64)
    given: list[tuple[str, Any, list[int]]] = []
    for view in data_sets(data):
        mine = view.mine(ids)
        if view.data.dataset.rows is None:
            continue
        rows[mine.numpy()] = view.data.dataset.rows[ids[mine] - view.start].numpy()
        places = [place for place in mine.nonzero()[:, 0].tolist() if rows[place] >= 0]
        sources = data.sources
        if view.name:
            sources = {split: getattr(data.mixture[view.name], split) for split in sources}
        for split, source in sources.items():
            # Validation items that were held out, and splits that a column names, stand in the training data.
            own = [
                place
                for place in places
                if home[place] == split or (split == "train" and sources.get(home[place]) is None)
            ]
            given.append((split, source, own))
    for split, source, own in given:
        if source is None or not own:
            continue
        try:
            table = read_table(source, problems=Problems(True, ""), name=split, csv=data.csv)
            for place in own:
                name, number = table.place(int(rows[place]))
                file[place], row[place] = files.setdefault(name, len(files)), number
            for name, values in _columns(table, [int(rows[place]) for place in own]).items():
                column = columns.setdefault(name, [None] * len(ids))
                for place, value in zip(own, values, strict=True):
                    column[place] = value
        except (DataError, OSError, IndexError, NotImplementedError) as error:
            log.warning("Rows and columns of the %s items aren't shown: %s", split, error)
    used = {*[*columns][:COLUMNS]}
    return [*files], file, row, {name: values for name, values in columns.items() if name in used}


def _columns(table: Table, rows: Sequence[int]) -> dict[str, list[Any]]:
    """The values in some rows of those columns that hold numbers or short strings."""
    found = {}
    for name in table.columns[:50]:
        values = table.peek(name)
        own = [values[row] for row in rows]
        if len({str(value) for value in own[:1000]}) < 2:
            continue
        kinds = {type(value) for value in own if value is not None}
        if kinds <= {int, float, bool} and kinds:
            found[name] = [
                None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
                for value in own
            ]
        elif kinds == {str} and (numbers := _numbers(own)):
            found[name] = numbers
        elif kinds == {str} and len({*own}) <= VALUES and max(len(each or "") for each in own) <= SHORT:
            found[name] = own
    return found


def _numbers(values: Sequence[str | None]) -> list[float | None]:
    """The numbers that all values are, as CSV files have them; empty if one is none."""
    try:
        found = [None if value in (None, "") else float(value) for value in values]
    except ValueError:
        return []
    return found if all(value is None or math.isfinite(value) for value in found) else []


def summarise_splits(data: MetricDataModule, shown: Tensor, cut: Tensor) -> list[SplitSummary]:
    """The size, classes and lengths of each split.

    Args:
        data: after :meth:`~lit_metric.MetricDataModule.prepare`.
        shown: ``[N]`` ids of the items of the report.
        cut: ``[V]`` bool; see :func:`cut_texts`.
    """
    summaries = []
    for name, ids in sorted(data.splits.items(), key=lambda each: _place(each[0])):
        if data.parts and "/" not in name:  # of all data sets together
            continue
        ids = ids.unique()
        labels, _, places = labels_of(data, ids)
        sizes = np.sort(np.bincount(places, minlength=len(labels)))[::-1] if labels else np.zeros(0, np.int64)
        lengths = token_counts(data, ids).numpy()
        summaries.append(
            SplitSummary(
                name=name,
                items=len(ids),
                classes=int((sizes > 0).sum()),
                items_shown=int(torch.isin(ids, shown).sum()),
                class_sizes=sizes[sizes > 0][:SIZES].tolist(),
                length_quantiles=np.quantile(lengths, QUANTILES).tolist() if len(lengths) else [],
                cut=int(cut_items(data, ids, cut).sum()),
            )
        )
    return summaries


def _place(name: str) -> tuple[str, int, str]:
    """By which splits are sorted: the data set, then the usual order."""
    data_set, _, own = name.rpartition("/")
    order = ("train", "validation", "test")
    return data_set, order.index(own) if own in order else len(order), own


def cut_texts(data: MetricDataModule, tokenizer: Any) -> Tensor:
    """``[V]`` bool, which texts of the vocabulary are longer than the encoder takes.

    Only texts with as many tokens as the limit are tokenised once more, whole.
    """
    tokens, vocabulary = data.collator.tokens, data.vocabulary
    lengths = tokens.lengths
    cut = torch.zeros(len(lengths), dtype=torch.bool)
    limit_of, count = (getattr(tokenizer, name, None) for name in ("max_length_of", "tokenize_and_count"))
    if limit_of is None or count is None:
        return cut
    roles = vocabulary.roles
    for number, role in enumerate(vocabulary.role_names) if roles is not None else [(0, None)]:
        own = torch.ones_like(cut) if roles is None else roles == number
        for place in (own & (lengths >= int(limit_of(role)))).nonzero()[:, 0].tolist():
            cut[place] = count([vocabulary.texts[place]], role)[1] > 0
    return cut


def cut_items(data: MetricDataModule, ids: Tensor, cut: Tensor) -> NDArray[np.bool_]:
    """``[n]``, whether a text of each item is cut; ``cut`` is what :func:`cut_texts` returns."""
    rows = data.items.texts.select(ids)
    found = torch.zeros(len(ids), dtype=torch.bool)
    found[rows.segment_ids[cut[rows.values]]] = True
    return found.numpy()
