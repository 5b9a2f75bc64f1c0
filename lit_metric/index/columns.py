"""The columns of rows in Arrow files, and which rows have a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lit_metric.index.base import StoredIndexError

Columns: TypeAlias = Mapping[str, Sequence[Any]] | pa.Table
Where: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]


def columns_table(columns: Columns | None, rows: int, schema: pa.Schema | None) -> pa.Table:
    """Columns as an Arrow table of ``rows`` rows.

    Args:
        columns: by name; None for none.
        rows: the number of their values.
        schema: of earlier rows. Columns that are missing become null. None: what ``columns`` have.

    Raises:
        ValueError: a column has another number of values, or values of another type, or is new.
    """
    try:
        table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns or {}))
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(
            f"a column has values of several types, or of one that Arrow lacks: {error}"
        ) from None
    if table.num_columns and table.num_rows != rows:
        raise ValueError(f"there are {rows} vectors, and columns of {table.num_rows} values")
    if schema is None:
        return table
    if new := [name for name in table.column_names if name not in schema.names]:
        raise ValueError(
            f"column {new[0]!r} is new: earlier rows have {', '.join(schema.names) or 'no columns'}; leave "
            "it out, or build the index again"
        )
    whole = {field.name: pa.nulls(rows, field.type) for field in schema}
    whole |= {name: table[name] for name in table.column_names}
    try:
        return pa.table(whole).cast(schema)
    except pa.ArrowException as error:
        found = {name: str(column.type) for name, column in whole.items()}
        differs = [field for field in schema if found[field.name] != str(field.type)]
        wanted = ", ".join(f"{field.name} is {field.type}, not {found[field.name]}" for field in differs)
        raise ValueError(f"columns have other types than in earlier rows: {wanted} ({error})") from None


def read_columns(paths: Sequence[Path]) -> pa.Table:
    """The rows of all Arrow files, mapped.

    Raises:
        StoredIndexError: a file is damaged.
    """
    try:
        tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
    except (pa.ArrowException, OSError) as error:
        raise StoredIndexError(f"the columns can't be read: {error}; {StoredIndexError.remedy}") from error
    return pa.concat_tables(tables) if tables else pa.table({})


def matching(table: pa.Table, where: Where) -> NDArray[np.int64]:
    """The rows of a table, rising, that have all of the given values.

    Args:
        table: ``n`` rows.
        where: value by column, or pairs of them. A text is read as the type of the column. In a column of
            lists, one element must be equal. Missing values match nothing.

    Raises:
        ValueError: there is no such column, or it can't hold the value.

    Example:
        >>> table = pa.table({"size": [1, 2, 2], "tags": [["red"], ["red", "big"], []]})
        >>> matching(table, {"size": "2"}).tolist(), matching(table, [("size", 2), ("tags", "red")]).tolist()
        ([1, 2], [1])
    """
    mask = np.ones(table.num_rows, dtype=bool)
    for name, value in where.items() if isinstance(where, Mapping) else where:
        if name not in table.column_names:
            known = ", ".join(table.column_names) or "none"
            raise ValueError(f"where {name}={value}: the index has no column {name!r}; it has {known}")
        try:
            mask &= _equal(table[name], value)
        except pa.ArrowException as error:
            kind = table[name].type
            raise ValueError(f"where {name}={value}: the column has values of type {kind}: {error}") from None
    return np.flatnonzero(mask)


def _equal(column: pa.ChunkedArray, value: Any) -> NDArray[np.bool_]:
    """Which rows of a column have a value."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        same = pc.equal(column, pa.scalar(value).cast(kind)).fill_null(False)
        return np.asarray(same.to_numpy(), dtype=bool)
    wanted, found = pa.scalar(value).cast(kind.value_type), []
    for chunk in column.chunks:
        hits = pc.equal(pc.list_flatten(chunk), wanted).fill_null(False).to_numpy(zero_copy_only=False)
        mask = np.zeros(len(chunk), dtype=bool)
        mask[pc.list_parent_indices(chunk).to_numpy()[hits]] = True
        found.append(mask)
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)
