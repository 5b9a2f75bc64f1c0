"""Is a table mined from the vectors that training computed anyway as good as one for which all was encoded
anew?

``free`` takes the vectors at hand, which are of different steps; ``full`` encodes all texts with the weights
of the refresh. Both take a table into use after as many batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.mining.corpora import Corpus
from benchmarks.mining.fits import KS, kinds
from benchmarks.mining.modes import settings, turns
from benchmarks.results import BenchmarkError, Spread, spread

KINDS = ("free", "full")


def measure(
    out: Path,
    common: Mapping[str, Any],
    corpus: Corpus,
    seeds: int,
    epochs: int,
    threads: int,
    **options: Any,
) -> dict[str, Any]:
    """Both for every seed.

    Args:
        out, common, corpus, epochs, threads, options: see :func:`~benchmarks.mining.fits.fit`; at least 2
            epochs.
        seeds: runs of each.

    Returns:
        ``runs``: by kind the mean and spread over seeds of ``map@r`` and of ``overlap@k`` with a table
        encoded anew in the training process at the same step (of ``full``, the worker's own: it tells how
        exact the comparison is), with ``stale@k`` of the table mined anew an epoch earlier, and ``encoded``,
        the share of texts that had to be encoded; each the mean of a run's refreshes. ``ours``, ``peer`` and
        ``ratio`` are of the MAP@R.

    Raises:
        BenchmarkError: with less than 2 epochs there is no refresh.
    """
    if epochs < 2:
        raise BenchmarkError(f"--epochs {epochs}: the table is renewed after the first; take 2 or more")
    miners = {name: kinds(corpus.batches)[name] for name in KINDS}
    found = turns(out, common, corpus, miners, range(seeds), epochs, threads, **options)
    runs: dict[str, dict[str, Spread]] = {}
    for name, own in found.items():
        runs[name] = {
            **{
                f"{what}@{k}": spread([_mean(run["overlaps"], f"{what}@{k}") for run in own])
                for what in ("overlap", "stale")
                for k in KS
            },
            "encoded": spread([_mean(run["refreshes"], "encoded") for run in own]),
            "map@r": spread([run["map@r"][-1] for run in own]),
        }
    ours, peer = (runs[name]["map@r"].mean for name in KINDS)
    return {
        "runs": runs,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "settings": settings(corpus, seeds, epochs, threads),
    }


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
