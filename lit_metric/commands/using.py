"""Encode a file, search one, carry a model away."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as RichTable

from lit_metric.data import DataError, LabelledItems, Labels, Problems, read_table
from lit_metric.data.files import replacing, write_array
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.labels import TAG_NAMES
from lit_metric.data.items import without_repeats
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.base import PRECISIONS, Precision
from lit_metric.hub import export
from lit_metric.index import ExactIndex

log = logging.getLogger(__name__)


def read_items(
    encoder: Encoder, source: str, key: str | None = None, field: Sequence[str] = (), **columns: Any
) -> LabelledItems:
    """Items of the kind that the encoder takes: texts, or lists of tags or of the texts of several fields.

    Args:
        encoder: says which kind.
        source: see :func:`~lit_metric.data.read_table`.
        key: a column of names.
        field: ``ROLE=COLUMN`` of each field, if items have fields.
        columns: ``text``, ``tags``, ``tag_separator`` and ``weights`` of :class:`~lit_metric.data.Labels`.

    Raises:
        DataError: when the source can't be used, or holds the other kind.
        ValueError: when a field is not given as ``ROLE=COLUMN``.
    """
    table = read_table(source)
    wanted = "set" if isinstance(encoder, SetEncoder) else "text"
    if wanted == "set" and not (field or columns["text"] or columns["tags"]):
        columns["tags"] = next((name for name in TAG_NAMES if name in table.columns), None)
    reading = Columns(table, Problems())
    items = Labels(key=key, fields=_fields(field), **columns).items(reading, labelled=False)
    reading.problems.refuse()
    if items.kind != wanted:
        raise DataError(
            f"{source} gives items of kind {items.kind!r}, but this model encodes {wanted!r}: "
            + ("name the column with --tags" if wanted == "set" else "name the column with --text")
        )
    return items


def _fields(given: Sequence[str]) -> dict[str, str] | None:
    fields = {}
    for each in given:
        role, equals, column = each.partition("=")
        if not (role and equals and column):
            raise ValueError(f"--field {each}: give the role and the column, as in --field title=name")
        fields[role] = column
    return fields or None


def encode_items(
    encoder: Encoder, items: LabelledItems, role: str | None, max_tokens: int, precision: Precision
) -> np.ndarray:
    """Vectors of items read from a file.

    Raises:
        ValueError: when a role was asked for, but each text has one from its field.
    """
    rows, roles, weights = items.rows, items.roles, items.weights
    if role is not None and roles is not None:
        raise ValueError(f"--role {role}: texts have the roles of their --field; leave one of the two out")
    if roles is None and weights is None:
        return encoder.encode(inputs(items), max_tokens, progress=True, role=role, precision=precision)
    kept, roles, weights = without_repeats(rows, roles, weights)  # type: ignore[assignment]
    return encoder.encode(
        kept, max_tokens, progress=True, role=roles or role, weights=weights, precision=precision
    )


def role_of(encoder: Encoder, option: str, asked: str | None, default: str | None = None) -> str | None:
    """The role to encode in: the one that is asked for, else the default where the model knows it.

    Raises:
        ValueError: when the model doesn't know the role, or needs one.
    """
    known = encoder.tokenizer.roles
    if asked is None and default not in known and isinstance(encoder, TwoTowerEncoder):
        raise ValueError(f"{option} is needed: this model has a tower for queries and one for documents")
    if asked is None:
        return default if default in known else None
    if asked not in known:
        roles = f"knows {', '.join(known)}" if known else f"has no roles; leave {option} out"
        raise ValueError(f"{option} {asked}: this model {roles}")
    return asked


def tower(encoder: Encoder, role: str | None) -> Encoder:
    """What encodes items in this role."""
    return encoder.tower(role) if isinstance(encoder, TwoTowerEncoder) else encoder


def encode(
    encoder: Encoder,
    input: str,
    output: str,
    role: str | None,
    max_tokens: int,
    precision: Precision,
    **columns: Any,
) -> None:
    """Encode a file's items into a .npy file, or a .parquet file with an "embedding" column added."""
    path = Path(output)
    if path.suffix not in (".npy", ".parquet"):
        raise ValueError(f"--output {output}: the name must end in .npy or .parquet")
    role = role_of(encoder, "--role", role)
    items = read_items(tower(encoder, role), input, **columns)
    vectors = encode_items(encoder, items, role, max_tokens, precision)

    if path.suffix == ".npy":
        write_array(path, vectors)
    else:
        content: dict[str, Any] = {
            "tags" if items.kind == "set" else "text": inputs(items),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        }
        with replacing(path) as unfinished:
            pq.write_table(pa.table(content), unfinished, compression="zstd")
    log.info("Wrote %d embeddings of %d components to %s", *vectors.shape, path)


def search(
    encoder: Encoder,
    corpus: str,
    query: list[str],
    k: int,
    role: str | None,
    query_role: str | None,
    key: str | None,
    max_tokens: int,
    precision: Precision,
    **columns: Any,
) -> None:
    """Show the items of a file that are nearest to each query, by cosine."""
    if k < 1:
        raise ValueError(f"-k {k}: at least 1 is needed")
    role = role_of(encoder, "--role", role, "document")
    query_role = role_of(encoder, "--query-role", query_role, "query")
    items = read_items(tower(encoder, role), corpus, key, **columns)
    queries: list[Any] = list(query)
    if isinstance(tower(encoder, query_role), SetEncoder):
        cut = columns["tag_separator"] or ","
        queries = [
            list(dict.fromkeys(tag.strip() for tag in each.split(cut) if tag.strip())) for each in query
        ]
    if not all(queries):
        raise ValueError("--query is empty: give a text, or tags with commas between them")
    index = ExactIndex()
    index.add(encode_items(encoder, items, role, max_tokens, precision), np.arange(len(items)))
    scores, found = index.search(encoder.encode(queries, role=query_role, precision=precision), k)
    console = Console()
    for asked, row, places in zip(query, scores.tolist(), found.tolist(), strict=True):
        table = RichTable(title=f"nearest to: {asked}", title_justify="left")
        table.add_column("cosine", justify="right")
        table.add_column("row", justify="right")
        if items.keys:
            table.add_column(key or "")
        table.add_column("item")
        for score, place in zip(row, places, strict=True):
            if place >= 0:
                named = [items.keys[place]] if items.keys else []
                shown = [f"{score:.3f}", str(place + 1), *named, ", ".join(items.rows[place])]
                table.add_row(*(cell.replace("[", r"\[") for cell in shown))
        console.print(table)


def export_folder(encoder: Encoder, output: str) -> None:
    """Write a folder that sentence-transformers and Hugging Face load."""
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--output {output} exists already and is not an empty folder; name another")
    export(encoder, folder)
    folders = [folder / "query", folder / "document"] if (folder / "query").is_dir() else [folder]
    told = " and ".join(f'SentenceTransformer("{each}")' for each in folders)
    log.info("Wrote %s; use it with %s", folder, told)


def inputs(items: LabelledItems) -> list[Any]:
    """What :meth:`Encoder.encode` takes for these items."""
    return list(items.rows) if items.kind == "set" else [texts[0] for texts in items.rows]


def _columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", help="column of texts; guessed if it has a usual name")
    parser.add_argument("--tags", help="column of tags, for a model of sets")
    parser.add_argument("--tag-separator", help="what stands between tags in a string")
    parser.add_argument("--weights", help="column of lists of numbers, how much each tag counts")
    parser.add_argument(
        "--field", action="append", default=[], help="ROLE=COLUMN, for a model of items of several fields"
    )
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens per batch (%(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of matrix products (%(default)s)"
    )


def encode_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``encode``."""
    parser.add_argument("--input", required=True, help="Parquet, CSV or JSON Lines file, or a data set")
    parser.add_argument("--output", required=True, help="file to write, .npy or .parquet")
    parser.add_argument(
        "--role", help="what the items are, such as query or document, if the model has roles"
    )
    _columns(parser)


def search_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``search``."""
    parser.add_argument("--corpus", required=True, help="Parquet, CSV or JSON Lines file, or a data set")
    parser.add_argument("--query", required=True, action="append", help="a text, or tags; may be repeated")
    parser.add_argument("-k", type=int, default=10, help="how many to show (%(default)s)")
    parser.add_argument("--role", help="of the items; document if the model has that")
    parser.add_argument("--query-role", help="of the queries; query if the model has that")
    parser.add_argument("--key", help="column of names to show")
    _columns(parser)


def export_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``export``."""
    parser.add_argument("--output", required=True, help="folder to write")
