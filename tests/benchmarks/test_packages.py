"""What the benchmark of tagged packages measures, keeps and says, with runs that are made up."""

from __future__ import annotations

import json
import shlex
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import packages, packages_report
from benchmarks.packages_report import over_seeds, print_tables, verdict, what_next
from benchmarks.results import BenchmarkError, Finished, spread
from benchmarks.tagged_items import TaggedItems, read_splits
from lit_metric import SetEncoder, TextEncoder
from tests.small import CLASSES, Small, questions

SEEN = {
    "frozen encoder 10-NN": {"macro": 0.51, "micro": 0.61},
    "logistic regression": {"macro": 0.64, "micro": 0.68},
    "logistic regression, class-balanced": {"macro": 0.72, "micro": 0.65},
}


def test_the_sentence_says_who_wins_what() -> None:
    ours = {"lit-metric": {"macro": 0.70, "micro": 0.71}}
    assert verdict({**SEEN, **ours}) == (
        "By macro, logistic regression, class-balanced is first (0.720), and lit-metric is number 2 of 4, "
        "0.020 behind; by micro, lit-metric is first (0.710), 0.030 ahead of logistic regression."
    )
    assert verdict({**SEEN, "lit-metric": {"macro": 0.729, "micro": 0.71}}) == (
        "By macro, lit-metric is first (0.729), 0.009 ahead of logistic regression, class-balanced (too "
        "little to tell them apart); by micro, "
        "lit-metric is first (0.710), 0.030 ahead of logistic regression."
    )


def test_the_sentence_hides_no_defeat() -> None:
    second_in_both = verdict({**SEEN, "lit-metric": {"macro": 0.70, "micro": 0.66}})
    assert "number 2 of 4, 0.020 behind; by micro" in second_in_both
    assert second_in_both.endswith("0.020 behind. No other row is as good as lit-metric at both.")
    beaten = verdict({**SEEN, "lit-metric": {"macro": 0.63, "micro": spread([0.64, 0.66])}})
    assert beaten.endswith(
        "At least as good at both: logistic regression, logistic regression, class-balanced."
    )
    # A draw is not a win.
    drawn = verdict({"a": {"macro": 0.5, "micro": 0.5}, "lit-metric": {"macro": 0.5, "micro": 0.5}})
    assert drawn.startswith(
        "By macro, a is first (0.500), and lit-metric is number 2 of 2, 0.000 behind (too"
    )
    assert drawn.endswith("At least as good at both: a.")


def result(macro: float, micro: float) -> dict[str, Any]:
    scores = {"macro": macro, "micro": micro}
    unseen = {"only-unseen": {"macro": 0.2, "micro": 0.3}, "all-tags": {"macro": 0.6, "micro": micro - 0.1}}
    cost = {"seconds": 90.0, "texts_per_second": 120.0, "peak_memory": 1500.0}
    return {"ours": scores, "unseen": unseen, **cost}


def test_tables_are_computed_from_the_seeds_results() -> None:
    results = [result(0.70, 0.69), result(0.72, 0.71)]
    assert over_seeds(results, "ours") == {
        "macro": (pytest.approx(0.71), pytest.approx(0.02 / 2**0.5), [0.70, 0.72]),
        "micro": (pytest.approx(0.70), pytest.approx(0.02 / 2**0.5), [0.69, 0.71]),
    }
    assert over_seeds(results, "unseen", "all-tags")["micro"].values == [
        pytest.approx(0.59),
        pytest.approx(0.61),
    ]


def settings_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["settings"]


def test_a_second_run_over_seeds_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(seed: int, out: Path, options: list[str]) -> dict[str, Any]:
        measured.append(seed)
        return result(0.7 + seed / 100, 0.7)

    monkeypatch.setattr(packages, "measure", measure)
    first = packages.results_of(2, tmp_path, ["--trainer.max_epochs", "1"])
    assert [each["ours"]["macro"] for each in first] == [0.7, 0.71]
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    assert packages.results_of(3, tmp_path, ["--trainer.max_epochs", "1"])[:2] == first
    assert measured == [0, 1, 2]
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())][:2] == times
    packages.results_of(2, tmp_path, [])  # other options
    assert measured == [0, 1, 2, 0, 1]
    packages.results_of(1, tmp_path, [])  # one seed trains, whatever is there
    assert measured == [0, 1, 2, 0, 1, 0]
    assert settings_of(tmp_path / "demo-seed-2.json")["seed"] == 2


def test_both_fits_get_the_same_options_and_their_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fit(config: str, folder: Path, *options: str | Path) -> tuple[dict[str, Any], Finished]:
        calls.append((folder.name, [str(option) for option in options]))
        after = {"knn10_accuracy_macro": 0.7, "knn10_accuracy": 0.6}
        return {"after": after, "seconds": 80.0, "texts_per_second": 100.0}, Finished(95.0, 1200.0)

    reported = []
    monkeypatch.setattr(packages, "fit", fit)
    monkeypatch.setattr(packages, "unseen_scores", lambda *given: reported.append(given) or {"all-tags": {}})
    got = packages.measure(1, tmp_path, ["--model.lr", "1e-4"])
    assert got == {
        "ours": {"macro": 0.7, "micro": 0.6},
        "unseen": {"all-tags": {}},
        "seconds": 80.0,
        "texts_per_second": 100.0,
        "peak_memory": 1200.0,
    }
    options = ["--seed_everything", "1", "--model.lr", "1e-4"]
    hidden = str(tmp_path / "unseen-tags-seed-1" / "only-unseen.parquet")
    every_tag = {tag for part in read_splits().values() for row in part.tags for tag in row}
    met = {tag for row in read_splits(Path(hidden))["train"].tags for tag in row}
    assert met.isdisjoint(sorted(every_tag, key=lambda tag: sha256(tag.encode()).digest())[119:239])
    assert calls == [
        ("debtags-seed-1", options),
        ("debtags-unseen-seed-1", ["--data.train", hidden, *options]),
    ]
    [(folder, scores, only, everything)] = reported
    assert (folder.name, scores) == ("debtags-unseen-seed-1", {"macro": 0.7, "micro": 0.6})
    assert len({*only["train"].sections}) == 49  # the planner asks for as many in a batch
    assert only["test"].names == everything["test"].names
    assert only["test"].tags != everything["test"].tags


@pytest.fixture
def trained(small: Small, tmp_path: Path) -> Path:
    """A run's folder, as far as the benchmark reads it."""
    encoder = SetEncoder(TextEncoder(small / "backbone"))
    encoder.save(tmp_path / "model")
    config = {"model": {"init_args": {"knn_temperature": 0.1}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def tagged(count: int, seed: int, words: int) -> TaggedItems:
    rows = questions(count, seed)
    return TaggedItems(
        [str(row) for row in range(count)],
        [text.split()[:words] for text, _ in rows],
        [label for _, label in rows],
    )


def test_unseen_tags_are_scored_with_the_saved_encoder(trained: Path) -> None:
    from lit_metric import load

    train, only, everything = tagged(20 * CLASSES, 0, 6), tagged(60, 1, 2), tagged(60, 1, 6)
    encoder = load(trained)

    def independent(test: TaggedItems) -> dict[str, Any]:
        peer = KNeighborsClassifier(
            10,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / 0.1),
        )
        predicted = peer.fit(encoder.encode(train.tags), train.sections).predict(encoder.encode(test.tags))
        return {
            "macro": pytest.approx(balanced_accuracy_score(test.sections, predicted)),
            "micro": pytest.approx(accuracy_score(test.sections, predicted)),
        }

    expected = {"only-unseen": independent(only), "all-tags": independent(everything)}
    reported = {name: value.expected for name, value in expected["only-unseen"].items()}
    splits = {"train": train, "test": only}, {"train": train, "test": everything}
    assert packages.unseen_scores(trained, reported, *splits) == expected
    with pytest.raises(BenchmarkError, match="but the run reported"):
        packages.unseen_scores(trained, {**reported, "micro": reported["micro"] + 0.01}, *splits)


def test_the_summary_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    variants = {name: {row: {"macro": 0.1, "micro": 0.2} for row in SEEN} for name in packages.VARIANTS}
    monkeypatch.setattr(packages, "references", lambda seeds: (SEEN, variants))
    monkeypatch.setattr(packages, "measure", lambda seed, out, options: result(0.70 + seed / 50, 0.71))
    shown: list[Any] = []
    monkeypatch.setattr(packages, "print_examples", lambda *given: shown.append(given[1:]))
    plotted: list[Any] = []
    monkeypatch.setattr(packages, "plot", lambda *given: plotted.append(given))
    (tmp_path / "debtags").mkdir()
    packages.main(["--out", str(tmp_path), "--seeds", "2", "--trainer.max_epochs", "1"])

    summary = json.loads((tmp_path / "demo.json").read_text())
    assert summary["seen"]["lit-metric"]["macro"]["values"] == [0.70, 0.72]
    assert summary["seen"]["lit-metric"]["macro"]["mean"] == pytest.approx(0.71)
    assert summary["seen"]["logistic regression"] == SEEN["logistic regression"]
    assert summary["unseen"]["all-tags"]["lit-metric"]["micro"]["mean"] == pytest.approx(0.61)
    assert summary["seconds"]["mean"] == 90.0
    assert summary["verdict"]["seen"].startswith(
        "By macro, logistic regression, class-balanced is first (0.720)"
    )
    assert shown == [(tmp_path / "debtags", {"macro": 0.70, "micro": 0.71})]
    assert [list(given[2]) for given in plotted] == [["all tags seen", "hidden", "all tags"]]

    out = " ".join(capsys.readouterr().out.split())
    assert "0.710 ± 0.014" in out
    assert "by micro, lit-metric is first (0.710), 0.030 ahead of logistic regression." in out
    assert "hidden: By macro, lit-metric is first (0.200), 0.100 ahead of frozen encoder 10-NN" in out
    assert "Training took 90 s (validation included), at 120 distinct texts/s, with at most 1,500 MiB" in out


def test_a_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise BenchmarkError("the fit ended with status 1")

    monkeypatch.setattr(packages, "measure", fail)
    with pytest.raises(SystemExit, match=r"^benchmarks\.packages: the fit ended with status 1$"):
        packages.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        packages.main(["--out", str(tmp_path), "--seeds", "0"])


def test_both_tables_fit_into_80_columns(capsys: Any) -> None:
    from rich.console import Console

    rows = {**SEEN, "lit-metric": over_seeds([result(0.7, 0.7)], "ours")}
    print_tables(Console(width=80), rows, dict.fromkeys(packages_report.VARIANTS, rows))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    whole = [line for line in lines if line.startswith("│ logistic regression, class-balanced │")]
    assert [line.count("0.720 *") for line in whole] == [1, 2]


def test_what_comes_next_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_metric.cli import parser

    class Reached(Exception):
        pass

    def load(folder: str, trust: bool) -> None:
        raise Reached(folder)

    for name in ("encode", "search"):
        monkeypatch.setattr(f"lit_metric.commands.{name}.load", load)
    lines = what_next(tmp_path / "runs" / "debtags", packages.CONFIG)
    words = [shlex.split(line, comments=True) for line in lines]
    asked = {line[line.index("--model") - 1]: line for line in words if "--model" in line}
    assert set(asked) == {"search", "encode"}
    for name, line in asked.items():
        with pytest.raises(Reached, match="runs/debtags"):
            parser.run(name, line[line.index(name) + 1 :])
    tool = Path(sys.executable).with_name("lit-metric")
    for line in words[:3]:
        assert Path(line[0]).resolve() in (tool.resolve(), Path(sys.executable).resolve())
