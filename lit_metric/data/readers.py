"""Open sources of rows: files, folders, data sets of the hub, and what is in memory."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_metric.data.delimited import CsvOptions, decoded, read_csv, read_judged
from lit_metric.data.errors import DataError, Problems, listed, most_similar
from lit_metric.data.in_memory import TAKEN, features_of, kind_of, of_dataset, of_rows, part_of, with_names
from lit_metric.data.table import Part, Table
from lit_metric.store import PACKAGE, package_path

HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<split>[^:/\\]+))?")


if TYPE_CHECKING:
    Source = str | Path | Sequence[Any] | Mapping[str, Sequence[Any]] | Any
else:
    Source = str | list[str]  # what a config or a command line can say
"""Where rows come from; see :func:`read_table`."""


def read_table(
    source: Source,
    split: str | None = None,
    problems: Problems | None = None,
    name: str = "",
    csv: CsvOptions | None = None,
) -> Table:
    """Open a source of rows.

    Args:
        source: one of

            - a file ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` (a list of objects); how a CSV
              file is written is found, see :class:`CsvOptions`; judgements of TREC (``.qrels``, ``.txt``);
            - a pattern such as ``data/*.parquet``, read in sorted order;
            - a folder saved by ``datasets``, or any folder whose files ``datasets`` finds splits in;
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
        csv: how CSV and TSV files are written, if that can't be found or was found wrongly.

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
    table = Table(_parts(source, split, noted, name, csv or CsvOptions()))
    if problems is None:
        noted.refuse()
    table.log_dialects()
    return table


def _parts(source: Any, split: str | None, problems: Problems, name: str, csv: CsvOptions) -> list[Part]:
    if isinstance(source, str | Path):
        return _named(str(source), split, problems, csv)
    if isinstance(source, list | tuple) and not source:
        raise DataError(f"{f'{name}: ' if name else ''}the list of files is empty; name at least one")
    if (part := part_of(source, split, problems, name)) is not None:
        return [part]
    if isinstance(source, list | tuple):
        return [
            part
            for number, entry in enumerate(source, start=1)
            for part in _parts(entry, split, problems, f"{name or 'list'}[{number}]", csv)
        ]
    raise TypeError(f"{name or 'a source of rows'} is {kind_of(source)}; give {TAKEN}")


def _named(source: str, split: str | None, problems: Problems, csv: CsvOptions) -> list[Part]:
    path = Path(source).expanduser()
    if source.startswith(PACKAGE):
        try:
            path = package_path(source)
        except FileNotFoundError as error:
            raise DataError(str(error)) from None
        if not path.exists():
            raise DataError(f"{source}: there is no {str(path)!r}{_contents(path.parent, path.name)}")
    if path.is_dir():
        return _folder(path, split, problems, csv)
    if path.is_file():
        if split is not None:
            raise DataError(f"split={split!r} was given, but {path} is a single file; leave split out")
        return [_file(path, problems, csv)]
    if glob.has_magic(source):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise DataError(f"no file matches {source!r}{_contents(path.parent, path.name)}")
        return [part for name in found for part in _named(name, split, problems, csv)]
    folder, colon, name = source.rpartition(":")
    if colon and Path(folder).expanduser().is_dir():
        return _folder(Path(folder).expanduser(), split or name, problems, csv)
    match = HUB_ID.fullmatch(source)
    if match and path.suffix.lower() not in READERS:
        return [_hub(match["id"], split or match["split"])]
    raise DataError(f"there is no file {source!r}{_contents(path.parent, path.name)}")


def _contents(folder: Path, like: str = "") -> str:
    """What lies in a folder, first what is called nearly as ``like``."""
    if glob.has_magic(str(folder)):
        return ""
    if not folder.is_dir():
        return f"; there is no folder {str(folder)!r} either"
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"; {str(folder)!r} holds {listed(most_similar(names, like), 8)}"


def _file(path: Path, problems: Problems, csv: CsvOptions) -> Part:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is of an unknown kind; files that can be read are {listed(list(READERS))}")
    return reader(path, problems, csv)


def _parquet(path: Path, problems: Problems, csv: CsvOptions) -> Part:
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


def _json(path: Path, problems: Problems, csv: CsvOptions) -> Part:
    """JSON Lines, or one list of objects."""
    text, found = decoded(path)
    rows: list[dict[str, Any]] = []
    broken = set()
    if text.lstrip().startswith("["):
        try:
            return of_rows(json.loads(text), str(path), problems)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} begins as a list, but is no valid JSON: {error}") from error
    for line in filter(str.strip, re.split(r"\r\n|\r|\n", text)):
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
    values = partial(_of_rows, rows)
    return Part(str(path), len(rows), names, values, frozenset(broken), ", ".join(found))


def _of_rows(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


READERS: dict[str, Callable[[Path, Problems, CsvOptions], Part]] = {
    ".parquet": _parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".qrels": read_judged,
    ".trec": read_judged,
    ".txt": read_judged,
}


def _folder(path: Path, split: str | None, problems: Problems, csv: CsvOptions) -> list[Part]:
    """A folder; its files are read as they would be by their own names, and other kinds by ``datasets``."""
    import datasets

    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    try:
        if saved:
            return [of_dataset(datasets.load_from_disk(str(path)), str(path), split, f"{path}:{{}}")]
        files = datasets.load_dataset_builder(str(path)).config.data_files or {}
        names = {str(name): [Path(file) for file in found] for name, found in files.items()}
        if not names or any(file.suffix.lower() not in READERS for each in names.values() for file in each):
            return [of_dataset(datasets.load_dataset(str(path)), str(path), split, f"{path}:{{}}")]
    except DataError:
        raise
    except Exception as error:
        problem = f"the folder {path} cannot be read as a data set: {error}{_contents(path)}"
        raise DataError(problem) from error
    if split is None and len(names) == 1:
        split = next(iter(names))
    if split not in names:
        asked = f"no split {split!r}" if split else "several splits"
        raise DataError(f"{path} has {asked}; name one of {listed([f'{path}:{each}' for each in names])}")
    return [_file(file, problems, csv) for file in names[split]]


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
