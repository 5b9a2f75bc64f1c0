"""Train on the tagged packages that ship with the project, and compare with what a person would try first.

    python -m benchmarks.packages --seeds 3 --out runs/bench-demo  # make bench-demo

Two fits by the command line of the project: on all tags, and on data where a fifth of the tags is hidden
until the test; seed 1 hides the next fifth, and so on. The runs are OUT/debtags and OUT/debtags-unseen
(further seeds add theirs to the name) and are replaced when they are trained again. With several seeds, what
is measured is kept in OUT/demo-seed-N.json, and a second run measures only what is missing or has other
settings. Options that are not listed here go to both fits: ``--trainer.max_epochs 1``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks import unseen_tags
from benchmarks.baselines import Scores, baselines, unseen_baselines
from benchmarks.packages_report import (
    OURS,
    VARIANTS,
    over_seeds,
    print_costs,
    print_tables,
    verdict,
    what_next,
)
from benchmarks.results import (
    REPOSITORY,
    BenchmarkError,
    Rows,
    digest,
    environment,
    fit,
    kept,
    plot,
    short,
    spread,
    write_json,
)
from benchmarks.tagged_items import SHIPPED, TaggedItems, read_splits

CONFIG = "configs/debtags.yaml"
FROZEN = "frozen encoder 10-NN"
COSTS = ("seconds", "texts_per_second", "peak_memory")
SAME = 2e-3
"""How far a saved encoder may score from what its run reported: ties fall one way or the other."""


def run_name(data: str, seed: int) -> str:
    """The folder of a run.

    Example:
        >>> run_name("debtags", 0), run_name("debtags-unseen", 2)
        ('debtags', 'debtags-unseen-seed-2')
    """
    return data if seed == 0 else f"{data}-seed-{seed}"


def hidden_part(seed: int) -> int:
    """Which fifth of the tags a seed hides: which it is matters more than the seed of a fit.

    Example:
        >>> [hidden_part(seed) for seed in range(7)]
        [0, 1, 2, 3, 4, 0, 1]
    """
    return seed % unseen_tags.parts()


def measure(seed: int, out: Path, options: Sequence[str]) -> dict[str, Any]:
    """Both fits of a seed: test accuracies on all tags and on unseen ones, and what the first fit cost."""
    random = [] if seed == 0 else ["--seed_everything", str(seed)]
    console = Console()
    console.rule(f"Training on {short(SHIPPED)}")
    metrics, finished = fit(CONFIG, out / run_name("debtags", seed), *random, *options)
    console.rule("Training where a fifth of the tags is hidden")
    only, everything = unseen_tags.write(out / run_name("unseen-tags", seed), part=hidden_part(seed))
    folder = out / run_name("debtags-unseen", seed)
    hidden, _ = fit(CONFIG, folder, "--data.train", short(only, REPOSITORY), *random, *options)
    return {
        "ours": reported(metrics),
        "unseen": unseen_scores(folder, reported(hidden), read_splits(only), read_splits(everything)),
        "seconds": metrics["seconds"],
        "texts_per_second": metrics["texts_per_second"],
        "peak_memory": finished.peak_memory,
    }


def reported(metrics: Mapping[str, Any]) -> Scores:
    """The accuracies in a run's ``metrics.json``."""
    after = metrics["after"]
    return {"macro": after["knn10_accuracy_macro"], "micro": after["knn10_accuracy"]}


def unseen_scores(
    folder: Path,
    only_reported: Scores,
    only: Mapping[str, TaggedItems],
    everything: Mapping[str, TaggedItems],
) -> dict[str, Scores]:
    """Scores of the test items under their unseen tags alone, and under all their tags.

    Raises:
        BenchmarkError: the saved encoder does not reach what the run reported.
    """
    from benchmarks.neighbours import knn_scores
    from lit_metric import load

    encoder, vote = load(folder), knn_temperature(folder)
    train, tests = only["train"], {"only-unseen": only["test"], "all-tags": everything["test"]}
    corpus = encoder.encode(train.tags)
    scores = {
        variant: knn_scores(corpus, train.sections, encoder.encode(test.tags), test.sections, vote)
        for variant, test in tests.items()
    }
    check_saved(folder, scores["only-unseen"], only_reported)
    return scores


def check_saved(folder: Path, scores: Scores, expected: Scores) -> None:
    """Hold the encoder that a run has saved to what the run has reported of it.

    Raises:
        BenchmarkError: they differ by more than a tie can explain.
    """
    if any(abs(scores[name] - expected[name]) > SAME for name in expected):
        raise BenchmarkError(
            f"the encoder saved in {folder} scores {scores}, but the run reported {expected}"
        )


def knn_temperature(folder: Path) -> float | None:
    """How neighbours vote in the evaluations of a run, by its config."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    temperature = config["model"]["init_args"].get("knn_temperature")
    return None if temperature is None else float(temperature)


def references(seeds: int) -> tuple[Rows, dict[str, Rows]]:
    """The rows to compare with: on all tags, and by variant over those that ``seeds`` seeds hide in turn."""
    from benchmarks.neighbours import FrozenTags

    splits = read_splits()
    frozen = FrozenTags.of(*splits.values())
    [scores] = frozen.scores(splits["train"], splits["validation"], [splits["test"]])
    seen_rows = {FROZEN: scores, **baselines(splits["train"], splits["validation"], splits["test"])}
    by_part = []
    for part in sorted({hidden_part(seed) for seed in range(seeds)}):
        variants, _ = unseen_tags.unseen_splits(splits, part=part)
        some = variants["only-unseen"]
        tests = [variants[variant]["test"] for variant in VARIANTS]
        unseen = frozen.scores(some["train"], some["validation"], tests)
        others = unseen_baselines(splits, part=part)
        by_part.append(
            {variant: {FROZEN: row, **others[variant]} for variant, row in zip(VARIANTS, unseen, strict=True)}
        )
    rows = by_part[0]["only-unseen"]
    unseen_rows: dict[str, Rows] = {
        variant: {name: dict(over_seeds(by_part, variant, name)) for name in rows} for variant in VARIANTS
    }
    return dict(seen_rows), unseen_rows


def print_examples(console: Console, folder: Path, expected: Scores) -> None:
    """Some test items and what is nearest to them, before and after the run in ``folder``.

    Raises:
        BenchmarkError: the saved encoder does not reach what the run reported.
    """
    from benchmarks.neighbours import FrozenTags, example_table, examples, knn_scores
    from lit_metric import load

    splits = read_splits()
    train, test = splits["train"], splits["test"]
    encoder, frozen = load(folder), FrozenTags.of(train, test)
    trained = encoder.encode(train.tags), encoder.encode(test.tags)
    vote = knn_temperature(folder)
    check_saved(folder, knn_scores(trained[0], train.sections, trained[1], test.sections, vote), expected)
    console.print("\nTest items drawn at random, and the training items nearest to them:", style="bold")
    for example in examples(train, test, [(frozen.encode(train.tags), frozen.encode(test.tags)), trained]):
        console.print(example_table(example))


def results_of(seeds: int, out: Path, options: Sequence[str]) -> list[dict[str, Any]]:
    """What ``measure`` gives for each seed; with several seeds, what is there already is kept."""
    results = []
    for seed in range(seeds):
        path = out / f"demo-seed-{seed}.json"
        if seeds == 1:
            path.unlink(missing_ok=True)
        settings = {
            "seed": seed,
            "options": list(options),
            "files": digest(SHIPPED, REPOSITORY / CONFIG),
            "hidden": {"share": unseen_tags.SHARE, "part": hidden_part(seed)},
            "versions": environment()["versions"],
        }

        def one(seed: int = seed) -> dict[str, Any]:
            return measure(seed, out, options)

        results.append(kept(path, settings, one))
    return results


def compare(results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Print the tables, and write ``demo.json`` and, over several seeds, ``demo.png``."""
    console = Console()
    console.print("\nFitting what it is compared with ...")
    seen_rows, unseen_rows = references(len(results))
    seen: Rows = {**seen_rows, OURS: over_seeds(results, "ours")}
    unseen: dict[str, Rows] = {
        variant: {**unseen_rows[variant], OURS: over_seeds(results, "unseen", variant)}
        for variant in VARIANTS
    }
    costs = {key: spread([result[key] for result in results]) for key in COSTS}
    print_tables(console, seen, unseen)
    folder = out / run_name("debtags", 0)
    if folder.exists():
        print_examples(console, folder, results[0]["ours"])
    print_costs(console, costs)
    sentences = {"seen": verdict(seen), **{variant: verdict(unseen[variant]) for variant in VARIANTS}}
    summary = {"seen": seen, "unseen": unseen, "verdict": sentences, **costs, "environment": environment()}
    write_json(out / "demo.json", summary)
    if len(results) > 1:
        panels = {"all tags seen": seen, **{name: unseen[variant] for variant, name in VARIANTS.items()}}
        plot(out / "demo.png", "Tagged packages, 10-NN accuracy on test", panels, "accuracy")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.packages", description=__doc__, formatter_class=formatter)
    parser.add_argument("--seeds", type=int, default=1, help="how many fits of each kind (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder to write to (%(default)s)")
    given, options = parser.parse_known_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; at least 1 is needed")
    begin, out = time.perf_counter(), given.out.resolve()
    try:
        compare(results_of(given.seeds, out, options), out)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.packages: {error}") from error
    seconds = time.perf_counter() - begin
    print(f"Everything took {seconds:.0f} s. The numbers are in {short(out / 'demo.json')}.\n")
    print("What next:")
    for line in what_next(out / run_name("debtags", 0), CONFIG):
        print(f"  {line}")


if __name__ == "__main__":
    main()
