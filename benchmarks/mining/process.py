"""A run in a process of its own, told what to do by one JSON file and telling what it found in another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import BenchmarkError, kept, own_folder, read_json, run, write_json

Child = Callable[[Mapping[str, Any], Path], dict[str, Any]]
"""What a run does: gets its specification and a folder, gives what it found."""


def in_process(
    module: str, out: Path, label: str, settings: Mapping[str, Any], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run of ``module`` found, or what ``out`` holds of it, with ``settings`` and ``peak_memory``.

    Args:
        module: whose command line is :func:`main_of`.
        out: the folder of all runs.
        label: of this one.
        settings: by which an earlier result is known to be of the same run.
        spec: what the run is told, the places of its files included.
    """

    def measure() -> dict[str, Any]:
        print(f"{label} ...", flush=True)
        folder = out / "fits" / label
        own_folder(folder)  # a run's log goes on where an earlier one ended
        write_json(folder / "spec.json", spec)
        words = ["--spec", folder / "spec.json", "--report", folder / "report.json"]
        finished = run([sys.executable, "-m", module, *map(str, words)], log=out / f"{label}.log")
        return {**read_json(folder / "report.json"), "peak_memory": finished.peak_memory}

    return kept(out / f"{label}.json", settings, measure)


def main_of(module: str, child: Child, arguments: Sequence[str] | None = None) -> None:
    """The command line of a run.

    Raises:
        SystemExit: with one line, if it can't be measured.
    """
    parser = argparse.ArgumentParser(module)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        write_json(given.report, child(read_json(given.spec), given.report.parent))
    except BenchmarkError as error:
        raise SystemExit(f"{module}: {error}") from error
