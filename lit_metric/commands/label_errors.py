"""Find wrong labels in a file."""

from __future__ import annotations

import logging
from typing import Any

from lit_metric.commands.classify import names_of
from lit_metric.commands.items import (
    ENDINGS,
    BadRowsOption,
    FileItems,
    RoleEncoder,
    check_output,
    print_table,
    with_results,
    write_table,
)
from lit_metric.data import CsvOptions, DataError
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.neighbours.duplicates import normalized
from lit_metric.neighbours.label_errors import LabelErrors, find_label_errors

log = logging.getLogger(__name__)

SHOWN_ROWS = 20
"""Suspects that are shown; files have all."""


def label_errors(
    model: str,
    input: str,
    output: str | None = None,
    also: str | None = None,
    limit: int | None = None,
    neighbours: int = 5,
    label: str | None = None,
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
    """Show the rows of a file whose labels are probably wrong, the most suspicious first.

    A row is judged by all rows of other texts: by the votes of its nearest ones, and by a linear classifier
    that has not seen it. How often each class is labelled as another one is estimated from all rows. Suspects
    are the rows whose label is then more probably wrong than right. A person should look at them: delete the
    rows of the output that are right, and then train without the others by lit-metric fit --data.exclude
    OUTPUT.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id. One that was trained on these
            labels has seen the wrong ones, too: give --also its backbone, or take the backbone alone.
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        output: file to write, .parquet, .csv or .jsonl, in place of showing the first suspects.
        also: a second model, such as the untrained backbone; the evidence of both is averaged.
        limit: how many suspects at most; all rows in question if not given.
        neighbours: how many of them are told for each suspect.
        label: column of labels; guessed if it has a usual name.
        key: column by which rows and neighbours are called, in place of their texts.
        text: column of texts; guessed if it has a usual name.
        tags: column of tags, for a model of sets.
        tag_separator: what stands between tags in a string.
        weights: column of lists of numbers, how much each tag counts.
        field: column by role, for a model of items of several fields, such as --field.title name.
        role: of the rows, for a model that has roles.
        csv: how CSV files are written, such as --csv.separator or --csv.encoding; found if not given.
        bad_rows: refuse a file with rows that can't be used, or leave them out and say how many.
        max_tokens: tokens per batch.
        precision: of matrix products.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the file can't be used, or rows have several labels.
        ValueError: when options and model don't fit together.

    Example:
        lit-metric label-errors --model runs/questions --input questions.csv --output suspects.csv
    """
    if neighbours < 1 or (limit is not None and limit < 1):
        raise ValueError(f"--neighbours {neighbours} and --limit {limit} must be at least 1")
    path = None if output is None else check_output(output, ENDINGS)
    items: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator, "weights": weights}
    items |= {"field": field, "csv": csv, "key": key, "label": label}
    encoder = RoleEncoder(load(model, trust_remote_code), role, "--role")
    read = encoder.read(input, bad_rows, labelled=True, **items)
    vectors = [encoder.encode(read, max_tokens, precision)]
    if also is not None:
        other = RoleEncoder(load(also, trust_remote_code), role, "--role")
        same = other.kind == encoder.kind  # else one takes texts and the other one tags
        rows = read if same else other.read(input, bad_rows, labelled=True, **items)
        vectors.append(other.encode(rows, max_tokens, precision))
    labels = [each for each in read.items.labels if isinstance(each, str)]
    if len(labels) != len(read):
        raise DataError(f"{read.table.name}: rows have several labels, and label-errors takes one for each")
    found = find_label_errors(vectors, labels, [normalized(each) for each in read.inputs()], progress=True)
    places = found.suspects[:limit].tolist()
    log.info(
        "%d of %d rows are suspects; %.1f%% of the labels are estimated to be wrong",
        len(found.suspects),
        len(read),
        100 * found.share,
    )
    results = _evidence(read, found, places, neighbours)
    if path is not None:
        write_table(path, with_results(read.select(places).columns(), results))
        log.info(
            "Wrote %d rows to %s; delete what is right, then lit-metric fit --data.exclude %s",
            len(places),
            path,
            path,
        )
    elif places:
        _show(read, results, places)


def _evidence(
    read: FileItems, found: LabelErrors, places: list[int], neighbours: int
) -> dict[str, list[Any]]:
    """What is known of each suspect: where it is, its labels, its score, and its nearest rows."""
    names, labels = names_of(read), read.items.labels
    return {
        **read.select(places).origins(),
        "given": [labels[place] for place in places],
        "suggested": [found.suggested[place] for place in places],
        "score": [round(float(found.score[place]), 6) for place in places],
        "neighbours": [
            [
                {"item": names[other], "label": labels[other], "cosine": round(float(cosine), 6)}
                for other, cosine in zip(found.neighbours[place], found.cosines[place], strict=True)
                if other >= 0
            ][:neighbours]
            for place in places
        ],
    }


def _show(read: FileItems, results: dict[str, list[Any]], places: list[int]) -> None:
    """Print the first suspects, with the nearest neighbour of the suggested label."""
    names = ("row", "given", "suggested", "score")
    rows = []
    items = names_of(read)
    for at, place in enumerate(places[:SHOWN_ROWS]):
        near = results["neighbours"][at]
        shown = next(
            (each for each in near if each["label"] == results["suggested"][at]),
            near[0] if near else {"item": ""},
        )
        rows.append([*(str(results[name][at]) for name in names), items[place], shown["item"]])
    print_table([*names, "item", "nearest"], rows)
    if len(places) > SHOWN_ROWS:
        log.info("These are the first %d; --output FILE writes all of them", SHOWN_ROWS)
