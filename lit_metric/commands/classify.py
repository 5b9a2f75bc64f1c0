"""Classify the rows of a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lit_metric.commands.items import (
    ENDINGS,
    STANDARD_INPUT,
    BadRowsOption,
    FileItems,
    RoleEncoder,
    check_output,
    input_lines,
    print_table,
    split_tags,
    with_results,
    write_table,
)
from lit_metric.data import CsvOptions
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.neighbours import NeighbourClassifier
from lit_metric.neighbours.storage import CONFIG

log = logging.getLogger(__name__)


def classify(
    model: str,
    input: str,
    labelled: str | None = None,
    output: str | None = None,
    k: int | None = None,
    temperature: float | None = None,
    refuse: float | None = None,
    held_out: str | None = None,
    unknown: str | None = None,
    save: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    labels_separator: str | None = None,
    key: str | None = None,
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    weights: str | None = None,
    field: dict[str, str] | None = None,
    role: str | None = None,
    csv: CsvOptions | None = None,
    bad_rows: BadRowsOption = "error",
    max_tokens: int = 16384,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
) -> None:
    """Give each row of a file the label for which its nearest labelled rows vote, by cosine.

    The output has all columns of the input, and predicted, confidence (the share of the votes), and
    neighbours: the labelled rows that voted, with their labels and cosines. With --refuse there is p_known,
    too, and rows that are unlike anything labelled are not given a label.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id; or a classifier that --save
            wrote.
        input: Parquet, CSV or JSON Lines file, data set folder, id of a data set on the hub, or - for lines
            of standard input.
        labelled: file of labelled rows; a saved classifier needs none, and adds these to its own.
        output: file to write, .parquet, .csv or .jsonl, in place of showing the results.
        k: how many neighbours vote; 10 if not given, or what a saved classifier has.
        temperature: a vote weighs exp(cosine / temperature), and 0 counts votes; 0.1 if not given, or what a
            saved classifier has.
        refuse: the share of rows like the labelled ones that may be refused, such as 0.05; none are if not
            given, or what a saved classifier has.
        held_out: file of rows that neither the model nor --labelled has seen, for --refuse to be right for a
            model that was trained on the labelled rows.
        unknown: the answer for refused rows; "unknown" if not given, and no label where rows have several.
        save: folder to write the classifier to, with its model.
        label: column of labels; guessed if it has a usual name.
        labels: column of several labels each.
        labels_separator: what stands between labels in a string.
        key: column of --labelled by which neighbours are called, in place of their texts.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        weights: column of lists of numbers, how much each tag counts.
        field: column by role, for a model of items of several fields, such as --field.title name.
        role: of all rows, for a model that has roles.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out and say how many.
        max_tokens: tokens per batch.
        precision: of matrix products.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when a file can't be used.
        ValueError: when options, labels and model don't fit together.

    Example:
        lit-metric classify --model runs/questions --labelled questions.csv --input new.csv --output out.csv
    """
    path = None if output is None else check_output(output, ENDINGS)
    saved = (Path(model) / CONFIG).is_file()
    if refuse is None and not saved and (held_out is not None or unknown is not None):
        raise ValueError("--held_out and --unknown are for --refuse, such as --refuse 0.05: add it")
    if not saved and labelled is None:
        raise ValueError("--labelled is needed: the file of rows whose labels are known")
    given = {"k": k, "temperature": temperature, "refuse": refuse, "unknown": unknown, "role": role}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if temperature == 0:
        settings["temperature"] = None
    if saved:
        classifier = NeighbourClassifier.load(model, trust_remote_code).set_params(**settings)
    else:
        classifier = NeighbourClassifier(load(model, trust_remote_code), **settings)
    if not isinstance(classifier.encoder, Encoder):
        raise ValueError(f"--model {model} is a classifier of vectors without a model: it can't read rows")
    encoder = RoleEncoder(classifier.encoder, classifier.role, "--role")
    items: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator, "weights": weights}
    items |= {"field": field, "csv": csv}
    if labelled is not None:
        named: dict[str, Any] = {"label": label, "labels": labels, "labels_separator": labels_separator}
        read = encoder.read(labelled, bad_rows, key=key, labelled=True, **named, **items)
        vectors = encoder.encode(read, max_tokens, precision)
        classifier.partial_fit(vectors, read.items.labels, names=names_of(read))
    if held_out is not None:
        known = encoder.read(held_out, bad_rows, **items)
        classifier.calibrate(encoder.encode(known, max_tokens, precision))
    if input == STANDARD_INPUT:
        items = {"text": "text" if encoder.kind == "text" else None, "tags": None}
        asked = encoder.read(standard_input(encoder, tag_separator), bad_rows, **items)
    else:
        asked = encoder.read(input, bad_rows, **items)
    results = answers(classifier, encoder.encode(asked, max_tokens, precision))
    if save is not None:
        classifier.save(save)
        log.info("Saved the classifier of %d labelled items in %s", len(classifier.names_), save)
    if path is None:
        _show(asked, results)
        return
    write_table(path, with_results(asked.columns(), results))
    log.info("Wrote %d rows to %s", len(asked), path)
    if classifier.refuse is not None:
        count = sum(each <= classifier.refuse for each in results["p_known"])
        log.info("%d of them are unlike anything labelled, and have no label", count)


def answers(classifier: NeighbourClassifier, vectors: np.ndarray) -> dict[str, list[Any]]:
    """Columns of results for ``vectors [n, d]``: ``predicted``, ``confidence``, ``p_known`` where items may
    be refused, and ``neighbours``, most similar first."""
    predicted, shares, p_known, cosines, places = classifier.answer(vectors)
    if isinstance(predicted, list):
        place = {name: number for number, name in enumerate(classifier.classes_.tolist())}
        confidence: list[Any] = [
            [round(row[place[name]], 4) for name in names if name in place]
            for names, row in zip(predicted, shares.tolist(), strict=True)
        ]
    else:
        predicted, confidence = predicted.tolist(), shares.max(axis=1).round(4).tolist()
    results = {"predicted": predicted, "confidence": confidence}
    if p_known is not None:
        results["p_known"] = p_known.tolist()
    labels = classifier.y_
    results["neighbours"] = [
        [
            {"item": classifier.names_[at], "label": labels[at], "cosine": round(cosine, 6)}
            for cosine, at in zip(*row, strict=True)
        ]
        for row in zip(cosines.tolist(), places.tolist(), strict=True)
    ]
    return results


def names_of(read: FileItems) -> list[str]:
    """What to call the items of a file: their keys, or else their texts."""
    return read.items.keys or [", ".join(row) for row in read.items.rows]


def standard_input(encoder: RoleEncoder, separator: str | None) -> list[dict[str, Any]]:
    """Rows of the lines of standard input, each a text, or tags with commas or ``separator`` between them."""
    lines = [*input_lines()]
    if not lines:
        raise ValueError("--input -: there are no lines on standard input")
    if encoder.kind == "text":
        return [{"text": line} for line in lines]
    return [{"tags": split_tags(line, separator)} for line in lines]


def _show(asked: FileItems, results: dict[str, list[Any]]) -> None:
    """Print one row for each item: its label, the confidence, its text, and its nearest neighbour."""
    names = [name for name in ("predicted", "confidence", "p_known") if name in results]
    rows = []
    for place, row in enumerate(asked.items.rows):
        cells = [results[name][place] for name in names]
        shown = [", ".join(map(str, each)) if isinstance(each, list) else f"{each}" for each in cells]
        rows.append([*shown, ", ".join(row), *(each["item"] for each in results["neighbours"][place][:1])])
    print_table([*names, "item", "nearest"], rows)
