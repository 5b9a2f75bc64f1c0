"""Static models, tables of token vectors, on three kinds of short texts; and how fast they train and encode.

    LIT_METRIC_DATA=DIR python -m benchmarks.static --out runs/bench-static --seeds 3

Each starts from the input embeddings of all-MiniLM-L6-v2 (``embeddings``), or from a table distilled from
that encoder (``distilled``). The learning rate is chosen on validation items with the first seed. Then each
seed is tested on items that nothing was chosen on. The tasks and their settings are those of
``configs/banking77.yaml``, ``debtags.yaml`` and ``movies.yaml``, apart from the epochs: what these configs
reach is what MiniLM reaches. A second call measures only what is missing or has other settings.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from rich.console import Console

from benchmarks import banking77, supervision
from benchmarks.neighbours import BACKBONE
from benchmarks.peer import read
from benchmarks.results import (
    BenchmarkError,
    environment,
    kept,
    score_table,
    short,
    spread,
    write_json,
)
from benchmarks.tagged_items import SHIPPED
from lit_metric import MetricDataModule, MetricLearner
from lit_metric.batching import PKPlanner, ShufflePlanner
from lit_metric.data.formats import Labels
from lit_metric.encoders import (
    AttentionPooling,
    Encoder,
    Projection,
    SetEncoder,
    StaticEncoder,
    TextEncoder,
    distill,
)
from lit_metric.losses import InfoNCELoss, Loss, NCALoss

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
STARTS = ("embeddings", "distilled")


class Task(NamedTuple):
    """What is trained and measured.

    Args:
        epochs: of training.
        chosen: the measure of validation that chooses the learning rate.
        measures: of the test.
    """

    epochs: int
    chosen: str
    measures: tuple[str, ...]


TASKS = {
    "banking77": Task(10, "map@r", ("knn1_accuracy", "map@r")),
    "debtags": Task(15, "knn10_accuracy", ("knn10_accuracy_macro", "knn10_accuracy")),
    "movies": Task(10, "ndcg@10", ("ndcg@10", "knn10_f1_micro")),
}


def data_of(task: str, out: Path, seed: int, per_class: int = 4) -> MetricDataModule:
    """The data of a task, as its config reads them; ``per_class`` of the questions are in a batch."""
    cache: dict[str, Any] = {"cache_dir": str(out / "cache"), "seed": seed}
    if task == "banking77":
        train, test = banking77.files("test", out)
        return MetricDataModule(
            train=str(train), test=str(test), planner=PKPlanner(64, per_class), validation_share=0.1, **cache
        )
    common: dict[str, Any] = {"validation_corpus": "train", **cache}
    if task == "debtags":
        columns: dict[str, Any] = {"tags": "tags", "label": "section", "key": "name"}
        return MetricDataModule(train=str(SHIPPED), planner=ShufflePlanner(1024), **columns, **common)
    _, films = supervision.movies(Path(os.environ["LIT_METRIC_DATA"]), out)
    labels = Labels(fields={"title": "title", "cast": "cast"}, labels="genres", key="title")
    return MetricDataModule(
        train=films, supervision=labels, planner=ShufflePlanner(512), test_corpus="train", **common
    )


def model_of(task: str, source: str) -> tuple[Encoder, Loss]:
    """The encoder and the loss of a task, as in its config, with a table in the place of the transformer."""
    if task == "banking77":
        return StaticEncoder(source, AttentionPooling(hidden=64), max_length=64), InfoNCELoss(0.05)
    if task == "debtags":
        text = StaticEncoder(source, replacements={"::": " ", ":": " ", "-": " "})
    else:
        text = StaticEncoder(source, prompts={"title": "film: ", "cast": "actor: "})
    encoder = SetEncoder(
        text,
        AttentionPooling(heads=4, hidden=128, context=True),
        [Projection(1024, activation="gelu"), Projection(384, dropout=0.3)],
        tag_dropout=0.2,
    )
    return encoder, NCALoss(0.05) if task == "debtags" else InfoNCELoss(0.1)


def measure(task: str, source: str, rate: float, seed: int, out: Path, tested: bool) -> dict[str, Any]:
    """Train, and measure on validation items or on test items, before training and after it."""
    pl.seed_everything(seed, verbose=False)
    data, (encoder, loss) = data_of(task, out, seed), model_of(task, source)
    learner = MetricLearner(encoder, loss, lr=rate)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=TASKS[task].epochs,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_checkpointing=False,
        **quiet,
    )
    judge = pl.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet)

    def scores() -> dict[str, float]:
        if task == "banking77" and tested:
            return banking77.evaluate(encoder.encode, *banking77.files("test", out))
        found = judge.test if tested else judge.validate
        values = [item for part in found(learner, data, verbose=False) for item in part.items()]
        # Where there are several loaders, Lightning adds their number.
        return {name.partition("/")[2].partition("/data")[0]: float(value) for name, value in values}

    before = scores()
    started = time.perf_counter()
    trainer.fit(learner, data)
    seconds = time.perf_counter() - started
    return {"before": before, "after": scores(), "seconds": seconds, "steps": trainer.global_step}


def speed(source: str, out: Path, batch: int = 1024, epochs: int = 6) -> dict[str, float]:
    """Texts a second of Banking77: of training by the last epochs of a whole fit, and of encoding."""
    data = data_of("banking77", out, 0, batch // 64)
    encoder = StaticEncoder(source, max_length=64)
    learner = MetricLearner(encoder, InfoNCELoss(0.05), lr=3e-3)
    clock = _Clock()
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(learner, data)
    texts = read(banking77.files("test", out)[0])[0]
    encoder.encode(texts[:512])
    started = time.perf_counter()
    encoder.encode(texts)
    encoding = len(texts) / (time.perf_counter() - started)
    return {"training": clock.rate(skipped=2), "encoding": encoding, "threads": torch.get_num_threads()}


class _Clock(pl.Callback):
    """Notes the texts and the seconds of each epoch's batches."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.texts, self.started = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.texts += int(outputs["texts"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.epochs.append((self.texts, time.perf_counter() - self.started))

    def rate(self, skipped: int) -> float:
        """Texts a second in the fastest epoch but the first ones."""
        return max(texts / seconds for texts, seconds in self.epochs[skipped:])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.static", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="(all)")
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS), help="(all)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--speed", action="store_true", help="also measure the speed")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; at least 1 is needed")
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lit_metric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    out, console = given.out.resolve(), Console()
    if not os.environ.get("LIT_METRIC_DATA"):
        raise SystemExit("benchmarks.static: set LIT_METRIC_DATA to the folder with banking77/ and movies/")
    static = out / "distilled"
    if not (static / "config.json").is_file():
        distill(TextEncoder(BACKBONE), static)
    sources = dict(zip(STARTS, (BACKBONE, str(static)), strict=True))
    common = {"versions": environment()["versions"]}
    results: dict[str, Any] = {}
    try:
        for task in given.tasks:
            rows: dict[str, Mapping[str, Any]] = {}
            for start in given.starts:
                source = sources[start]

                def run(
                    rate: float, seed: int, tested: bool, of: tuple[str, str, str] = (task, start, source)
                ) -> Any:
                    name = f"{of[0]}-{of[1]}-{'test' if tested else 'validation'}-lr-{rate:g}-seed-{seed}"
                    settings = {**common, "lr": rate, "seed": seed, "epochs": TASKS[of[0]].epochs}
                    path = out / f"{name}.json"
                    return kept(path, settings, lambda: measure(of[0], of[2], rate, seed, out, tested))

                found = {rate: run(rate, 0, False)["after"][TASKS[task].chosen] for rate in RATES}
                best = max(found, key=found.__getitem__)
                runs = [run(best, seed, True) for seed in range(given.seeds)]
                for when in ("before", "after"):
                    title = f"{start}, trained (lr {best:g})" if when == "after" else start
                    rows[title] = {
                        name: spread([each[when][name] for each in runs]) for name in TASKS[task].measures
                    }
                rows[title] = {**rows[title], "seconds": spread([each["seconds"] for each in runs])}
            results[task] = rows
            console.print(score_table(task, rows, (*TASKS[task].measures, "seconds")))
        if given.speed:
            results["speed"] = speed(sources["distilled"], out)
            print(results["speed"])
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.static: {error}") from error
    write_json(out / "static.json", {"results": results, "environment": environment()})
    print(f"The numbers are in {short(out / 'static.json')}.")


if __name__ == "__main__":
    main()
