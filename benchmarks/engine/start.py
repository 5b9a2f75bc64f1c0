"""Seconds from the start of a fit to the end of its first step, and where they go, beside the peer.

Ours is ``lit-metric fit`` on ``data/questions.csv`` with all defaults, evaluation before training included.
The peer reads the same file and starts its trainer with the same backbone and batch, without an evaluation.
Each is a process of its own, which ends after its first step. The first of each doesn't count: files are in
memory then.

    python -m benchmarks.engine.start --side ours --report FILE.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.measures import compared, measured
from benchmarks.results import REPOSITORY, read_json, run, write_json

QUESTIONS = REPOSITORY / "data" / "questions.csv"
SIDES = ("ours", "peer")
LIMIT = 12.0
"""Seconds that our start may take."""


class Marks:
    """When each phase of this process ended, by name, in seconds since it was started.

    Args:
        report: where they are written when the first step is done, which ends the process.
    """

    def __init__(self, report: Path) -> None:
        self.report = report
        self.began = float(os.environ.get("BENCHMARK_BEGAN") or time.time())
        self.ends: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """A phase ends now, if it has not ended before."""
        self.ends.setdefault(phase, time.time() - self.began)

    def after(self, owner: type, method: str, phase: str) -> None:
        """The phase ends when this method has returned for the first time."""
        inner: Callable[..., Any] = getattr(owner, method)

        def marking(*arguments: Any, **options: Any) -> Any:
            answer = inner(*arguments, **options)
            self.mark(phase)
            return answer

        own = vars(owner)[method]
        setattr(owner, method, staticmethod(marking) if isinstance(own, classmethod) else marking)

    def finish(self) -> None:
        """Write the marks and end the process without what a fit does at its end."""
        self.mark("first step")
        write_json(self.report, {"ends": self.ends})
        os._exit(0)


def ours(marks: Marks, folder: Path) -> None:
    """``lit-metric fit`` until its first step is done."""
    from lit_metric import MetricDataModule, MetricLearner
    from lit_metric.callbacks import RunReport
    from lit_metric.cli import main
    from lit_metric.encoders.backbone import Backbone

    marks.mark("imports")
    marks.after(Backbone, "load", "backbone")
    marks.after(MetricDataModule, "read", "reading")
    marks.after(MetricDataModule, "prepare", "tokenising")
    marks.after(RunReport, "on_fit_start", "evaluation before training")
    inner = MetricLearner.on_train_batch_end

    def done(self: Any, *arguments: Any, **options: Any) -> None:
        inner(self, *arguments, **options)
        marks.finish()

    MetricLearner.on_train_batch_end = done  # type: ignore[method-assign]
    os.chdir(folder)
    main(["fit", "--data.train", str(QUESTIONS), "--seed_everything", "0"])


def peer(marks: Marks, folder: Path) -> None:
    """A trainer of sentence-transformers until its first step is done."""
    import sentence_transformers
    from transformers import TrainerCallback

    from benchmarks import peer as fits
    from lit_metric.encoders.pretrained import locate

    marks.mark("imports")
    model = sentence_transformers.SentenceTransformer(str(locate(fits.BACKBONE)), device="cpu")
    marks.mark("backbone")
    texts, labels = fits.read(QUESTIONS)
    prepared = fits.ready("batch-hard", model, texts, labels, 64, 1, 0)
    marks.mark("reading")

    class Done(TrainerCallback):
        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            marks.finish()

    options = {"max_steps": 1, "per_device_train_batch_size": prepared.rows}
    data, loss, sampler, _ = prepared
    fits.train(model, data, loss, folder / "trainer", options, sampler, callbacks=[Done()])


def started(side: str) -> dict[str, float]:
    """Seconds of each phase of a new process."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        os.environ["BENCHMARK_BEGAN"] = str(time.time())
        module = [sys.executable, "-m", "benchmarks.engine.start"]
        run([*module, "--side", side, "--report", report], log=Path(folder) / "log")
        ends = read_json(report)["ends"]
    phases, before = {}, 0.0
    for name, end in ends.items():
        phases[name] = end - before
        before = end
    return phases


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """See the module.

    Args:
        out: the folder of results.
        quick: one round.
    """
    rounds = 1 if quick else 3
    settings = {
        "both": {"data": QUESTIONS.name, "rounds": rounds},
        "ours": {"command": "lit-metric fit --data.train data/questions.csv"},
        "peer": {"library": "sentence-transformers", "loss": "batch-hard", "batch": 64},
    }

    def work() -> dict[str, Any]:
        phases: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for turn in range(rounds + 1):
            for side, found in phases.items():
                each = started(side)
                if turn:
                    found.append(each)
        seconds = {side: [sum(each.values()) for each in found] for side, found in phases.items()}
        means = {
            side: {name: statistics.median(each.get(name, 0.0) for each in found) for name in found[0]}
            for side, found in phases.items()
        }
        return {
            **compared(seconds["ours"], seconds["peer"], higher=False),
            "limit": LIMIT,
            "phases": means,
        }

    result = measured(out, "start", f"start to first step, warm (at most {LIMIT:g} s): s", settings, work)
    for side, phases in result["phases"].items():
        print(
            f"  {side}: " + ", ".join(f"{name} {value:.1f} s" for name, value in phases.items()), flush=True
        )
    return [result]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of one process."""
    parser = argparse.ArgumentParser("benchmarks.engine.start")
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args(arguments)
    marks = Marks(given.report.resolve())
    {"ours": ours, "peer": peer}[given.side](marks, given.report.resolve().parent)


if __name__ == "__main__":
    main()
