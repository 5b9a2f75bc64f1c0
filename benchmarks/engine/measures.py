"""What the measures of the engine share: results that a second run keeps, contenders in turn, growth."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import BenchmarkError, environment, kept
from lit_metric.encoders.recompute import allocator

PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "pytorch-metric-learning",
    "peft",
    "onnxruntime",
    "openvino",
    "lit-metric",
)
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "sme", "svebf16")
"""What Linux calls the instructions that multiply bfloat16, on x86 and on ARM."""

OURS = "lit-metric"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Make and model of the processor, its cores, and which instructions multiply bfloat16 in hardware.

    Args:
        cpuinfo: where Linux describes it; elsewhere make and instructions are unknown.
    """
    facts: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "make": facts.get("vendor_id") or facts.get("CPU implementer"),
        "model": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "bf16": [flag for flag in BF16_FLAGS if flag in flags] if flags else None,
    }


def measured(
    out: Path, name: str, title: str, settings: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The result in ``out/NAME.json``, if measured with these settings on such a machine; else a new one.

    Args:
        out: folder of all results.
        name: of the measure, and of its file.
        title: what is measured, in a few words with the unit.
        settings: all that the result depends on, of both sides; versions, processor and an allocator that is
            not glibc's are added. The code of this project is not among it: measure into another folder after
            a change.
        work: measures. Returns at least ``ours``, ``peer`` and ``ratio`` (higher is better for us), each a
            number or None; see :func:`compared`. ``target``, the ratio to reach, and ``growth``, see
            :func:`growth`, are shown where they are given, and whatever else there is is kept.
    """
    packages = environment(PACKAGES)["versions"]
    machine = {**processor(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    if (heap := allocator()) not in (None, "glibc"):
        machine["allocator"] = heap

    def do() -> dict[str, Any]:
        print(f"{name}: {title} ...", flush=True)
        begin = time.perf_counter()
        found = work()
        missing = [key for key in ("ours", "peer", "ratio") if key not in found]
        if missing:
            raise BenchmarkError(f"{name} has measured no {', '.join(missing)}")
        return {"name": name, "title": title, **found, "took_seconds": time.perf_counter() - begin}

    return kept(out / f"{name}.json", {**settings, "versions": packages, "processor": machine}, do)


def in_turn(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender in each of ``rounds`` rounds (A B A B ...), after one that doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            begin = clock()
            work()
            if turn:
                seconds[name].append(clock() - begin)
    return seconds


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """The contender with the least median.

    Example:
        >>> fastest({"a": [3.0, 1.0, 9.0], "b": [2.0, 2.0, 2.0]})
        'b'
    """
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def compared(
    ours: Sequence[float], peer: Sequence[float], target: float | None = None, higher: bool = True
) -> dict[str, Any]:
    """Medians of both sides, their ratio, and all rounds.

    Args:
        ours: a value for each round, in the unit that the title names.
        peer: the peer's in the same rounds.
        target: the ratio to reach.
        higher: whether higher values are better. The ratio is always higher where we are better.

    Returns:
        ``ours``, ``peer``, ``ratio``, ``target``, ``rounds`` with all values, and ``spread``: the lowest and
        the highest ratio within one round.

    Example:
        >>> found = compared([2.0, 4.0], [8.0, 8.0], higher=False)
        >>> found["ours"], found["peer"], round(found["ratio"], 3), found["spread"]
        (3.0, 8.0, 2.667, [2.0, 4.0])
    """
    if not ours or len(ours) != len(peer):
        raise ValueError(
            f"ours has {len(ours)} rounds and peer {len(peer)}; both need the same number, above 0"
        )
    ratios = [a / b if higher else b / a for a, b in zip(ours, peer, strict=True)]
    left, right = statistics.median(ours), statistics.median(peer)
    return {
        "ours": left,
        "peer": right,
        "ratio": left / right if higher else right / left,
        "target": target,
        "higher_is_better": higher,
        "rounds": {"ours": [*ours], "peer": [*peer]},
        "spread": [min(ratios), max(ratios)],
    }


def growth(work: str, cost: str, curves: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """How a cost grows with the work, for the plot of a result.

    Args:
        work: what grows, such as ``texts in a batch``.
        cost: what is measured, such as ``seconds of a step``.
        curves: cost by amount of work, for each contender.

    Returns:
        The arguments, and ``exponent`` by contender: the power of the work that the cost grows with, by least
        squares in logarithms; None for a single amount.

    Example:
        >>> growth("rows", "seconds", {"a": {10: 5.0, 100: 500.0}})["exponent"]["a"].__round__(6)
        2.0
    """
    powers: dict[str, float | None] = {}
    for name, curve in curves.items():
        logs = np.log([[amount, value] for amount, value in curve.items()])
        powers[name] = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]) if len(logs) > 1 else None
    points = {name: {str(amount): value for amount, value in curve.items()} for name, curve in curves.items()}
    return {"work": work, "cost": cost, "curves": points, "exponent": powers}


def banking77(split: str = "train") -> tuple[list[str], list[str]]:
    """Texts and labels of Banking77.

    Raises:
        BenchmarkError: the data are not there.
    """
    from benchmarks.banking77 import files
    from benchmarks.peer import read

    train, test = files("test", Path())
    return read(train if split == "train" else test)
