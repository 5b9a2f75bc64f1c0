"""How often to renew the table of negatives: MAP@R by the time between two of them.

Training stops for each (``inline``), so that a table is as old as the time since the last one, and no older.
"""

from __future__ import annotations

from typing import Any

from benchmarks.mining.fits import Runs
from benchmarks.mining.modes import turns
from benchmarks.results import Spread, spread

INLINE = {"mode": "inline"}
EPOCHS = (4.0, 1.0, 0.5, 0.1)


def periods(batches: int, epochs: int) -> dict[str, tuple[float | None, dict[str, Any]]]:
    """How often, and the arguments of ``Refresh``, by the name of the run.

    Args:
        batches: of an epoch.
        epochs: of a run. What would not be renewed before its end is left out.

    Example:
        >>> for name, (every, refresh) in periods(batches=20, epochs=3).items():
        ...     print(name, every, refresh["every"])
        none None never
        inline 1.0 epoch
        every-10-batches 0.5 10
        every-2-batches 0.1 2
    """
    found: dict[str, tuple[float | None, dict[str, Any]]] = {"none": (None, {**INLINE, "every": "never"})}
    for every in EPOCHS:
        if every == 1:
            found["inline"] = every, {**INLINE, "every": "epoch"}
        elif every < epochs:
            period = max(1, round(every * batches))
            found[f"every-{period}-batches"] = every, {**INLINE, "every": period}
    return found


def measure(runs: Runs) -> dict[str, Any]:
    """Every period for every seed.

    Returns:
        ``runs``: by name ``epochs`` from one table to the next (None: there is one only) and the mean and
        spread of ``map@r`` and ``seconds``; ``ours``: the MAP@R of one table an epoch, ``peer`` that of one
        table for all, ``ratio`` of the two.

    Raises:
        BenchmarkError: with less than 2 epochs there is nothing to compare.
    """
    runs.check()
    chosen = periods(runs.corpus.batches, runs.epochs)
    if left := [every for every in EPOCHS if every >= runs.epochs]:
        print(f"In {runs.epochs} epochs a table every {left} would be the only one: left out", flush=True)
    refreshes = {name: refresh for name, (_, refresh) in chosen.items()}
    found = turns(runs, refreshes, range(runs.seeds))
    scores: dict[str, dict[str, Spread]] = {
        name: {
            "map@r": spread([run["map@r"][-1] for run in own]),
            "seconds": spread([run["cold_start_seconds"] + run["seconds"][-1] for run in own]),
        }
        for name, own in found.items()
    }
    ours, peer = (scores[name]["map@r"].mean for name in ("inline", "none"))
    return {
        "runs": {name: {"epochs": chosen[name][0], **row} for name, row in scores.items()},
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "settings": {**runs.settings, "refreshes": refreshes},
    }
