"""Open sources of rows: files, folders, data sets of the hub, and what is in memory."""

from __future__ import annotations

import csv
import glob
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_metric.data.errors import DataError
from lit_metric.data.in_memory import TAKEN, features_of, kind_of, of_dataset, part_of, with_names
from lit_metric.data.table import Part, Problems, Table, listed, most_alike

PACKAGE = "package:"
BETWEEN = "Quote fields that hold the separator."
QUOTE = 'Write "" for quotation marks within quoted fields.'
HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<split>[^:/\\]+))?")


if TYPE_CHECKING:
    Source = str | Path | Sequence[Any] | Mapping[str, Sequence[Any]] | Any
else:
    Source = str | list[str]  # what a config or a command line can say
"""Where rows come from; see :func:`read_table`."""


def read_table(
    source: Source, split: str | None = None, problems: Problems | None = None, name: str = ""
) -> Table:
    """Open a source of rows.

    Args:
        source: one of

            - a file ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` (UTF-8, first line of a CSV the header);
            - a pattern such as ``data/*.parquet``, read in sorted order;
            - a folder saved by ``datasets``, or any folder that ``datasets.load_dataset`` reads;
            - ``package:NAME/PATH``, a file inside an installed package;
            - the id of a data set on the hub, such as ``PolyAI/banking77:train``;
            - what is in memory: a pandas or polars DataFrame (anything with ``__arrow_c_stream__``), a
              ``pyarrow.Table``, a ``datasets.Dataset``, a list of dicts, or a dict of lists;
            - a list of any of those, whose rows come one after the other.
        split: of a folder, a ``DatasetDict`` or a data set of the hub; may be left out where there is only
            one.
        problems: where lines that cannot be parsed are noted, to be reported with others later; they are
            refused at once if None.
        name: what errors call rows that come from no file.

    Raises:
        TypeError: when the source is of none of these kinds.
        DataError: when there is no such source (the message says what is there instead), when a file cannot
            be read, when lines cannot be parsed (all are reported together), or when a split must be named.

    Example:
        >>> table = read_table([{"text": "a", "label": 1}, {"text": "b"}])
        >>> table.columns, table.column("label"), table.place(1)
        (['text', 'label'], [1, None], ('list of dicts', 2))
    """
    noted = Problems() if problems is None else problems
    table = Table(_parts(source, split, noted, name))
    if problems is None:
        noted.refuse()
    return table


def _parts(source: Any, split: str | None, problems: Problems, name: str) -> list[Part]:
    if isinstance(source, str | Path):
        return _named(str(source), split, problems)
    if isinstance(source, list | tuple) and not source:
        raise DataError(f"{f'{name}: ' if name else ''}the list of files is empty; name at least one")
    if (part := part_of(source, split, problems, name)) is not None:
        return [part]
    if isinstance(source, list | tuple):
        return [
            part
            for number, entry in enumerate(source, start=1)
            for part in _parts(entry, split, problems, f"{name or 'list'}[{number}]")
        ]
    raise TypeError(f"{name or 'a source of rows'} is {kind_of(source)}; give {TAKEN}")


def _named(source: str, split: str | None, problems: Problems) -> list[Part]:
    path = _packaged(source) if source.startswith(PACKAGE) else Path(source).expanduser()
    if path.is_dir():
        return [_folder(path, split)]
    if path.is_file():
        return [_file(path, split, problems)]
    if glob.has_magic(source):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise DataError(f"no file matches {source!r}{_contents(path.parent, path.name)}")
        return [part for name in found for part in _named(name, split, problems)]
    folder, colon, name = source.rpartition(":")
    if colon and Path(folder).expanduser().is_dir():
        return [_folder(Path(folder).expanduser(), split or name)]
    match = HUB_ID.fullmatch(source)
    if match and path.suffix.lower() not in READERS:
        return [_hub(match["id"], split or match["split"])]
    raise DataError(f"there is no file {source!r}{_contents(path.parent, path.name)}")


def _packaged(source: str) -> Path:
    """The file ``package:NAME/PATH`` inside an installed package, which is found, not imported."""
    name, _, inside = source[len(PACKAGE) :].partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise DataError(f"{source}: there is no package {name!r} here; install it")
    path = Path(next(iter(found.submodule_search_locations)), inside)
    if not path.exists():
        raise DataError(
            f"{source}: the package {name!r} has no {inside!r}{_contents(path.parent, path.name)}"
        )
    return path


def _contents(folder: Path, like: str = "") -> str:
    """What lies in a folder, first what is called nearly as ``like``."""
    if glob.has_magic(str(folder)):
        return ""
    if not folder.is_dir():
        return f"; there is no folder {str(folder)!r} either"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"; {str(folder)!r} holds {listed(most_alike(names, like), 8)}"


def _file(path: Path, split: str | None, problems: Problems) -> Part:
    if split is not None:
        raise DataError(f"split={split!r} was given, but {path} is a single file; leave split out")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown kind; files that can be read are {listed(list(READERS))}")
    return reader(path, problems)


def _parquet(path: Path, problems: Problems) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
            features = features_of(file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); write or fetch it anew") from error

    def load(name: str) -> list[Any]:
        try:
            with pq.ParquetFile(path) as file:
                column = file.read(columns=[name]).column(name)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"column {name!r} of {path} cannot be read: {error}") from error
        try:
            return with_names(column.to_pylist(), features.get(name))
        except UnicodeDecodeError:
            values = column.cast(pa.large_binary()).to_pylist()
            return [None if value is None else value.decode(errors="surrogateescape") for value in values]

    return Part(str(path), rows, names, load)


def _csv(path: Path, problems: Problems) -> Part:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 128 KiB
    try:
        # Bytes that are no UTF-8 become lone surrogates, which are reported when their column is used.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # Without strict, a quote that is never closed swallows all the rows after it.
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = next(reader, [])
            rows, broken = _csv_rows(reader, header, path, problems)
    except csv.Error as error:
        raise DataError(f"{path} has no header line that can be read ({error}); correct it") from error
    finally:
        csv.field_size_limit(limit)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or not header:
        found = f"the column {listed(repeated)} more than once" if repeated else "no header line"
        raise DataError(f"{path} has {found}; its first line must name each column once")
    places = {name: place for place, name in enumerate(header)}
    return Part(
        str(path), len(rows), header, lambda name: [row[places[name]] for row in rows], frozenset(broken)
    )


def _csv_rows(
    reader: Iterator[list[str]], header: Sequence[str], path: Path, problems: Problems
) -> tuple[list[list[Any]], set[int]]:
    """All rows below the header, and which of them are broken."""
    rows: list[list[Any]] = []
    broken: set[int] = set()
    while True:
        problem = remedy = ""
        try:
            row = next(reader)
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                fields = f"{len(row)} field{'s' * (len(row) != 1)}"
                problem, remedy = f"{fields} where the header has {len(header)}", BETWEEN
        except StopIteration:
            return rows, broken
        except csv.Error as error:
            if "end of data" in str(error):
                raise DataError(
                    f"{path}, row {len(rows) + 1}: a quotation mark opens a field that is never closed, so "
                    'where the row ends is not known; close it, or write "" where it belongs to the text'
                ) from error
            problem, remedy = f"a quoted field that goes on after its end ({error})", QUOTE
        if problem:
            broken.add(len(rows))
            problems.add((str(path), len(rows) + 1), "", problem, remedy)
        rows.append([None] * len(header) if problem else row)


def _jsonl(path: Path, problems: Problems) -> Part:
    rows: list[dict[str, Any]] = []
    broken = set()
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                problem = "" if isinstance(row, dict) else "no object in braces"
            except json.JSONDecodeError as error:
                row, problem = None, f"no valid JSON ({error.msg})"
            except RecursionError:
                row, problem = None, "JSON of too many levels"
            rows.append(row if isinstance(row, dict) else {})
            if problem:
                problems.add((str(path), len(rows)), "", problem, "Each line must be one JSON object.")
                broken.add(len(rows) - 1)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Part(str(path), len(rows), names, lambda name: [row.get(name) for row in rows], frozenset(broken))


READERS: dict[str, Callable[[Path, Problems], Part]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}


def _folder(path: Path, split: str | None) -> Part:
    import datasets

    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    try:
        data = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))
    except Exception as error:
        problem = f"the folder {path} cannot be read as a data set: {error}{_contents(path)}"
        raise DataError(problem) from error
    return of_dataset(data, str(path), split, f"{path}:{{}}")


def _hub(name: str, split: str | None) -> Part:
    import datasets

    try:
        data = datasets.load_dataset(name, split=split)
    except Exception as error:
        raise DataError(
            f"{name!r} is neither a file nor a folder here, and no data set of that id could be loaded from "
            f"the hub (split {split!r}): {type(error).__name__}: {error}"
        ) from error
    return of_dataset(data, name, None if isinstance(data, datasets.Dataset) else split, f"{name}:{{}}")
