"""What the benchmarks share: results that a second run keeps, measured processes, tables and plots."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from lit_metric import store

REPOSITORY = Path(__file__).parents[1]
MARK = "benchmark.json"
PACKAGES = ("torch", "lightning", "transformers", "sentence-transformers", "scikit-learn", "lit-metric")


class BenchmarkError(RuntimeError):
    """A step of a benchmark failed; the message says which, and where to look."""


class Spread(NamedTuple):
    """The mean of repeated measurements and their sample standard deviation (0 for a single one)."""

    mean: float
    deviation: float
    values: list[float]


def spread(values: Sequence[float]) -> Spread:
    """Summarise repeated measurements.

    Raises:
        ValueError: there are none.

    Example:
        >>> spread([1.0, 3.0])
        Spread(mean=2.0, deviation=1.41..., values=[1.0, 3.0])
    """
    if not values:
        raise ValueError("there is nothing to summarise: no values were given")
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(statistics.fmean(values), deviation, list(values))


def shown(value: float | Spread, digits: int = 3) -> str:
    """A number, or the mean and the spread of several.

    Example:
        >>> shown(0.12345), shown(spread([0.1, 0.2])), shown(spread([0.5]))
        ('0.123', '0.150 ± 0.071', '0.500')
    """
    if not isinstance(value, Spread):
        return f"{value:.{digits}f}"
    beside = f" ± {value.deviation:.{digits}f}" if len(value.values) > 1 else ""
    return f"{value.mean:.{digits}f}{beside}"


def mean_of(value: float | Spread) -> float:
    """The number itself, or the mean of several."""
    return value.mean if isinstance(value, Spread) else value


def kept(path: Path, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The result that ``path`` holds if it was measured under the same settings, else a new one.

    Args:
        path: a JSON file; replaced as a whole when the measurement is complete, so that an interrupted one
            leaves nothing behind.
        settings: all that the result depends on; compared as JSON.
        measure: called if there is no such result.
    """
    wanted = json.loads(json.dumps(settings))
    saved = read_json(path)
    if saved.get("settings") == wanted:
        print(f"{path}: kept, the settings are the same", flush=True)
        return saved
    if saved:
        before = saved.get("settings") or {}
        other = sorted(name for name in {*before, *wanted} if before.get(name) != wanted.get(name))
        print(f"{path}: measured again, as {', '.join(other)} changed", flush=True)
    write_json(path, {"settings": wanted, **measure()})
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, ``{}`` if there is none.

    Raises:
        BenchmarkError: the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{path} is no JSON file ({error}): remove it") from error
    if not isinstance(content, dict):
        raise BenchmarkError(f"{path} holds no JSON object: remove it")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole. A :class:`Spread` becomes an object; a list of numbers is one line."""
    with store.replacing(path) as unfinished:
        unfinished.write_text(as_json(_plain(content)), encoding="utf-8")


_NUMBERS = re.compile(r"\[\n\s+([^\[\]{}\"]+?)\s+\]")  # a string has no line break of its own


def as_json(content: Any) -> str:
    """JSON for people and for version control: indented, with each list of numbers on one line.

    Raises:
        ValueError: for NaN or infinity, which JSON lacks.

    Example:
        >>> print(as_json({"scores": [0.5, None, 1], "of": ["a"]}), end="")
        {
          "scores": [0.5, null, 1],
          "of": [
            "a"
          ]
        }
    """
    indented = json.dumps(content, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", indented) + "\n"


def _plain(content: Any) -> Any:
    if isinstance(content, Spread):
        return content._asdict()
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return content


def short(path: Path, folder: Path | None = None) -> Path:
    """The path as seen from ``folder`` (the current one if None), if it lies below.

    Example:
        >>> short(Path("/a/b/c"), Path("/a")).as_posix(), short(Path("/a"), Path("/b")).as_posix()
        ('b/c', '/a')
    """
    path, folder = Path(os.path.abspath(path)), folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def digest(*paths: Path) -> str:
    """The start of the sha256 of some files' contents."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What numbers of time depend on: processor, cores, threads, and the versions of ``packages``."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Finished(NamedTuple):
    """A process that has ended well.

    Args:
        seconds: of wall time.
        peak_memory: the largest resident memory in MiB.
    """

    seconds: float
    peak_memory: float


# A process is born with the peak memory of its parent, so one that has little of its own stands between.
WATCH = """
import os, signal, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process, which may have to clean up
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


def run(command: Sequence[str | Path], cwd: Path = REPOSITORY, log: Path | None = None) -> Finished:
    """Run a process to its end; what it prints is seen, or goes to the file ``log``.

    Raises:
        BenchmarkError: it ended with another status than 0.
    """
    begin = time.perf_counter()
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as folder:
        memory = Path(folder) / "memory"
        watched = [sys.executable, "-I", "-S", "-c", WATCH, str(memory), *words]
        if log is None:
            status = subprocess.run(watched, cwd=cwd).returncode
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w", encoding="utf-8") as file:
                status = subprocess.run(watched, cwd=cwd, stdout=file, stderr=subprocess.STDOUT).returncode
        if status:
            raise BenchmarkError(f"{shlex.join(words)} ended with status {status}{_end(log)}")
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return Finished(time.perf_counter() - begin, int(memory.read_text()) / unit)


def _end(log: Path | None) -> str:
    if log is None:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"; {log} ends with: {lines[-1]}" if lines else f"; {log} is empty"


def fit(
    config: str | None, folder: Path, *options: str | Path, log: Path | None = None
) -> tuple[dict[str, Any], Finished]:
    """``lit-metric fit`` into ``folder``, and what ``metrics.json`` says afterwards.

    Args:
        config: YAML file, relative to the repository; None: no config.
        folder: of the run; see :func:`own_folder`.
        options: more of the command line, such as ``--data.train FILE``.
        log: where the output goes; None shows it.

    Raises:
        BenchmarkError: the fit failed.
    """
    own_folder(folder)
    configs = [] if config is None else ["--config", config]
    words = ["fit", *configs, *run_options(config, folder), *map(str, options)]
    if log is None:
        print(f"$ lit-metric {shlex.join(words)}", flush=True)
    finished = run([sys.executable, "-m", "lit_metric", *words], log=log)
    metrics = read_json(folder / "metrics.json")
    if "after" not in metrics:
        raise BenchmarkError(f"{folder / 'metrics.json'} has no 'after': the fit did not come to its end")
    return metrics, finished


def run_options(config: str | None, folder: Path) -> list[str]:
    """What makes ``lit-metric fit`` write to ``folder``; nothing if the config says so itself."""
    if config is not None and (REPOSITORY / "runs" / Path(config).stem).resolve() == folder.resolve():
        return []
    into = {"save_dir": folder.resolve().parent, "name": folder.name}
    return [
        "--trainer.logger=lit_metric.loggers.RunLogger",
        *(f"--trainer.logger.{key}={value}" for key, value in into.items()),
    ]


def own_folder(folder: Path) -> None:
    """Make an empty folder, with a mark by which a later benchmark recognises it.

    A folder with the mark is replaced; another one is moved aside. Both are said.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if (folder / MARK).is_file():
            print(f"{short(folder)} is replaced; an earlier benchmark made it", flush=True)
            shutil.rmtree(folder)
        else:
            number = 2
            while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
                number += 1
            print(f"{short(folder)} was not made by a benchmark, and is now called {aside.name}", flush=True)
            folder.rename(aside)
    write_json(folder / MARK, {"made by": "a benchmark, which replaces this folder when it runs again"})


Rows = Mapping[str, Mapping[str, float | Spread]]


def score_table(title: str, rows: Rows, columns: Sequence[str], digits: int = 3, stars: bool = True) -> Table:
    """A table of scores.

    Args:
        title: above the table.
        rows: ``{row: {column: score}}``; a missing score leaves its place empty.
        columns: which, and in which order.
        digits: after the point.
        stars: mark the highest mean of each column, and say so.
    """
    told = Text(f"{title} (* best)" if stars else title)
    table = Table(title=told, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(Text(column), justify="right")
    best = {
        column: max((mean_of(row[column]) for row in rows.values() if column in row), default=None)
        for column in columns
    }
    for name, row in rows.items():
        cells: list[Text] = []
        for column in columns:
            cell = shown(row[column], digits) if column in row else ""
            first = (
                stars
                and column in row
                and f"{mean_of(row[column]):.{digits}f}" == f"{best[column]:.{digits}f}"
            )
            cells.append(Text(f"{cell} *", "bold") if first else Text(f"{cell}  "))
        table.add_row(Text(name), *cells)
    return table


def plot(path: Path, title: str, panels: Mapping[str, Rows], label: str) -> None:
    """Horizontal bars: a panel per entry, a group of bars per row, a bar per column, a dot per measurement.

    Args:
        path: PNG or SVG.
        title: above all panels.
        panels: ``{panel: {row: {column: score}}}``.
        label: of the horizontal axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    most = max(len(rows) for rows in panels.values())
    figure = plt.figure(figsize=(5.5 * len(panels), 1.6 + 0.5 * most), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axis, (panel, rows) in zip(axes[0], panels.items(), strict=True):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        height = 0.8 / max(1, len(columns))
        for place, column in enumerate(columns):
            at = [line + place * height for line, row in enumerate(rows.values()) if column in row]
            scores = [row[column] for row in rows.values() if column in row]
            bars = axis.barh(at, [mean_of(score) for score in scores], height * 0.9, label=column, alpha=0.7)
            axis.bar_label(bars, [shown(score) for score in scores], padding=3, fontsize=7)
            for line, score in zip(at, scores, strict=True):
                if isinstance(score, Spread) and len(score.values) > 1:
                    axis.plot(score.values, [line] * len(score.values), "k.", markersize=4)
        axis.set_yticks([line + (len(columns) - 1) * height / 2 for line in range(len(rows))], list(rows))
        axis.margins(x=0.25)
        axis.set(title=panel, xlabel=label)
    axes[0][0].invert_yaxis()  # of all panels, which share it
    figure.suptitle(title)
    bars_of, names = axes[0][0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(bars_of, names, loc="outside lower center", ncols=len(names), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
