"""Tables in memory: data frames, Arrow tables, ``datasets``, lists and dicts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lit_metric.data.errors import DataError, Problems, listed
from lit_metric.data.table import Part

SOURCES = (
    "a path, pattern or hub id, a list of them, a pandas or polars DataFrame, a pyarrow Table, a "
    "datasets.Dataset, a list of dicts, or a dict of lists"
)


def part_of_object(source: Any, split: str | None, problems: Problems, name: str) -> Part | None:
    """The rows of an object in memory, or None for an object of any other kind.

    Args:
        source: see :func:`~lit_metric.data.read_table`.
        split: of a ``datasets.DatasetDict``.
        problems: where rows that are no dicts are noted.
        name: what errors call it, followed by its kind.

    Raises:
        DataError: when columns have different lengths or one name, or a split must be named.
    """
    called = f"{name} ({kind_of(source)})" if name else kind_of(source)
    found: Part | None = None
    # No object can come from a library that isn't imported.
    datasets, pandas = sys.modules.get("datasets"), sys.modules.get("pandas")
    if datasets is not None and isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return part_of_dataset(source, called, split)
    if isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    if pandas is not None and isinstance(source, pandas.DataFrame):
        found = _part_of_frame(source, called)
    elif isinstance(source, pa.Table) or hasattr(source, "__arrow_c_stream__"):
        try:
            table = source if isinstance(source, pa.Table) else pa.table(source)
        except (pa.ArrowException, TypeError, ValueError):  # a single column also has such a stream
            return None
        features = class_features(table.schema)
        found = Part(
            called,
            table.num_rows,
            table.column_names,
            lambda column: with_class_names(table.column(column).to_pylist(), features.get(column)),
            cut=lambda column, start, stop: with_class_names(
                table.column(column).slice(start, stop - start).to_pylist(), features.get(column)
            ),
        )
    elif isinstance(source, Mapping):
        found = _part_of_columns(source, called)
    elif isinstance(source, Sequence) and source and isinstance(source[0], Mapping):
        found = part_of_rows(source, called, problems)
    if found is not None:
        if split is not None:
            raise DataError(f"split={split!r} was given, but {called} has no splits; leave it out")
        repeated = sorted({column for column in found.columns if found.columns.count(column) > 1})
        if repeated:
            raise DataError(f"{called} has the column {listed(repeated)} more than once; rename one")
    return found


def kind_of(source: Any) -> str:
    """What a person calls the type of an object.

    Example:
        >>> kind_of({"text": ["a"]}), kind_of([{"text": "a"}]), kind_of(pa.table({}))
        ('dict of lists', 'list of dicts', 'pyarrow Table')
    """
    if isinstance(source, Mapping):
        return "datasets.DatasetDict" if type(source).__name__ == "DatasetDict" else "dict of lists"
    if isinstance(source, list | tuple) and source and isinstance(source[0], Mapping):
        return "list of dicts"
    library, name = type(source).__module__.partition(".")[0], type(source).__name__
    return name if library == "builtins" else f"{library}{'.' if library == 'datasets' else ' '}{name}"


def part_of_rows(rows: Sequence[Any], name: str, problems: Problems) -> Part:
    """Rows of one dict each; those that lack a column have None there."""
    broken = {row for row, each in enumerate(rows) if not isinstance(each, Mapping)}
    for row in sorted(broken):
        problem = f"{type(rows[row]).__name__} instead of a dict"
        problems.add((name, row + 1), "", problem, "Each row must be a dict of columns.")
    kept = [{} if row in broken else each for row, each in enumerate(rows)]
    names = list(dict.fromkeys(column for row in kept for column in row))
    return Part(
        name,
        len(rows),
        names,
        lambda column: [_plain(row.get(column)) for row in kept],
        frozenset(broken),
        cut=lambda column, start, stop: [_plain(row.get(column)) for row in kept[start:stop]],
    )


def _part_of_frame(frame: Any, name: str) -> Part:
    columns = [str(column) for column in frame.columns]

    def cut(column: str, start: int, stop: int) -> list[Any]:
        # Of any type, such as strings or categories.
        series = frame.iloc[start:stop, columns.index(column)]
        missing = series.isna().tolist()
        return [None if none else _plain(value) for value, none in zip(series.tolist(), missing, strict=True)]

    return Part(name, len(frame), columns, lambda column: cut(column, 0, len(frame)), cut=cut)


def _part_of_columns(columns: Mapping[Any, Any], name: str) -> Part:
    for column, values in columns.items():
        if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
            raise DataError(f"column {column!r} of {name} is {type(values).__name__}, not a list")
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{column!r}: {length}" for column, length in lengths.items())
        raise DataError(f"the columns of {name} must be of one length, got {found}")
    given = {str(column): values for column, values in columns.items()}
    return Part(
        name,
        max(lengths.values(), default=0),
        [str(column) for column in columns],
        lambda column: [_plain(value) for value in given[column]],
        cut=lambda column, start, stop: [_plain(value) for value in given[column][start:stop]],
    )


def part_of_dataset(data: Any, name: str, split: str | None, option: str = "") -> Part:
    """The rows of a ``datasets.Dataset``, or of one split of a ``DatasetDict``.

    Args:
        data: either.
        name: what errors call it.
        split: its name, of a ``DatasetDict``; may be left out where there is only one.
        option: how a split is named, with ``{}`` for it.

    Raises:
        DataError: when there is no such split, or there are several and none is named.
    """
    import datasets

    if isinstance(data, datasets.DatasetDict):
        split = choose_split([*data], split, name, option)
        name, data = f"{name}:{split}", data[split]
    elif split is not None:
        raise DataError(f"split={split!r} was given, but {name} has no splits; leave it out")
    plain = data.with_format(None)  # a format could be tensors

    def cut(column: str, start: int, stop: int) -> list[Any]:
        values = plain.select_columns([column])[start:stop][column]
        return with_class_names(list(values), data.features[column])

    return Part(
        name,
        len(data),
        data.column_names,
        lambda column: with_class_names(list(plain[column][:]), data.features[column]),
        cut=cut,
    )


def choose_split(splits: list[str], split: str | None, name: str, option: str = "") -> str:
    """The split that is named, or the only one.

    Args:
        splits: there are.
        split: the name, or None.
        name: what errors call the data.
        option: how a split is named, with ``{}`` for it; empty for an index of the object.

    Raises:
        DataError: when there is no such split, or there are several and none is named.
    """
    if split is None and len(splits) == 1:
        return splits[0]
    if split in splits:
        return split
    found = f"no split {split!r}" if split else "several splits"
    if option:
        raise DataError(f"{name} has {found}; name one of {listed([option.format(each) for each in splits])}")
    example = next(iter(splits), "train")
    raise DataError(f"{name} has {found}; give one of its splits {listed(splits)}, as in data[{example!r}]")


def class_features(schema: pa.Schema) -> Mapping[str, Any]:
    """The features that ``datasets`` wrote into a schema, none if it did not write it."""
    metadata = schema.metadata or {}
    try:
        about = json.loads(metadata.get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    if "ClassLabel" not in json.dumps(about):
        return {}
    import datasets

    features: Mapping[str, Any] = datasets.Features.from_arrow_schema(schema)
    return features


def with_class_names(values: list[Any], feature: Any) -> list[Any]:
    """Class numbers, or lists of them, as the names of the classes; other values as they are."""
    names = getattr(feature, "names", None)
    if names is not None and hasattr(feature, "int2str"):
        return [None if value is None or value < 0 else names[value] for value in values]
    inner = getattr(feature, "feature", None)
    if inner is not None and hasattr(inner, "int2str"):
        return [None if value is None else with_class_names(value, inner) for value in values]
    return values


def _plain(value: Any) -> Any:
    """A scalar or array of NumPy, or a tuple, as Python has them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
