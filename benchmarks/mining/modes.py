"""What it costs to keep the table of negatives fresh: in the background, with vectors at hand or encoded
anew, or with training stopped, against a table that stays as it is.

The control (``none``) mines its table once, and so has the same batches and draws as many negatives for each
anchor; they are other texts, which may be longer or coincide more often, so seconds are told by token, too.
A refresh is under way from the second epoch on, and epochs are compared from there; the first table of all,
and the first epoch, in which the mining process starts, are told apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.mining.fits import MODES, Runs, fit
from benchmarks.results import Spread, spread

MOST_TIME = 1.05
MOST_STALL = 0.01


def turns(
    runs: Runs, refreshes: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Runs of some kinds for each seed. They take turns, and another one begins with each seed, as the
    machine may have other work to do at times.

    Args:
        runs: what they have in common.
        refreshes: the arguments of ``Refresh`` by the name of the run.
        seeds: of the runs of each.

    Returns:
        The runs by kind, seed by seed.
    """
    names = list(refreshes)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:
        first = seed % len(names)
        for name in [*names[first:], *names[:first]]:
            print(f"{runs.corpus.name}: {name}, seed {seed} of {[*seeds]}", flush=True)
            found[name].append(fit(runs, name, refreshes[name], seed))
    return found


def cost(run: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, float]:
    """What one run took in its epochs after the first, by epoch, beside the control's of the same seed.

    Args:
        run, control: see :func:`~benchmarks.mining.fits.child`.

    Returns:
        ``epoch_seconds``; ``ratio`` to the control's, and ``ratio_per_token`` of what was encoded;
        ``cpu_ratio`` of the processor's seconds of both processes, which other work on the machine changes
        less; ``within``, an epoch to one at the pace, by token, of its own batches while nothing was mined,
        so that it doesn't matter how fast the machine was in another run (where the pace was kept, and
        mining was in the background); ``waited``, by training, for a copy of the weights and a table, or all
        of the mining where that is inline, and ``stall``, the share of the epoch in waiting for a table.
        ``encode`` and ``search`` are seconds of the mining process, ``contention`` is what training takes
        longer and did not wait. Besides:
        ``first_epoch_ratio``, ``cold_start_seconds``, ``map@r``.
    """
    epochs = len(run["epoch_seconds"]) - 1
    own, other = (statistics.fmean(each["epoch_seconds"][1:]) for each in (run, control))
    tokens, other_tokens = (statistics.fmean(each["epoch_tokens"][1:]) for each in (run, control))
    refreshes = run["refreshes"]

    def each(name: str) -> float:
        return sum(refresh.get(name, 0.0) for refresh in refreshes) / epochs

    inline = bool(refreshes) and "stall_seconds" not in refreshes[0]
    stalled = each("seconds") if inline else each("stall_seconds")
    waited = stalled + sum(run["snapshot_seconds"]) / (epochs + 1)
    encode = each("encoding_seconds")
    apart = run.get("alone", [])
    return {
        "epoch_seconds": own,
        "ratio": own / other,
        "ratio_per_token": own / tokens / (other / other_tokens),
        "cpu_ratio": _cpu(run) / _cpu(control),
        **({"within": _within(run)} if apart and all(seconds for seconds, _ in apart) else {}),
        "stall": stalled / own,
        "waited": waited,
        "encode": encode,
        "search": 0.0 if inline else each("seconds") - encode,
        "contention": own - other - waited,
        "encoded": each("encoded"),
        "first_epoch_ratio": run["epoch_seconds"][0] / control["epoch_seconds"][0],
        "cold_start_seconds": run["cold_start_seconds"],
        "map@r": run["map@r"][-1],
    }


def _within(run: Mapping[str, Any]) -> float:
    epochs = zip(run["epoch_seconds"][1:], run["epoch_tokens"][1:], run["alone"], strict=True)
    return statistics.fmean(
        own / tokens / (seconds / of_those) for own, tokens, (seconds, of_those) in epochs
    )


def _cpu(run: Mapping[str, Any]) -> float:
    return float(sum(run["epoch_cpu_seconds"]) + run["worker_cpu_seconds"])


def measure(runs: Runs) -> dict[str, Any]:
    """Every kind for every seed.

    Returns:
        ``runs``: the mean and spread of :func:`cost` by kind; ``ours``: seconds of an epoch with free
        refresh, ``peer``: the control's, ``ratio``: the mean of the seeds'; ``targets``: what should be, and
        whether it is.

    Raises:
        BenchmarkError: with less than 2 epochs there is no refresh.
    """
    runs.check()
    refreshes = {name: runs.kinds[name] for name in MODES if name in runs.only}
    found = turns(runs, refreshes, range(runs.seeds))
    costs: dict[str, dict[str, Spread]] = {}
    for name, own in found.items():
        each = [cost(run, control) for run, control in zip(own, found["none"], strict=True)]
        costs[name] = {key: spread([one[key] for one in each]) for key in each[0]}
    free = {name: one.mean for name, one in costs["free"].items()}
    ratios = [name for name in ("ratio", "ratio_per_token", "within") if name in free]
    return {
        "runs": costs,
        "ours": free["epoch_seconds"],
        "peer": costs["none"]["epoch_seconds"].mean,
        "ratio": free["ratio"],
        "targets": {
            **{
                name: {"at most": MOST_TIME, "is": free[name], "met": free[name] <= MOST_TIME}
                for name in ratios
            },
            "stall": {"below": MOST_STALL, "is": free["stall"], "met": free["stall"] < MOST_STALL},
        },
        "settings": {**runs.settings, "refreshes": refreshes},
    }
