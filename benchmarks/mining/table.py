"""Is a table mined from the vectors that training computed anyway as good as one for which all was encoded
anew?

``free`` takes the vectors at hand, which are of different steps; ``full`` encodes all texts with the weights
of the refresh. Both take a table into use after as many batches.
"""

from __future__ import annotations

from typing import Any

from benchmarks.mining.fits import KS, Runs
from benchmarks.mining.modes import turns
from benchmarks.results import Spread, spread

KINDS = ("free", "full")


def measure(runs: Runs) -> dict[str, Any]:
    """Both for every seed.

    Returns:
        ``runs``: by kind the mean and spread over seeds of ``map@r`` and of ``overlap@k`` with a table
        encoded anew in the training process at the same step (of ``full``, the worker's own: it tells how
        exact the comparison is), with ``stale@k`` of the table mined anew an epoch earlier, and ``encoded``,
        the share of texts that had to be encoded; each the mean of a run's refreshes. ``ours``, ``peer`` and
        ``ratio`` are of the MAP@R.

    Raises:
        BenchmarkError: with less than 2 epochs there is no refresh.
    """
    runs.check()
    refreshes = {name: runs.kinds[name] for name in KINDS}
    found = turns(runs, refreshes, range(runs.seeds))
    scores: dict[str, dict[str, Spread]] = {}
    for name, own in found.items():
        scores[name] = {
            **{
                f"{what}@{k}": spread([_mean(run["overlaps"], f"{what}@{k}") for run in own])
                for what in ("overlap", "stale")
                for k in KS
            },
            "encoded": spread([_mean(run["refreshes"], "encoded") for run in own]),
            "map@r": spread([run["map@r"][-1] for run in own]),
        }
    ours, peer = (scores[name]["map@r"].mean for name in KINDS)
    return {
        "runs": scores,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "settings": {**runs.settings, "refreshes": refreshes},
    }


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
