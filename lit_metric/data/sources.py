"""From the sources of all splits to one checked data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError, listed, listed_files
from lit_metric.data.evaluated import Against, EvaluationView, class_counts
from lit_metric.data.formats import AUTO, Judgements, Labels, Pairs, ReadOptions, Supervision
from lit_metric.data.formats.judgements import DOCUMENT_NAMES, QUERY_NAMES
from lit_metric.data.formats.pairs import usual_pair
from lit_metric.data.in_memory import SOURCES
from lit_metric.data.ragged import Ragged
from lit_metric.data.readers import READERS, Source, read_table
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, PairRelations
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)

Classified = LabelRelations | MultiLabelRelations


def read_dataset(
    sources: Mapping[str, Source],
    supervision: Supervision | None,
    split: str | None,
    reading: ReadOptions,
    against: dict[str, Against | None],
) -> Dataset:
    """Read the sources of a data set, check them, and log what a person should know about them.

    Args:
        sources: by split.
        supervision: what is known about items; guessed if None.
        split: the column that names the split of each row, if the supervision is guessed.
        reading: how sources are read.
        against: by split, what labelled items are compared with; see :class:`EvaluationView`.

    Raises:
        DataError: when there is no source, something in them can't be used, or nothing can be learned.
    """
    tables = {
        name: read_table(
            source, problems=reading.problems, name=name, csv=reading.csv, folder=reading.cache_dir
        )
        for name, source in sources.items()
    }
    if not tables:
        raise DataError(f"no data: give train= (and test=), each {SOURCES}")
    supervision = supervision or guess_supervision(next(iter(tables.values())), split)
    dataset = supervision.read(tables, reading)
    unused: dict[str, list[str]] = {}
    for table in (*tables.values(), *reading.opened):
        if names := [name for name in table.columns if name not in table.used]:
            unused.setdefault(listed(names, 10), []).append(table.name)
    if unused:
        columns = [
            f"{names} of {listed_files(list(dict.fromkeys(files)))}" for names, files in unused.items()
        ]
        logger.info("columns that are not used: %s", "; ".join(columns))
    check(dataset, EvaluationView(dataset, against))
    return dataset


def given(sources: Mapping[str, Source | None]) -> dict[str, Source]:
    """The sources that are there."""
    return {name: source for name, source in sources.items() if source is not None}


def without_predict(sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources without the rows that are only encoded, unless there are no others."""
    return {name: source for name, source in sources.items() if name != "predict"} or dict(sources)


def guess_supervision(table: Table, split: str | None = AUTO) -> Supervision:
    """The supervision that the usual names of columns suggest: pairs or judgements, or else labels.

    Judgements name texts by their ids. The texts are searched next to the file, or one folder up, as in BEIR:
    ``queries.jsonl`` and ``corpus.jsonl``, or with another suffix.

    Args:
        table: the first of the sources.
        split: the column that names the split of each row; see :class:`Labels`.

    Raises:
        DataError: for triples, and for judgements without files of texts: only the caller can say where the
            texts are.
    """

    def holds_texts(column: str) -> bool:  # not ids, which are single words
        values = table.peek(column, 100)
        return any(" " in value if isinstance(value, str) else isinstance(value, list) for value in values)

    needs = "Judgements(queries=..., corpus=...)"
    pair = usual_pair(table)
    if pair is None:
        if {"head", "relation", "tail"} <= {name.lower() for name in table.columns}:
            needs = "Triples(entities=...)"
        elif not (table.guess(QUERY_NAMES) and table.guess(DOCUMENT_NAMES)):
            return Labels(split=split)
    elif pair[2] or any(map(holds_texts, pair[:2])):
        return Pairs(symmetric=pair[2], split=split)
    path = Path(table.name)
    folders = (path.parent, path.parent.parent) if path.is_file() and needs.startswith("Judgements") else ()
    for folder in folders:
        files = {name: [folder / f"{name}{suffix}" for suffix in READERS] for name in ("queries", "corpus")}
        found = [next(filter(Path.is_file, paths), None) for paths in files.values()]
        if found[0] and found[1]:
            if split not in (AUTO, None):
                raise DataError(f"split={split!r}: judgements are split by folds= or by one source each")
            logger.info("%s holds ids of texts, which are taken from %s and %s", table.name, *found)
            return Judgements(str(found[0]), str(found[1]))
    raise DataError(
        f"{table.layout}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )


def check(dataset: Dataset, view: EvaluationView) -> None:
    """Refuse training data in which nothing belongs together, and log what evaluations will miss.

    Raises:
        DataError: when nothing can be learned.
    """
    train, relations = dataset.splits.get("train"), dataset.relations
    if train is not None:
        if isinstance(relations, PairRelations):
            if dataset.planned == "pairs" and not len(relations.all_positives(train).values):
                raise DataError(
                    f"none of the {len(train)} training anchors has a positive, so nothing belongs together; "
                    "is positive_from= too high, or score= the wrong column?"
                )
            pairs = dataset.pairs.get("train")
            if pairs is not None and len(pairs) > 1 and bool((pairs.targets == pairs.targets[0]).all()):
                logger.warning(
                    "all %d scores of the training pairs are %g, and losses that compare scores learn "
                    "nothing from them: without score=, all pairs belong together",
                    len(pairs),
                    float(pairs.targets[0]),
                )
        elif isinstance(relations, Classified):
            _check_classes(dataset, relations, train)
            for split in ("validation", "test"):
                if split in dataset.splits and not (split == "validation" and dataset.held_out):
                    _check_common(relations, train, dataset.splits[split], split)
                    _check_leaks(dataset, train, split)
    if "validation" in dataset.splits:
        if isinstance(relations, LabelRelations) and view.compared_with("validation") != "train":
            _check_validation(relations, dataset.splits["validation"])
        view.log_comparison("validation")


def _check_classes(dataset: Dataset, relations: Classified, train: Tensor) -> None:
    counts = class_counts(relations, train)
    if not bool((counts >= 2).any()):
        held = len(dataset.splits["validation"]) if dataset.held_out else 0
        after = f", after {held} were held out for validation" if held else ""
        raise DataError(
            f"no class of the training items has two members ({len(train)} items, "
            f"{int((counts > 0).sum())} classes{after}), so nothing belongs together; is label= the right "
            "column?"
        )
    single = [relations.classes[place] for place in (counts == 1).nonzero()[:, 0].tolist()]
    if single:
        logger.info(
            "%d class%s one training item, and serve%s as negatives and neighbours only: %s",
            len(single),
            "es have" if len(single) > 1 else " has",
            "" if len(single) > 1 else "s",
            listed(single, 8),
        )


def _check_common(relations: Classified, train: Tensor, ids: Tensor, split: str) -> None:
    """Log how many items of a split have no class in common with the training items."""
    known, evaluated = (class_counts(relations, each) > 0 for each in (train, ids))
    labels = relations.labels
    if isinstance(labels, Ragged):
        own = labels.select(ids)
        found = known[own.values].long()
        common = torch.zeros(len(ids), dtype=torch.int64).index_add_(0, own.segment_ids, found) > 0
        labelled = own.lengths > 0
    else:
        labelled = labels[ids] >= 0
        common = labelled & known[labels[ids].clamp(min=0)]
    count, all_of = int(common.sum()), int(labelled.sum())
    if not all_of or 2 * count >= all_of:
        return
    theirs, ours = (
        listed([relations.classes[place] for place in mask.nonzero()[:, 0].tolist()], 4)
        for mask in (evaluated & ~known, known)
    )
    logger.warning(
        "%s of the %d %s items %s a class that occurs in training: %s there, %s in training. That is right "
        "for new classes, and wrong if labels are written differently",
        count or "none",
        all_of,
        split,
        "has" if count < 2 else "have",
        theirs,
        ours,
    )


def _check_leaks(dataset: Dataset, train: Tensor, split: str) -> None:
    """Log how many texts of a split are texts of training items."""
    ids, fingerprints = dataset.splits[split], dataset.items.fingerprints
    count = int(torch.isin(fingerprints[ids], fingerprints[train]).sum())
    if count and dataset.items.kind == "text":
        logger.warning(
            "%d of the %d %s texts %s in the training data, too; lit-metric duplicates --input TRAINING_FILE "
            "--against %s_FILE lists them",
            count,
            len(ids),
            split,
            "is" if count == 1 else "are",
            split.upper(),
        )


def _check_validation(relations: LabelRelations, ids: Tensor) -> None:
    labels = relations.labels[ids]
    if not len(labels):
        return
    counts = torch.bincount(labels[labels >= 0], minlength=1)
    if int(counts.max()) < 2:
        logger.warning(
            "no two validation items have the same class, so retrieval metrics are NaN: "
            "raise validation_share=, give validation=, or validation_corpus='train'"
        )
    elif int((counts > 0).sum()) == 1 and len(relations.classes) > 1:
        logger.warning("all validation items are of one class, so every neighbour is right: give validation=")
