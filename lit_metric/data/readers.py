"""Open sources of rows: files, folders, data sets of the hub, and objects in memory."""

from __future__ import annotations

import glob
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_metric.data.decoding import decode, encoding_of, text_lines
from lit_metric.data.delimited import CsvOptions, DelimitedFile
from lit_metric.data.errors import DataError, Problems, listed, most_similar
from lit_metric.data.in_memory import (
    SOURCES,
    choose_split,
    class_features,
    kind_of,
    part_of_dataset,
    part_of_object,
    part_of_rows,
    with_class_names,
)
from lit_metric.data.row_store import stored
from lit_metric.data.shards import is_unfinished
from lit_metric.data.table import Part, StreamedPart, Table, Take, not_loaded
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
    folder: str | Path | None = None,
) -> Table:
    """Open a source of rows.

    Args:
        source: one of

            - a file ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` (a list of objects), or
              relevance judgements as TREC writes them (``.qrels``, ``.txt``);
            - a pattern such as ``data/*.parquet``, read in sorted order;
            - a folder saved by ``datasets``, or any folder whose files ``datasets`` finds splits in;
            - ``package:NAME/PATH``, a file inside an installed package;
            - the id of a data set on the hub, such as ``PolyAI/banking77:train``;
            - an object in memory: a pandas or polars DataFrame (anything with ``__arrow_c_stream__``), a
              ``pyarrow.Table``, a ``datasets.Dataset``, a list of dicts, or a dict of lists;
            - a list of any of those; their rows come one after the other.
        split: of a folder, a ``DatasetDict`` or a data set of the hub; may be left out where there is only
            one.
        problems: where lines that cannot be parsed are noted, to be reported with others later. None: they
            are an error at once.
        name: what errors call rows that come from no file.
        csv: how CSV and TSV files are written; options that are None are found in each file.
        folder: where the rows of CSV files and JSON Lines go beyond 64 MB, in a file that the system removes
            with the process; :func:`~lit_metric.data.texts.default_cache_dir` if None.

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
    table = Table(SourceReader(noted, csv or CsvOptions(), folder).parts(source, split, name))
    if problems is None:
        noted.refuse()
    table.log_dialects()
    return table


class SourceReader:
    """Reads sources of any kind.

    Args:
        problems: where rows that cannot be read are noted.
        csv: how CSV and TSV files are written.
        folder: where the rows of text files go beyond 64 MB; see
            :class:`~lit_metric.data.row_store.StoredRows`.

    Attributes:
        head_rows: rows of JSON Lines whose columns are known before the others are read.
        known: more columns of JSON Lines.
    """

    head_rows: int = 0
    known: Collection[str] = ()

    def __init__(self, problems: Problems, csv: CsvOptions, folder: str | Path | None = None) -> None:
        self.problems = problems
        self.csv = csv
        self.folder = folder

    def parts(self, source: Any, split: str | None, name: str) -> list[Part]:
        """The parts of a source; see :func:`read_table`."""
        if isinstance(source, str | Path):
            return self._named(str(source), split)
        if isinstance(source, list | tuple) and not source:
            raise DataError(f"{f'{name}: ' if name else ''}the list of files is empty; name at least one")
        if (part := part_of_object(source, split, self.problems, name)) is not None:
            return [part]
        if isinstance(source, list | tuple):
            return [
                part
                for number, entry in enumerate(source, start=1)
                for part in self.parts(entry, split, f"{name or 'list'}[{number}]")
            ]
        raise TypeError(f"{name or 'a source of rows'} is {kind_of(source)}; give {SOURCES}")

    def _named(self, source: str, split: str | None) -> list[Part]:
        path = Path(source).expanduser()
        if source.startswith(PACKAGE):
            try:
                path = package_path(source)
            except FileNotFoundError as error:
                raise DataError(str(error)) from None
            if not path.exists():
                contents = self._contents(path.parent, path.name)
                raise DataError(f"{source}: there is no {str(path)!r}{contents}")
        if path.is_dir():
            return self._folder(path, split)
        if path.is_file():
            if split is not None:
                raise DataError(f"split={split!r} was given, but {path} is a single file; leave split out")
            return [self._file(path)]
        if glob.has_magic(source):
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                raise DataError(f"no file matches {source!r}{self._contents(path.parent, path.name)}")
            return [part for name in found for part in self._named(name, split)]
        folder, colon, name = source.rpartition(":")
        if colon and Path(folder).expanduser().is_dir():
            return self._folder(Path(folder).expanduser(), split or name)
        match = HUB_ID.fullmatch(source)
        if match and path.suffix.lower() not in READERS:
            return [self._hub(match["id"], split or match["split"])]
        raise DataError(f"there is no file {source!r}{self._contents(path.parent, path.name)}")

    def _contents(self, folder: Path, wanted: str = "") -> str:
        """The files of a folder for a message; first those whose names are similar to ``wanted``."""
        if glob.has_magic(str(folder)):
            return ""
        if not folder.is_dir():
            return f"; there is no folder {str(folder)!r} either"
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        return f"; {str(folder)!r} holds {listed(most_similar(names, wanted), 8)}"

    def _file(self, path: Path) -> Part:
        read = READERS.get(path.suffix.lower())
        if read is None:
            raise DataError(
                f"{path} is of an unknown kind; files that can be read are {listed(list(READERS))}"
            )
        return read(self, path)

    def _parquet(self, path: Path) -> Part:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                names, rows = file.schema_arrow.names, file.metadata.num_rows
                features = class_features(file.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path} is not a readable Parquet file ({error}); write or fetch it again"
            ) from error

        def plain(column: Any, name: str) -> list[Any]:
            try:
                return with_class_names(column.to_pylist(), features.get(name))
            except UnicodeDecodeError:
                values = column.cast(pa.large_binary()).to_pylist()
                return [None if value is None else value.decode(errors="surrogateescape") for value in values]

        def load(name: str) -> list[Any]:
            try:
                with pq.ParquetFile(path) as file:
                    column = file.read(columns=[name]).column(name)
            except (pa.ArrowException, OSError, KeyError) as error:
                raise DataError(f"column {name!r} of {path} cannot be read: {error}") from error
            return plain(column, name)

        kept: dict[str, tuple[range, Any]] = {}

        def cut(name: str, start: int, stop: int) -> list[Any]:
            """Reads the row groups that hold the rows, and keeps the latest of each column."""
            with pq.ParquetFile(path) as file:
                ends = [0]
                for group in range(file.num_row_groups):
                    ends.append(ends[-1] + file.metadata.row_group(group).num_rows)
                groups = range(bisect_right(ends, start) - 1, bisect_left(ends, stop))
                if name not in kept or kept[name][0] != groups:
                    try:
                        kept[name] = groups, file.read_row_groups([*groups], [name]).column(name)
                    except (pa.ArrowException, OSError, KeyError) as error:
                        raise DataError(f"column {name!r} of {path} cannot be read: {error}") from error
            return plain(kept[name][1].slice(start - ends[groups[0]], stop - start), name)

        return Part(str(path), rows, names, load, cut=cut)

    def _json(self, path: Path) -> Part:
        """JSON Lines, or one list of objects."""
        lines = text_lines(path, None, None)
        first = next(filter(str.strip, lines), "")
        if not first.lstrip().startswith("["):
            return self._in_blocks(self._json_stream(path, chain([first], lines)))
        try:
            return part_of_rows(json.loads(decode(path)[0]), str(path), self.problems)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} begins as a list, but is no valid JSON: {error}") from error

    def _json_stream(self, path: Path, lines: Iterator[str]) -> StreamedPart:
        """JSON Lines, read as they are needed. They have a column for each key in the rows read so far."""
        name = str(path)
        head = [row for row, _ in islice(json_rows(lines, name, Problems()), self.head_rows)]
        columns = list(dict.fromkeys([*(key for row in head for key in row), *self.known]))

        def open_file(problems: Problems) -> Take:
            rows = json_rows(text_lines(path, None, None, log=True), name, problems)
            start = 0

            def take(count: int) -> Part | None:
                nonlocal start
                checked = [*islice(rows, count)]
                if not checked:
                    return None
                part = part_of_rows([row for row, _ in checked], name, problems)
                columns.extend(key for key in part.columns if key not in columns)
                broken = frozenset(row for row, (_, broken) in enumerate(checked) if broken)
                start += len(checked)
                return replace(part, columns=columns, broken=broken, start=start - len(checked))

            return take

        encoding = encoding_of(path)
        found = "" if encoding in ("utf-8", "utf-8-sig") else f"the encoding {encoding}"
        return StreamedPart(name, 0, columns, not_loaded, dialect=found, open=open_file)

    def _delimited(self, path: Path) -> Part:
        file = DelimitedFile(path, self.csv, by_head=self.head_rows > 0)
        is_csv = path.suffix.lower() in (".csv", ".tsv")
        return self._in_blocks(file.csv_stream() if is_csv else file.trec_stream())

    def _in_blocks(self, part: StreamedPart) -> Part:
        """The rows of a file that is read from its beginning to its end."""
        return stored(part, self.problems, self.folder)

    def _folder(self, path: Path, split: str | None) -> list[Part]:
        """The parts of a folder. Its files are read as by their own names; ``datasets`` reads other kinds."""
        import datasets

        if is_unfinished(path):
            raise DataError(f"{path} holds only a part of its shards: repeat the command that writes them")
        saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        try:
            if saved:
                return [part_of_dataset(datasets.load_from_disk(str(path)), str(path), split, f"{path}:{{}}")]
            files = datasets.load_dataset_builder(str(path)).config.data_files or {}
            names = {str(name): [Path(file) for file in found] for name, found in files.items()}
            suffixes = {file.suffix.lower() for each in names.values() for file in each}
            if not names or not suffixes <= READERS.keys():
                return [part_of_dataset(datasets.load_dataset(str(path)), str(path), split, f"{path}:{{}}")]
        except DataError:
            raise
        except Exception as error:
            problem = f"the folder {path} cannot be read as a data set: {error}{self._contents(path)}"
            raise DataError(problem) from error
        return [self._file(file) for file in names[choose_split([*names], split, str(path), f"{path}:{{}}")]]

    def _hub(self, name: str, split: str | None) -> Part:
        import datasets

        try:
            data = datasets.load_dataset(name, split=split)
        except Exception as error:
            raise DataError(
                f"{name!r} is neither a file nor a folder here, and no data set of that id could be loaded "
                f"from the hub (split {split!r}): {type(error).__name__}: {error}"
            ) from error
        return part_of_dataset(
            data, name, None if isinstance(data, datasets.Dataset) else split, f"{name}:{{}}"
        )


def json_rows(lines: Iterable[str], name: str, problems: Problems) -> Iterator[tuple[dict[str, Any], bool]]:
    """The objects of JSON Lines, and whether each is broken and therefore empty. Blank lines don't count.

    Args:
        lines: of the file.
        name: of the file.
        problems: where lines that can't be parsed are noted.
    """
    for number, line in enumerate(filter(str.strip, lines), start=1):
        try:
            row = json.loads(line)
            problem = "" if isinstance(row, dict) else "no object in braces"
        except json.JSONDecodeError as error:
            row, problem = None, f"no valid JSON ({error.msg})"
        except RecursionError:
            row, problem = None, "JSON of too many levels"
        if problem:
            problems.add((name, number), "", problem, "Each line must be one JSON object.")
        yield (row if isinstance(row, dict) else {}), bool(problem)


READERS: dict[str, Callable[[SourceReader, Path], Part]] = {
    ".parquet": SourceReader._parquet,
    ".csv": SourceReader._delimited,
    ".tsv": SourceReader._delimited,
    ".jsonl": SourceReader._json,
    ".ndjson": SourceReader._json,
    ".json": SourceReader._json,
    ".qrels": SourceReader._delimited,
    ".trec": SourceReader._delimited,
    ".txt": SourceReader._delimited,
}
