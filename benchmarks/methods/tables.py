"""Tables of data sets for the recipe book, made from the real data.

Each function writes files into a folder and returns the options of the data module that name them. Splits go
by sha256, or are those of the source, so no seed changes what is tested.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.methods.edits import package_edits
from benchmarks.results import BenchmarkError
from benchmarks.splits import bucket
from benchmarks.supervision import captions, read, split_of, write
from lit_metric.data.formats.excerpts import excerpt_of

Row = dict[str, Any]
FACETS = ("role", "implemented-in")


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


def definitions_noise(folder: Path, share: float = 0.2) -> dict[str, str]:
    """A share of the training rows gets the definition of another."""
    rows, draw = read(Path(definitions(folder)["train"])), random.Random(0)
    wrong = [row for row in rows if row["split"] == "train"]
    wrong = draw.sample(wrong, round(share * len(wrong)))
    meant = [row["definition"] for row in wrong]
    for row, definition in zip(wrong, [*meant[1:], *meant[:1]], strict=True):
        row["definition"] = definition
    return {"train": str(write(folder / "definitions-noise.parquet", rows))}


def sugarcrepe(folder: Path) -> dict[str, str]:
    """SugarCrepe++, all of it for the test but what a fit needs to start."""
    source("sugarcrepe_pp", "triplets.parquet")
    return {"train": captions(Path(os.environ["LIT_METRIC_DATA"]), folder)[1]}


def caption_swaps(folder: Path) -> dict[str, str]:
    """SugarCrepe++: the subsets with a replaced word for training and validation, those with words that
    changed places for the test. Captions of the test are in no training row."""
    rows = read(source("sugarcrepe_pp", "triplets.parquet"))
    swaps = [{**row, "split": "test"} for row in rows if row["subset"].startswith("swap")]
    tested = {row[name] for row in swaps for name in ("caption", "caption2")}
    others = [
        {**row, "split": "validation" if bucket(row["caption"], 8) == 0 else "train"}
        for row in rows
        if row["subset"].startswith("replace") and not tested & {row["caption"], row["caption2"]}
    ]
    return {"train": str(write(folder / "caption-swaps.parquet", [*others, *swaps]))}


def banking77_unseen(folder: Path) -> dict[str, str]:
    """Intents that are in one split only: of every nine, two for the test and one for validation."""
    sides = {name: read(source("banking77", f"{name}.parquet")) for name in ("train", "test")}
    part = {row["label"]: bucket(row["label"], 9) for row in sides["train"]}
    rows = {
        "train": [row for row in sides["train"] if part[row["label"]] > 2],
        "validation": [row for row in sides["train"] if part[row["label"]] == 2],
        "test": [row for row in sides["test"] if part.get(row["label"], 9) < 2],
    }
    return {
        name: str(write(folder / f"banking77-unseen-{name}.parquet", each)) for name, each in rows.items()
    }


def roles_and_languages(folder: Path, least: int = 20) -> dict[str, str]:
    """Packages with one tag for their role and one for the language that they are written in. The label is
    both together, so it is known by no tag alone."""
    rows = []
    for row in read(source("debian", "packages.parquet")):
        facets = [[tag for tag in row["tags"] if tag.startswith(f"{facet}::")] for facet in FACETS]
        if all(len(each) == 1 for each in facets):
            label = " and ".join(tag for [tag] in facets)
            rows.append(
                {"name": row["name"], "tags": row["tags"], "label": label, "split": split_of(row["name"])}
            )
    counts = Counter(row["label"] for row in rows)
    kept = [row for row in rows if counts[row["label"]] >= least]
    return {"train": str(write(folder / "roles-and-languages.parquet", kept))}


def extracts(folder: Path) -> dict[str, str]:
    """A tenth of the films whose description has at least two sentences and 20 to 45 words, which fit the
    encoder's 64 tokens."""
    rows = [
        {"extract": row["extract"], "split": split_of(name)}
        for row in read(source("movies", "movies.parquet"))
        for name in [f"{row['title']} ({row['year']})"]
        if bucket(f"of {name}", 4) == 0
        and 20 <= len((row["extract"] or "").split()) <= 45
        and excerpt_of(row["extract"]) in row["extract"]
        and ". " in row["extract"]
    ]
    return {"train": str(write(folder / "extracts.parquet", rows))}


def synopses(folder: Path, missing: float = 0.0) -> Row:
    """A third of the Debian packages: synopses, and the tags that each has, as judgements.

    Args:
        folder: for the files.
        missing: share of the tags of training packages that is left out.
    """
    packages = [row for row in read(source("debian", "packages.parquet")) if bucket(row["name"], 3) == 0]
    counts = Counter(tag for row in packages for tag in {*row["tags"]})
    tags, draw = sorted(tag for tag, count in counts.items() if count >= 5), random.Random(0)
    judged: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in packages:
        split = split_of(row["name"])
        for tag in sorted({*row["tags"]} & {*tags}):
            if split != "train" or draw.random() >= missing:
                judged[split].append({"query": row["name"], "document": tag, "relevance": 1})
    words = [{"id": tag, "text": tag.replace("::", " ").replace(":", " ").replace("-", " ")} for tag in tags]
    own = folder / f"synopses-{missing:g}"
    files = {name: str(write(own / f"{name}.parquet", rows)) for name, rows in judged.items()}
    names = [{"id": row["name"], "text": row["synopsis"]} for row in packages]
    texts = {
        "queries": str(write(own / "queries.parquet", names)),
        "corpus": str(write(own / "corpus.parquet", words)),
        "query_id": "query",
        "document_id": "document",
        "relevance": "relevance",
    }
    return {**files, "supervision": {"class_path": "Judgements", "init_args": texts}}


def debian_edits(folder: Path) -> dict[str, str]:
    """Packages whose tags differ in one; see :func:`~benchmarks.methods.edits.package_edits`."""
    rows = package_edits(read(source("debian", "packages.parquet")))
    return {"train": str(write(folder / "debian-edits.parquet", rows))}
