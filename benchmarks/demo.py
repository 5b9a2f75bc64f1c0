"""What an embedding is for, shown in two minutes on data that ships with the project.

    python -m benchmarks.demo   # make demo

The command line trains an encoder of tagged Debian packages, from which a fifth of the tags is hidden, while
a worker process mines hard negatives. Three fits in Python train on questions, each without five of the
labels. Then come three tasks that columns and classifiers do badly or not
at all: find items like this one, find by tags that training never met, and recognise new classes by three
examples each. Every row of a table is measured in this run. OUT/demo holds the encoder, the figures
(``demo.json``) and a picture of the packages before and after training (``map.png``).

For a comparison with classifiers where all classes and tags are known beforehand, run
``python -m benchmarks.packages``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from benchmarks import unseen_tags
from benchmarks.baselines import words
from benchmarks.neighbours import BACKBONE, FrozenTags, Vectors
from benchmarks.packages_report import OURS, verdict
from benchmarks.results import (
    REPOSITORY,
    BenchmarkError,
    Rows,
    environment,
    fit,
    score_table,
    short,
    write_json,
)
from benchmarks.tagged_items import SHIPPED, TaggedItems, read_splits
from lit_metric.data import LabelRelations
from lit_metric.metrics import NeighbourMetrics

PACKAGES = "configs/debtags.yaml"
QUESTIONS = REPOSITORY / "data" / "questions.csv"
EPOCHS = 30
"""Of the packages: half of what the config asks for, which is enough to see what happens."""
EVERY = 30
"""Batches from one refresh of the hard negatives to the next; an epoch has six."""
NEW_LABELS = 5
EXAMPLES = 3
DRAWS = 50
"""How often the examples of the new labels are drawn."""

Labels = NDArray[np.str_]


def similar_items(vectors: Vectors, labels: Sequence[str]) -> dict[str, float]:
    """How many of an item's nearest neighbours are of its kind, the item itself left out.

    Args:
        vectors: ``[n, d]``; the similarity is the cosine.
        labels: ``n`` classes. Items that are alone in their class are searched, but don't search.

    Returns:
        ``MAP@R`` and ``P@10``, means over the items, each between 0 and 1.

    Example:
        >>> vectors = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]], dtype=np.float32)
        >>> similar_items(vectors, ["a", "a", "b", "b"])["MAP@R"]
        1.0
    """
    ids = torch.arange(len(vectors))
    metrics = NeighbourMetrics(LabelRelations.from_names(labels, ids), ks=(10,))
    metrics.update(torch.from_numpy(np.asarray(vectors, np.float32)), ids)
    values = metrics.compute()
    return {"MAP@R": float(values["map@r"]), "P@10": float(values["precision@10"])}


def nearest_kinds(
    queries: Vectors, labels: Sequence[str], corpus: Vectors, corpus_labels: Sequence[str]
) -> dict[str, float]:
    """``P@1`` and ``P@10``: which share of the nearest in ``corpus [n, d]`` is of a query's kind.

    Example:
        >>> corpus = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
        >>> nearest_kinds(np.array([[2.0, 1.0]]), ["a"], corpus, ["a"] * 10 + ["b"] * 10)
        {'P@1': 1.0, 'P@10': 1.0}
    """
    ids = torch.arange(len(corpus) + len(queries))
    relations = LabelRelations.from_names([*corpus_labels, *labels], ids)
    metrics = NeighbourMetrics(relations, ks=(1, 10))
    metrics.update(torch.from_numpy(np.asarray(corpus, np.float32)), ids[: len(corpus)], corpus=True)
    metrics.update(torch.from_numpy(np.asarray(queries, np.float32)), ids[len(corpus) :])
    values = metrics.compute()
    return {"P@1": float(values["precision@1"]), "P@10": float(values["precision@10"])}


def spaces_of(train: TaggedItems, frozen: FrozenTags, encoder: Any) -> dict[str, Any]:
    """By row of the tables, what makes vectors of lists of tags. Weights of columns come from ``train``."""
    tags = TfidfVectorizer(analyzer=list).fit(train.tags)
    parts = TfidfVectorizer(analyzer=words).fit(train.tags)
    return {
        "tags as columns, TF-IDF": lambda items: tags.transform(items).toarray(),
        "words of tags as columns, TF-IDF": lambda items: parts.transform(items).toarray(),
        "frozen encoder": frozen.encode,
        OURS: encoder.encode,
    }


def packages(out: Path, options: Sequence[str]) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Train on packages, then find similar ones; also by tags that training never met.

    Returns:
        The rows of both tables, and what is known of the fit and of mining.
    """
    from lit_metric import load

    only, everything = unseen_tags.write(out / "demo-data")
    folder = out / "demo"
    settings = [
        "--trainer.max_epochs",
        str(EPOCHS),
        "--data.miner",
        "Miner",
        "--data.refresh.every",
        str(EVERY),
    ]
    metrics, _ = fit(PACKAGES, folder, "--data.train", short(everything, REPOSITORY), *settings, *options)
    splits, hidden = read_splits(everything), read_splits(only)
    train, test, by_hidden = splits["train"], splits["test"], hidden["test"]
    frozen = FrozenTags.of(*splits.values())
    spaces = spaces_of(train, frozen, load(folder))
    similar: Rows = {name: similar_items(space(test.tags), test.sections) for name, space in spaces.items()}
    unseen: Rows = {
        name: nearest_kinds(space(by_hidden.tags), by_hidden.sections, space(train.tags), train.sections)
        for name, space in spaces.items()
    }
    panels = {"before training": "frozen encoder", "after training": OURS}
    maps = {panel: spaces[name](test.tags) for panel, name in panels.items()}
    draw_map(folder / "map.png", maps, test.sections)
    about = {
        "packages": len(test.names),
        "hidden": len(by_hidden.names),
        "seconds": metrics["seconds"],
        "mining": mined(folder),
    }
    return {"similar": similar, "unseen": unseen}, about


def mined(folder: Path) -> dict[str, Any]:
    """What a run says of its hard negatives: tables, seconds, and the newest table's sample."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def values(name: str) -> list[float]:
        return [float(row[f"mining/{name}"]) for row in rows if row.get(f"mining/{name}")]

    samples = [
        json.loads(path.read_text(encoding="utf-8"))["anchors"]
        for path in sorted((folder / "negatives").glob("v*/sample.json"))
    ]
    # Names come when a table comes into use, which the last one may not have done.
    used = [anchors for anchors in samples if all("key" in anchor for anchor in anchors)]
    anchors = used[-1] if used else []
    return {
        "tables": len(samples),
        "seconds": sum(values("seconds")[1:]),
        "waited": sum(values("stall_seconds")) + sum(values("snapshot_seconds")),
        "examples": [
            {"anchor": anchor["key"], "negative": negative["key"], "score": negative["score"]}
            for anchor in anchors
            for negative in [each for each in anchor["candidates"] if each["verdict"] == "kept"][:1]
        ],
    }


def draw_map(path: Path, spaces: Mapping[str, Vectors], labels: Sequence[str], most: int = 8) -> None:
    """Draw items in the plane by t-SNE, one panel for each space; the largest classes have colours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    kinds = np.asarray(labels)
    largest = [label for label, _ in Counter(labels).most_common(most)]
    size = (6 * len(spaces), 6)
    figure, axes = plt.subplots(1, len(spaces), figsize=size, layout="constrained", squeeze=False)
    for axis, (name, vectors) in zip(axes[0], spaces.items(), strict=True):
        unit = normalize(vectors)
        reduced = PCA(min(30, *unit.shape), random_state=0).fit_transform(unit)
        perplexity = min(30.0, (len(unit) - 1) / 3)
        flat = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(reduced)
        others = ~np.isin(kinds, largest)
        axis.scatter(*flat[others].T, s=4, color="0.85", label="other sections")
        for label in largest:
            axis.scatter(*flat[kinds == label].T, s=6, label=label)
        axis.set(title=name, xticks=[], yticks=[])
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, markerscale=3)
    figure.suptitle("Test packages by section (t-SNE)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def new_labels(labels: Sequence[str], count: int = NEW_LABELS) -> list[list[str]]:
    """Disjoint parts of the labels, in the order of their sha256, each to be hidden in turn.

    Example:
        >>> new_labels(["a", "b", "c", "d", "d"], 2)
        [['d', 'c'], ['b', 'a']]
    """
    ranked = sorted(set(labels), key=lambda label: hashlib.sha256(label.encode()).digest())
    return [ranked[first : first + count] for first in range(0, len(ranked) - count + 1, count)]


def few_examples(vectors: Vectors, labels: Labels, draws: int = DRAWS) -> float:
    """Accuracy where each class is known by the mean of a few examples, over several draws of these."""
    unit = normalize(vectors)
    names = np.unique(labels)
    shares = []
    for examples, rest in drawn_examples(labels, draws):
        means = normalize(np.stack([unit[examples[labels[examples] == name]].mean(0) for name in names]))
        shares.append((names[(unit[rest] @ means.T).argmax(1)] == labels[rest]).mean())
    return float(np.mean(shares))


@threadpool_limits.wrap(limits=1)
def few_by_words(texts: Sequence[str], labels: Labels, draws: int = DRAWS) -> float:
    """The same for logistic regression on the words of the examples."""
    shares = []
    for examples, rest in drawn_examples(labels, draws):
        columns = TfidfVectorizer(sublinear_tf=True).fit([texts[place] for place in examples])
        model = LogisticRegression(C=10.0, max_iter=1000)
        model.fit(columns.transform([texts[place] for place in examples]), labels[examples])
        predicted = model.predict(columns.transform([texts[place] for place in rest]))
        shares.append((predicted == labels[rest]).mean())
    return float(np.mean(shares))


def drawn_examples(labels: Labels, draws: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each draw, the places of ``EXAMPLES`` items of each class, and those of the rest."""
    found = []
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        classes = [np.flatnonzero(labels == name) for name in np.unique(labels)]
        examples = np.concatenate([generator.choice(each, EXAMPLES, replace=False) for each in classes])
        found.append((examples, np.setdiff1d(np.arange(len(labels)), examples)))
    return found


def questions(options: Mapping[str, Any]) -> tuple[Rows, dict[str, Any]]:
    """Train on the questions of some labels, then recognise the other labels by a few examples.

    Returns:
        Mean accuracies over the parts of the labels that are hidden in turn, and what is known of the fits.
    """
    from lightning.pytorch import Trainer, seed_everything

    from lit_metric import MetricDataModule, MetricLearner, TextEncoder

    rows = pyarrow.csv.read_csv(QUESTIONS).to_pylist()
    frozen = TextEncoder(BACKBONE, freeze=True).encode([row["text"] for row in rows])
    parts, accuracies, seconds = new_labels([row["label"] for row in rows]), [], []
    for name in ("lightning.pytorch", "lit_metric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False
    )
    for hidden in parts:
        is_new = np.asarray([row["label"] in hidden for row in rows])
        new = [row for row, chosen in zip(rows, is_new, strict=True) if chosen]
        known = [row for row, chosen in zip(rows, is_new, strict=True) if not chosen]
        seed_everything(0, verbose=False)
        model = MetricLearner(TextEncoder(BACKBONE), lr=1e-4)
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(**{"max_epochs": 6, **quiet, **options})
            trainer.fit(model, MetricDataModule(train=known))
        seconds.append(time.perf_counter() - begin)
        print(f"trained on {len(known)} questions, without those of {', '.join(hidden)}", flush=True)
        texts, labels = [row["text"] for row in new], np.asarray([row["label"] for row in new])
        accuracies.append(
            {
                "logistic regression on words": few_by_words(texts, labels),
                "frozen encoder, nearest mean": few_examples(frozen[is_new], labels),
                OURS: few_examples(model.encode(texts), labels),
            }
        )
    means = {
        name: {"accuracy": float(np.mean([each[name] for each in accuracies]))} for name in accuracies[0]
    }
    return means, {"parts": parts, "accuracies": accuracies, "seconds": sum(seconds)}


def show(tables: Mapping[str, Rows], about: Mapping[str, Any], console: Console) -> dict[str, str]:
    """Print the tables, each with the sentence that follows from it, and what was mined.

    Returns:
        The sentences by table.
    """
    packages, negatives = about["packages"], about["packages"]["mining"]
    titles = {
        "similar": f"1. Find packages like this one, among {packages['packages']:,} test packages",
        "unseen": f"2. Tags that training never met: {packages['hidden']:,} packages by hidden tags alone",
        "few": f"3. New labels by {EXAMPLES} examples each, in {len(about['questions']['parts'])} parts of "
        f"{NEW_LABELS}",
    }
    sentences = {}
    for name, rows in tables.items():
        columns = list(rows[OURS])
        sentences[name] = verdict(rows, measures=columns)
        console.print(score_table(titles[name], rows, columns))
        console.print(f"{sentences[name]}\n")
    console.print("4. Hard negatives, mined while training went on", style="bold")
    console.print(
        f"{negatives['tables']} tables, {negatives['seconds']:.0f} s of mining beside training, which waited "
        f"{negatives['waited']:.1f} s for it. Packages, and the nearest of another section:"
    )
    for example in negatives["examples"][:4]:
        console.print(f"  {example['anchor']} and {example['negative']} (cosine {example['score']:.2f})")
    return sentences


def what_next(out: Path) -> list[str]:
    """Commands to paste and pages to read."""
    model, data = short(out / "demo"), short(SHIPPED)
    command = short(REPOSITORY / ".venv" / "bin" / "lit-metric")
    query = '"interface::x11, use::gameplaying"'
    return [
        f"{command} search --model {model} --corpus {data} --tags tags --key name --query {query}",
        f"{command} fit --data.train {short(QUESTIONS)}  # or your file with the columns text and label",
        "docs/index.md starts from what you have; docs/results.md has the figures beside other methods,",
        "also where a classifier is as good or better: all classes and all tags known beforehand",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.demo", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder to write to (%(default)s)")
    parser.add_argument(
        "--epochs", type=int, help="of each fit, for a quick look; the figures are lower then"
    )
    given = parser.parse_args(arguments)
    options = ["--trainer.max_epochs", str(given.epochs)] if given.epochs else []
    begin, out, console = time.perf_counter(), given.out.resolve(), Console()
    try:
        console.rule("Training on tagged packages, with hard negatives mined meanwhile")
        tables, about = packages(out, options)
        console.rule("Training on questions")
        few, about_questions = questions({"max_epochs": given.epochs} if given.epochs else {})
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.demo: {error}") from error
    console.rule("What this kind of training is for")
    tables["few"] = few
    facts = {"packages": about, "questions": about_questions}
    sentences = show(tables, facts, console)
    summary = {**tables, "verdict": sentences, **facts, "environment": environment()}
    write_json(out / "demo" / "demo.json", summary)
    seconds = time.perf_counter() - begin
    print(
        f"\nEverything took {seconds:.0f} s. {short(out / 'demo')} holds the encoder, demo.json, and map.png:"
    )
    print("the packages in the plane before and after training.\n\nWhat next:")
    for line in what_next(out):
        print(f"  {line}")


if __name__ == "__main__":
    main()
