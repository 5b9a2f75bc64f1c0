"""How often to renew the table of negatives: MAP@R by the time between two of them.

Training stops for each (``inline``), so that a table is as old as the time since the last one, and no older.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.mining.corpora import Corpus
from benchmarks.mining.fits import kinds
from benchmarks.mining.modes import settings, turns
from benchmarks.results import BenchmarkError, Spread, spread

EPOCHS = (4.0, 1.0, 0.5, 0.1)


def periods(batches: int, epochs: int) -> dict[str, tuple[float | None, dict[str, Any]]]:
    """How often, and the arguments of the miner, by the name of the run.

    Args:
        batches: of an epoch.
        epochs: of a run. What would not be renewed before its end is left out.

    Example:
        >>> for name, (every, miner) in periods(batches=20, epochs=3).items():
        ...     print(name, every, miner)
        none None {'refresh': 'never'}
        inline 1.0 {'refresh': 'epoch'}
        every-10-batches 0.5 {'refresh': 10}
        every-2-batches 0.1 {'refresh': 2}
    """
    usual = kinds(batches)
    found: dict[str, tuple[float | None, dict[str, Any]]] = {"none": (None, usual["none"])}
    for every in EPOCHS:
        if every == 1:
            found["inline"] = every, usual["inline"]
        elif every < epochs:
            period = max(1, round(every * batches))
            found[f"every-{period}-batches"] = every, {"refresh": period}
    return found


def measure(
    out: Path,
    common: Mapping[str, Any],
    corpus: Corpus,
    seeds: int,
    epochs: int,
    threads: int,
    **options: Any,
) -> dict[str, Any]:
    """Every period for every seed.

    Args:
        out, common, corpus, epochs, threads, options: see :func:`benchmarks.mining.fits.fit`; at least 2
            epochs.
        seeds: runs of each.

    Returns:
        ``runs``: by name ``epochs`` from one table to the next (None: there is one only) and the mean and
        spread of ``map@r`` and ``seconds``; ``ours``: the MAP@R of one table an epoch, ``peer`` that of one
        table for all, ``ratio`` of the two.

    Raises:
        BenchmarkError: with less than 2 epochs there is nothing to compare.
    """
    if epochs < 2:
        raise BenchmarkError(f"--epochs {epochs}: the table is renewed after the first; take 2 or more")
    chosen = periods(corpus.batches, epochs)
    if left := [every for every in EPOCHS if every >= epochs]:
        print(f"A table every {left} epochs is the only one in {epochs} epochs, and so left out", flush=True)
    miners = {name: miner for name, (_, miner) in chosen.items()}
    found = turns(out, common, corpus, miners, range(seeds), epochs, threads, **options)
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
        "settings": {**settings(corpus, seeds, epochs, threads), "miners": miners},
    }
