"""A small world to train in: a backbone of two layers, questions with an intent, packages with tags."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from transformers import AutoConfig, AutoModel

from lit_metric import MetricDataModule, MetricLearner, TextEncoder
from lit_metric.batching import PKPlanner
from lit_metric.data import Batch
from lit_metric.losses import InfoNCELoss, MetricLoss
from tests.encoders.tokens import model_folder, word_tokenizer

CLASSES = 6


@dataclass(frozen=True)
class Small:
    """Where things are.

    Args:
        root: holds ``backbone``, ``deep`` (with six layers, which configs name), ``train.csv`` (72 questions
            of 6 intents), ``test.csv`` (30), ``train.parquet`` and ``test.parquet`` (the same words as tags
            of sections), ``many_train.csv`` and ``many_test.csv`` (questions of 80 intents), ``cache``, and a
            folder for each config of the project that reads something else, with the files that it names.
    """

    root: Path

    @classmethod
    def make(cls, root: Path) -> Small:
        """Write all of it; the same at every call."""
        model_folder(root / "backbone")
        deep = AutoConfig.from_pretrained(root / "backbone", num_hidden_layers=6)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModel.from_config(deep).save_pretrained(root / "deep")
        word_tokenizer().save_pretrained(root / "deep")
        for name, count, seed in (("train", 72, 0), ("test", 30, 1)):
            rows = questions(count, seed)
            write_csv(root / f"{name}.csv", rows)
            columns = {"tags": [text.split() for text, _ in rows], "section": [label for _, label in rows]}
            pq.write_table(pa.table(columns), root / f"{name}.parquet")
        for name, count, seed in (("many_train", 400, 2), ("many_test", 160, 3)):
            write_csv(root / f"{name}.csv", questions(count, seed, classes=80))
        supervised(root)
        return cls(root)

    def __truediv__(self, name: str) -> str:
        """The path of a file or folder, as configs have it."""
        return str(self.root / name)

    def data(self, **options: Any) -> MetricDataModule:
        """The questions, 12 of them for validation; 5 batches an epoch of 4 intents with 3 questions each."""
        sources = {"train": self / "train.csv", "test": self / "test.csv", "cache_dir": self / "cache"}
        return MetricDataModule(**{"planner": PKPlanner(4, 3), "validation_share": 0.2, **sources, **options})

    def learner(self, loss: MetricLoss | None = None, dropout: float = 0.0, **options: Any) -> MetricLearner:
        """On the tiny backbone, which starts from the same weights at every call."""
        encoder = TextEncoder(self / "backbone", dropout=dropout)
        return MetricLearner(encoder, loss or InfoNCELoss(0.2), **{"lr": 1e-3, **options})


def questions(count: int, seed: int, classes: int = CLASSES) -> list[tuple[str, str]]:
    """``(text, label)`` rows: two of the four words that an intent has for itself, and four of 32 others."""
    draw = random.Random(seed)
    rows = []
    for row in range(count):
        intent = row % classes
        words = [4 + 4 * (intent % CLASSES) + draw.randrange(4) for _ in range(2)]
        words += [28 + draw.randrange(32) for _ in range(4)]
        draw.shuffle(words)
        rows.append((" ".join(f"w{word}" for word in words), f"intent{intent}"))
    return rows


def supervised(root: Path) -> None:
    """Write what the configs of pairs, scores, triplets, judgements, facts and several labels read."""
    rows = questions(120, seed=4)
    splits = [("train", "train", "validation", "test")[row % 4] for row in range(60)]
    couples = [(one, other) for (one, _), (other, _) in zip(rows[:60], rows[60:], strict=True)]
    first, second = [list(side) for side in zip(*couples, strict=True)]
    scores = [len({*one.split()} & {*other.split()}) / 6 for one, other in couples]
    others = second[1:] + second[:1]
    subsets = ["replace_att" if row % 2 else "swap_obj" for row in range(60)]
    films = {"title": first, "cast": [text.split() for text in second]}
    genres = [[label, "film"][: 1 + row % 2] for row, (_, label) in enumerate(rows[:60])]
    triplets = {"caption": first, "caption2": second, "negative": others, "subset": subsets}
    tables = {
        "movies/movies": {**films, "genres": genres, "split": splits},
        "pairs/pairs": {"words": first, "definition": second, "split": splits},
        "similarity/similarity": {"sentence1": first, "sentence2": second, "score": scores, "split": splits},
        "sugarcrepe/triplets": {**triplets, "split": splits},
        "cranfield/queries": {"id": [f"q{row}" for row in range(60)], "text": first},
        "cranfield/corpus": {"id": [f"d{row}" for row in range(60)], "title": first, "text": second},
        "cranfield/qrels": {
            "query": [f"q{row}" for row in [*range(60), *range(60)]],
            "document": [f"d{row}" for row in [*range(60), *range(1, 60), 0]],
            "relevance": [2] * 60 + [1] * 60,
        },
        "graph/entities": {
            "id": [f"e{row}" for row in range(60)],
            "lemmas": [text.split()[:2] for text in first],
            "definition": second,
        },
        "graph/train": {
            "head": [f"e{row}" for row in range(60)],
            "relation": [("_part_of", "_like")[row % 2] for row in range(60)],
            "tail": [f"e{(row + 7) % 60}" for row in range(60)],
        },
    }
    for name, columns in tables.items():
        path = root / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label")) -> str:
    """Write a table and say where."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


class Watch(Callback):
    """Keeps the ids of each batch's anchors and candidates, its loss and the learning rates that it used."""

    def __init__(self) -> None:
        self.anchors: list[list[int]] = []
        self.candidates: list[list[int]] = []
        self.losses: list[float] = []
        self.rates: list[list[float]] = []
        self.epochs: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.anchors.append(batch.anchor_ids.tolist())
        self.candidates.append(batch.candidate_ids.tolist())
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        self.epochs.append(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> pl.Trainer:
    """One that runs on the CPU, quietly, without logs or checkpoints of its own."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": checkpoints,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**defaults, **quiet, **options})


def heard(asked: list[str]) -> type[TextEncoder]:
    """Text encoders that note in ``asked`` what they encode."""

    class Heard(TextEncoder):
        def encode(self, items: list[str], **options: Any) -> object:  # type: ignore[override]
            asked.extend(items)
            return super().encode(items, **options)

    return Heard


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
