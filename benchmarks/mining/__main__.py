"""What mining costs and what it is worth.

    LIT_METRIC_DATA=DIR python -m benchmarks.mining --out DIR --measures scale offline draw

- ``scale``: the 100 nearest of every row among 10 thousand to 1 million vectors of 384 dimensions, exact, IVF
  and by sentence-transformers: seconds, peak memory, recall, the exponent of growth. Where all rows would be
  too many pairs (``--pairs``), evenly spread ones are searched, and the seconds are those that all would
  take.
- ``offline``: one pass of mining over the training texts of Banking77, beside ``mine_hard_negatives``.
- ``modes``: wall time of an epoch, what training waits, and MAP@R where the table of negatives is renewed
  after each epoch: in the background with vectors at hand (``free``) or encoded anew (``scheduled``), with
  training stopped (``inline``), and never (``none``).
- ``table``: whether a table of vectors at hand is as good as one for which all was encoded anew.
- ``peer``: training on hard negatives against mining by ``mine_hard_negatives`` once an epoch: MAP@R by time.
- ``staleness``: MAP@R by how often the table is renewed.
- ``draw``: a fifth of Banking77's labels hidden: how often a hidden positive is drawn, and the test MAP@R.

``modes``, ``table``, ``peer`` and ``staleness`` train on ``--data``, on a sample of it by ``--texts``, for
``--epochs``; they share the runs that they have in common. An epoch of Banking77 takes about four minutes on
two cores, one of the packages ten, and a measure runs several for each seed; so, in less time:

    python -m benchmarks.mining --out DIR --measures modes table peer --texts 2000 --batch 32 --epochs 3

(where an epoch has about as many batches as that of all questions).

Each run is a process of its own and one JSON file in OUT; a second call measures only what is missing or has
other settings. ``mining.json`` has ``ours``, ``peer``, ``ratio`` and ``settings`` for each measure. Options
that are not listed here go to the fits of ``draw``: ``--trainer.max_epochs 1``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.mining import draw, modes, offline, peer, scale, staleness, table
from benchmarks.mining.corpora import BATCH, CORPORA, PER_CLASS, prepare
from benchmarks.mining.fits import MODES, Runs
from benchmarks.mining.show import SHOW
from benchmarks.results import BenchmarkError, environment, read_json, short, write_json

TRAINED = {"modes": modes, "table": table, "peer": peer, "staleness": staleness}
MEASURES = ("scale", "offline", *TRAINED, "draw")
SUMMARY = "mining.json"
FEWEST = 4


def sources() -> tuple[Path, Path]:
    """The training and test file of Banking77.

    Raises:
        BenchmarkError: they are not there.
    """
    root = os.environ.get("LIT_METRIC_DATA")
    paths = [Path(root or "") / "banking77" / f"{name}.parquet" for name in ("train", "test")]
    if not root or not all(path.is_file() for path in paths):
        raise BenchmarkError(
            "set LIT_METRIC_DATA to a folder that holds banking77/train.parquet and banking77/test.parquet"
        )
    return paths[0].resolve(), paths[1].resolve()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.mining", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), help="(all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of each process (%(default)s)"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=list(scale.COUNTS), help="of vectors")
    parser.add_argument("--pairs", type=float, default=4e9, help="compared at most for a scale (%(default)s)")
    parser.add_argument("--variants", nargs="+", choices=draw.NAMES, help="of draw (all)")
    parser.add_argument("--data", choices=list(CORPORA), default="banking77", help="(%(default)s)")
    parser.add_argument("--texts", type=int, help="to train on, out of those (all)")
    parser.add_argument("--batch", type=int, default=BATCH, help="texts of a batch (%(default)s)")
    parser.add_argument("--delay", type=int, help="batches until a table of vectors at hand is used")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        default=list(MODES),
        help="to compare, free with none at least (%(default)s)",
    )
    parser.add_argument("--epochs", type=int, default=4, help="of each run (%(default)s)")
    parser.add_argument(
        "--precision", default="32-true", help="of our training in modes, table, staleness (%(default)s)"
    )
    parser.add_argument("--peer-lr", type=float, help=f"of the peer's training ({peer.LEARNING_RATE:g})")
    given, options = parser.parse_known_args(arguments)
    for name in ("seeds", "threads", "epochs"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)} must be at least 1")
    if given.batch < 2 * PER_CLASS or given.batch % PER_CLASS:
        parser.error(f"--batch {given.batch} must be a multiple of {PER_CLASS}, and at least {2 * PER_CLASS}")
    if given.texts is not None and given.texts < FEWEST * given.batch:
        parser.error(f"--texts {given.texts} make less than {FEWEST} batches of {given.batch}")
    if not {"none", "free"} <= {*given.modes}:
        parser.error(f"--modes {' '.join(given.modes)} must have none, the control, and free among them")
    if given.delay is not None and given.delay < 2:
        parser.error(f"--delay {given.delay} must be at least 2, as the loader runs a batch ahead")
    if given.peer_lr is not None and not given.peer_lr > 0:
        parser.error(f"--peer-lr {given.peer_lr} must be above 0")
    out, console = given.out.resolve(), Console()
    common = {"versions": environment()["versions"]}

    def measured(name: str) -> dict[str, Any]:
        if name == "scale":
            return scale.measure(out, common, given.counts, given.pairs, given.threads)
        if name in TRAINED:
            corpus = prepare(given.data, given.texts, out, given.batch)
            sizes = given.seeds, given.epochs, given.threads, given.delay
            # The peer's run is in float32, and what is beside it is to differ in nothing but the method.
            precision = "32-true" if name == "peer" else given.precision
            more = {"only": tuple(given.modes), "peer_lr": given.peer_lr}
            return TRAINED[name].measure(Runs(out, common, corpus, *sizes, precision=precision, **more))
        train, test = sources()
        if name == "offline":
            return offline.measure(out, common, train, given.seeds, given.threads)
        return draw.measure(out, common, train, test, given.seeds, options, given.variants)

    try:
        for name in given.measures:
            found = measured(name)
            # After each, so that what is done can be looked at, and is there if the next one fails.
            key = f"{name}-{found['settings']['data']}" if name in TRAINED else name
            write_json(out / SUMMARY, {**read_json(out / SUMMARY), key: found, "environment": environment()})
            SHOW[name](console, out, key, found)
            console.print({"settings": found["settings"]})
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.mining: {error}") from error
    print(f"The numbers are in {short(out / SUMMARY)}, and plots beside it.")


if __name__ == "__main__":
    main()
