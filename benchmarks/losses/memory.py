"""What a memory of earlier candidates is worth: InfoNCE on Banking77 in small batches, with and without it.

    LIT_METRIC_DATA=DIR python -m benchmarks.losses.memory --out DIR

Encoder and data are those of ``configs/banking77.yaml``; a batch holds 64 texts, 4 of each of 16 intents, and
a fit takes 80 steps. With seed 0, both sides are trained at each learning rate, and the validation items
choose one rate for both: that of the best MAP@R in the mean of both sides. The test items are looked at with
that rate only. Seeds are paired: a seed has the same batches and validation items on both sides. Each fit is
one JSON file in OUT, and a second call measures only what is missing or has other settings.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import t

from benchmarks.losses.table import INFO_NCE, SETUPS, Entry, configuration, planner_of
from benchmarks.results import (
    BenchmarkError,
    Spread,
    environment,
    kept,
    read_json,
    score_table,
    short,
    spread,
    write_json,
)
from benchmarks.short_fits import MEASURES, tested, train

RATES = (1e-4, 2e-4, 4e-4)
SIZE = 4096
BUDGET = 80 * 64


def result_of(out: Path, memory: int, lr: float, seed: int, final: bool) -> dict[str, Any]:
    """A fit, from its JSON file if it is there, with its scores on test items if ``final``."""
    setup = SETUPS["banking77"]
    config = configuration(setup, Entry(INFO_NCE), lr, seed)
    config["model"]["init_args"]["memory"] = memory
    config["data"]["init_args"]["planner"] = planner_of("PKPlanner", classes=16, per_class=4)
    path = out / f"memory-{memory}-lr-{lr:g}-seed-{seed}.json"
    weights = path.with_suffix(".safetensors")
    settings = {
        "files": setup.digest(),
        "versions": environment()["versions"],
        "fit": {"memory": memory, "lr": lr, "seed": seed, "items": BUDGET, "classes": 16, "per_class": 4},
    }
    result = kept(path, settings, lambda: train(config, BUDGET, weights))
    if final and "test" not in result:
        if not weights.is_file():  # an earlier call was interrupted
            path.unlink()
            result = kept(path, settings, lambda: train(config, BUDGET, weights))
        write_json(path, {**result, "test": tested(config, weights)})
        result = read_json(path)
    return result


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of paired differences, and the half width of its 95% interval by Student's t.

    Example:
        >>> [round(each, 4) for each in interval([0.1, 0.2, 0.3])]
        [0.2, 0.2484]
    """
    count = len(differences)
    error = statistics.stdev(differences) / count**0.5
    return statistics.fmean(differences), float(t.ppf(0.975, count - 1)) * error


def compare(out: Path, seeds: int) -> dict[str, Any]:
    """Both sides at the learning rate that validation chose: their test scores, and the paired difference."""
    grid = {
        lr: [result_of(out, memory, lr, 0, False)["validation"]["map@r"] for memory in (0, SIZE)]
        for lr in RATES
    }
    chosen = max(grid, key=lambda lr: statistics.fmean(grid[lr]))
    runs = {
        memory: [result_of(out, memory, chosen, seed, True)["test"] for seed in range(seeds)]
        for memory in (0, SIZE)
    }
    for weights in out.glob("memory-*.safetensors"):
        weights.unlink()
    scores: Mapping[int, dict[str, Spread]] = {
        memory: {name: spread([each[name] for each in found]) for name in MEASURES}
        for memory, found in runs.items()
    }
    paired = {
        name: interval(
            [after[name] - before[name] for before, after in zip(runs[0], runs[SIZE], strict=True)]
        )
        for name in MEASURES
    }
    console = Console()
    rows = {f"memory {memory}": row for memory, row in scores.items()}
    console.print(score_table(f"Banking77, test, lr {chosen:g}", rows, MEASURES))
    for name, (mean, half) in paired.items():
        console.print(f"{name}: {mean:+.3f} ± {half:.3f} with the memory (95%, {seeds} pairs)")
    return {
        "validation": {f"{lr:g}": found for lr, found in grid.items()},
        "lr": chosen,
        "test": {str(memory): row for memory, row in scores.items()},
        "difference": {name: {"mean": mean, "half_width": half} for name, (mean, half) in paired.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "benchmarks.losses.memory", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of fits (%(default)s)")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error(f"--seeds is {given.seeds}; at least 2 are needed for an interval")
    out = given.out.resolve()
    try:
        found = compare(out, given.seeds)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.losses.memory: {error}") from error
    write_json(out / "memory.json", {**found, "environment": environment()})
    print(f"The numbers are in {short(out / 'memory.json')}.")


if __name__ == "__main__":
    main()
