"""Look at a table, and write a config that trains on it."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from lit_metric.cli.run_name import plain_name
from lit_metric.commands.suggest import suggest
from lit_metric.data import CsvOptions
from lit_metric.store import replacing


def init(
    input: str,
    output: str = "config.yaml",
    text: str | None = None,
    tags: str | None = None,
    tag_separator: str | None = None,
    label: str | None = None,
    labels: str | None = None,
    labels_separator: str | None = None,
    anchor: str | None = None,
    positive: str | None = None,
    negative: str | None = None,
    score: str | None = None,
    entities: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    backbone: str | None = None,
    csv: CsvOptions | None = None,
    overwrite: bool = False,
) -> None:
    """Look at a table, write a config that trains on it, and say what was noticed.

    Rows may be texts or tags with one label or several, pairs of texts with or without scores or negatives,
    judgements, or facts of a graph. Columns are guessed by their names, then by what they hold; the options
    that name columns override a guess.

    Args:
        input: Parquet, CSV or JSON Lines file, data set folder, or id of a data set on the hub.
        output: file to write, or - for the standard output.
        text: column of texts.
        tags: column of tags: lists, or strings with a separator.
        tag_separator: what stands between tags in a string; found if not given.
        label: column of one label each.
        labels: column of several labels each: lists, or strings with a separator.
        labels_separator: what stands between labels in a string; found if not given.
        anchor: column of the first texts of pairs.
        positive: column of the texts that belong to them.
        negative: column of texts that don't belong to them.
        score: column of numbers, how much the two texts of a pair belong together.
        entities: table with the texts of a graph's entities, by id.
        validation: file of validation rows; a tenth is held out if not given.
        test: file of test rows.
        backbone: Hugging Face id, folder, or package:NAME/folder.
        csv: how CSV files are written, such as --csv.separator; found if not given.
        overwrite: replace an output that exists.

    Raises:
        DataError: when the table can't be used.
        FileExistsError: when the output exists.

    Example:
        lit-metric init questions.csv --output questions.yaml
    """
    path = None if output == "-" else Path(output)
    if path is not None and path.exists() and not overwrite:
        raise FileExistsError(f"--output {path} exists: give another name, or --overwrite true to replace it")
    given = {"text": text, "tags": tags, "label": label, "labels": labels}
    given |= {"tag_separator": tag_separator, "labels_separator": labels_separator}
    given |= {"anchor": anchor, "positive": positive, "negative": negative, "score": score}
    sources = {"train": input, "validation": validation, "test": test}
    with _quiet():
        found = suggest(sources, given, entities, backbone, csv)
    shown = sys.stderr if path is None else sys.stdout
    print("\n".join(found.summary()), file=shown)
    if path is None:
        print(found.config(input), end="")
        return
    with replacing(path) as unfinished:
        unfinished.write_text(found.config(input), encoding="utf-8")
    stems = [Path(input.partition(":")[0]).stem] if path.stem == "config" else [path.stem]
    name = next(filter(None, map(plain_name, stems)), "run")
    print(f"\nWrote {path}. Next:\n  lit-metric fit --config {shlex.quote(str(path))}")
    print(f"  lit-metric search --model runs/{name} {found.searched}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what reading logs, since the summary says it."""
    levels = {"lit_metric.data": logging.WARNING, "lit_metric.datamodule": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
