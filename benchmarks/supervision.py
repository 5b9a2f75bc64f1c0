"""What each kind of supervision gives, before and after training, by the configs that ship with the project.

    LIT_METRIC_DATA=DIR python -m benchmarks.supervision --out runs/bench-supervision --seeds 3

- ``movies``: films since 2000, described by title and cast, belong together when they share a genre;
- ``cranfield``: queries and abstracts with graded judgements, five folds over the queries;
- ``pairs``: the words of WordNet synsets and their definitions;
- ``sugarcrepe``: two captions that mean the same, and one that nearly does;
- ``similarity``: descriptions of Debian packages, scored by the tags that they share;
- ``graph``: facts about WordNet synsets, and which synset completes one.

Each run is a ``lit-metric fit`` in a process of its own, kept in OUT, and a second call measures only what is
missing or has other settings. Splits go by sha256, so that no seed changes what is tested.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.results import (
    REPOSITORY,
    BenchmarkError,
    Rows,
    Spread,
    digest,
    environment,
    fit,
    kept,
    plot,
    score_table,
    short,
    spread,
    write_json,
)
from benchmarks.splits import bucket

Row = dict[str, Any]
SPLITS = {0: "test", 1: "validation"}
FOLDS = 5


class Task(NamedTuple):
    """A config, the data for it, and what to report.

    Args:
        config: YAML file, relative to the repository.
        prepare: writes files into a folder, from those of ``LIT_METRIC_DATA``, and returns the options that
            name them.
        measures: of ``metrics.json``.
        folds: how many parts of the queries take their turn as the test; 0 where a seed changes nothing but
            the training.
    """

    config: str
    prepare: Callable[[Path, Path], list[str]]
    measures: tuple[str, ...]
    folds: int = 0


def split_of(name: str, buckets: int = 5) -> str:
    """``test`` and ``validation``, one of ``buckets`` each, else ``train``."""
    return SPLITS.get(bucket(name, buckets), "train")


def write(path: Path, rows: Iterable[Row]) -> Path:
    """A Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, compression="zstd")
    return path


def read(path: Path) -> list[Row]:
    """The rows of a Parquet file."""
    return pq.read_table(path).to_pylist()


def movies(data: Path, out: Path) -> list[str]:
    """Films since 2000 with at least two of a cast and a genre, split by title and year."""
    films = [
        {"title": row["title"], "cast": row["cast"], "genres": row["genres"], "split": split_of(name)}
        for row in read(data / "movies" / "movies.parquet")
        if row["year"] >= 2000 and len(row["cast"]) >= 2 and row["genres"]
        for name in [f"{row['title']} ({row['year']})"]
    ]
    return ["--data.train", str(write(out / "movies.parquet", films))]


def cranfield(data: Path, out: Path) -> list[str]:
    """The files as they are."""
    folder = data / "cranfield"
    names = {
        "train": "qrels",
        "supervision.init_args.queries": "queries",
        "supervision.init_args.corpus": "corpus",
    }
    return [
        word for name, file in names.items() for word in (f"--data.{name}", str(folder / f"{file}.parquet"))
    ]


def word_definitions(data: Path, out: Path) -> list[str]:
    """A quarter of the synsets of WordNet: their words, and what they mean."""
    rows = [
        {"words": ", ".join(row["lemmas"]), "definition": row["definition"], "split": split_of(row["id"], 20)}
        for row in read(data / "wn18rr" / "entities.parquet")
        if bucket(row["id"], 20) < 6
    ]
    return ["--data.train", str(write(out / "pairs.parquet", rows))]


def captions(data: Path, out: Path) -> list[str]:
    """SugarCrepe++, split by the first caption, which several rows may share."""
    rows = [
        {**row, "split": split_of(row["caption"])}
        for row in read(data / "sugarcrepe_pp" / "triplets.parquet")
    ]
    return ["--data.train", str(write(out / "sugarcrepe.parquet", rows))]


def scored(data: Path, out: Path, count: int = 6000) -> list[str]:
    """Pairs of package descriptions, scored by the share of tags in common (Jaccard).

    Of each package there is a pair with one that shares a tag, and one with any other, both of its split.
    """
    packages = sorted(read(data / "debian" / "packages.parquet"), key=lambda row: _hash(row["name"]))[:count]
    draw = random.Random(0)
    parts: dict[str, list[Row]] = {}
    for row in packages:
        parts.setdefault(split_of(row["name"]), []).append(row)
    rows = []
    for split, part in sorted(parts.items()):
        having: dict[str, list[Row]] = {}
        for row in part:
            for tag in row["tags"]:
                having.setdefault(tag, []).append(row)
        for row in part:
            near = draw.choice(having[draw.choice(row["tags"])])
            rows += [_pair(row, other, split) for other in (near, draw.choice(part))]
    distinct = {
        (row["sentence1"], row["sentence2"]): row for row in rows if row["sentence1"] != row["sentence2"]
    }
    return ["--data.train", str(write(out / "similarity.parquet", distinct.values()))]


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _pair(one: Row, other: Row, split: str) -> Row:
    """A scored pair; descriptions in the order of the alphabet, so that no pair comes both ways."""
    first, second = sorted([one["synopsis"], other["synopsis"]])
    tags, others = set(one["tags"]), set(other["tags"])
    score = len(tags & others) / len(tags | others)
    return {"sentence1": first, "sentence2": second, "score": score, "split": split}


def facts(data: Path, out: Path) -> list[str]:
    """WN18RR: a tenth of its facts for training, a tenth of those for validation, all for the test."""
    folder = data / "wn18rr"
    chosen = {}
    for name, file in (("train", "train"), ("validation", "valid")):
        rows = read(folder / f"{file}.parquet")
        kept_rows = [row for row in rows if bucket(" ".join(map(str, row.values())), 10) == 0]
        chosen[name] = str(write(out / f"facts-{name}.parquet", kept_rows))
    chosen |= {
        "test": str(folder / "test.parquet"),
        "supervision.init_args.entities": str(folder / "entities.parquet"),
    }
    return [word for name, file in chosen.items() for word in (f"--data.{name}", file)]


TASKS = {
    "movies": Task("configs/movies.yaml", movies, ("ndcg@10", "map@r", "knn10_f1_micro", "knn10_f1_macro")),
    "cranfield": Task("configs/cranfield.yaml", cranfield, ("ndcg@10", "hit_rate@1", "map@10"), folds=FOLDS),
    "pairs": Task("configs/pairs.yaml", word_definitions, ("hit_rate@1", "hit_rate@10", "mrr")),
    "sugarcrepe": Task(
        "configs/sugarcrepe.yaml",
        captions,
        ("tot", "tot_replace_att", "tot_replace_obj", "tot_replace_rel", "tot_swap_att", "tot_swap_obj"),
    ),
    "similarity": Task("configs/similarity.yaml", scored, ("spearman", "pearson")),
    "graph": Task("configs/graph.yaml", facts, ("filtered_mrr", "hits@1", "hits@10")),
}


def measure(
    name: str, data: Path, out: Path, seeds: int, options: Sequence[str]
) -> dict[str, dict[str, Spread]]:
    """``before`` and ``after`` of a task over its seeds (and folds): the mean and spread of each measure."""
    task = TASKS[name]
    sources = task.prepare(data, out / "data")
    files = [Path(word) for word in sources if not word.startswith("--")]
    common = {
        "data": digest(*files),
        "config": digest(REPOSITORY / task.config),
        "options": list(options),
        "versions": environment()["versions"],
    }
    results: list[Mapping[str, Any]] = []
    for seed in range(seeds):
        for fold in range(task.folds) if task.folds else [None]:
            label = f"{name}-seed-{seed}" + ("" if fold is None else f"-fold-{fold}")
            extra = ["--seed_everything", str(seed)]
            if fold is not None:
                extra += ["--data.supervision.init_args.fold", str(fold)]
            words = [*sources, *extra, *options]

            def run(label: str = label, words: list[str] = words) -> Mapping[str, Any]:
                print(f"{label} ...", flush=True)
                metrics, finished = fit(task.config, out / label, *words, log=out / f"{label}.log")
                return {**metrics, "peak_memory": finished.peak_memory}

            results.append(kept(out / f"{label}.json", {**common, "seed": seed, "fold": fold}, run))
    missing = [measure for measure in task.measures if measure not in results[0]["after"]]
    if missing:
        raise BenchmarkError(
            f"{name} reports no {', '.join(missing)}; it has {', '.join(results[0]['after'])}"
        )
    table = {
        when: {measure: spread([result[when][measure] for result in results]) for measure in task.measures}
        for when in ("before", "after")
    }
    table["after"]["seconds"] = spread([result["seconds"] for result in results])
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.supervision", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="(all)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    given, options = parser.parse_known_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; at least 1 is needed")
    folder = os.environ.get("LIT_METRIC_DATA")
    if not folder or not Path(folder).is_dir():
        parser.error("set LIT_METRIC_DATA to the folder that holds movies/, cranfield/, wn18rr/, ...")
    out, console = given.out.resolve(), Console()
    summary: dict[str, Any] = {}
    panels: dict[str, Rows] = {}
    for name in given.tasks:
        table = measure(name, Path(folder).resolve(), out, given.seeds, options)
        summary[name], panels[name] = table, table
        columns = (*TASKS[name].measures, "seconds")
        console.print(score_table(f"{name}, {TASKS[name].config}", table, columns, stars=False))
        plot(out / f"{name}.png", name, {name: _without_seconds(table)}, "score")
    about = {"settings": {"seeds": given.seeds, "options": options}, "environment": environment()}
    write_json(out / "supervision.json", {"tasks": summary, **about})
    print(f"The numbers are in {short(out / 'supervision.json')}, and a plot of each task beside it.")


def _without_seconds(table: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, Spread]]:
    return {
        when: {name: value for name, value in row.items() if name != "seconds"} for when, row in table.items()
    }


if __name__ == "__main__":
    main()
