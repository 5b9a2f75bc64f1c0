"""Noise among tags, and the comparison of poolings."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attention
from benchmarks.attention import SETTINGS, compare, frequencies, noisy, train, verdict, write_data
from benchmarks.results import spread
from benchmarks.tagged_items import TaggedItems, read_splits, write_splits
from tests.encoders.tokens import model_folder


def items(rows: list[list[str]]) -> TaggedItems:
    return TaggedItems([str(row) for row in range(len(rows))], rows, ["s"] * len(rows))


def test_noise_is_drawn_by_frequency() -> None:
    counts = frequencies(items([["a", "b"], ["a"], ["a", "c"], ["a", "c"], ["c"]]))
    assert counts == {"a": 4, "b": 1, "c": 3}
    # Items of one tag that is not in the vocabulary: one draw out of all.
    drawn = Counter(row[1] for row in noisy(items([["x"]] * 20_000), counts, 1.0, (0, 0)).tags)
    for tag, share in {"a": 4 / 8, "b": 1 / 8, "c": 3 / 8}.items():
        deviation = math.sqrt(share * (1 - share) / 20_000)
        assert drawn[tag] / 20_000 == pytest.approx(share, abs=4 * deviation)
    # Those that have the commonest themselves draw from the rest.
    drawn = Counter(row[1] for row in noisy(items([["a"]] * 20_000), counts, 1.0, (0, 0)).tags)
    assert set(drawn) == {"b", "c"}
    assert drawn["c"] / 20_000 == pytest.approx(3 / 4, abs=4 * math.sqrt(3 / 16 / 20_000))


def test_noise_comes_after_an_items_own_tags_and_repeats_none() -> None:
    splits = read_splits()
    own, counts = splits["test"], frequencies(splits["train"])
    for ratio in (0.0, 0.5, 1.0, 3.0):
        with_noise = noisy(own, counts, ratio, (7, 2))
        assert (with_noise.names, with_noise.sections) == (own.names, own.sections)
        for before, after in zip(own.tags, with_noise.tags, strict=True):
            assert after[: len(before)] == before
            assert len(after) == len(before) + math.floor(ratio * len(before) + 0.5)
            assert len(set(after)) == len(after)
    with pytest.raises(ValueError, match=r"ratio is -1.* at least 0"):
        noisy(own, counts, -1, (0,))


def test_noise_depends_on_its_seed_alone() -> None:
    own, counts = items([["a", "b"]] * 50), dict.fromkeys("abcdefgh", 1)
    first = noisy(own, counts, 1.0, (1, 0))
    assert noisy(own, counts, 1.0, (1, 0)) == first
    assert noisy(own, counts, 1.0, (2, 0)) != first
    assert noisy(own, counts, 1.0, (1, 1)) != first
    assert len({tuple(row) for row in first.tags}) > 10  # each item has its own


def test_where_the_vocabulary_ends_there_is_less_noise() -> None:
    assert {
        tuple(sorted(row)) for row in noisy(items([["a", "b"]]), {"a": 1, "b": 9, "c": 2}, 5.0, (0,)).tags
    } == {("a", "b", "c")}


def test_every_split_is_noisy_and_the_files_are_repeatable(tmp_path: Path) -> None:
    write_data(tmp_path / "new" / "one.parquet", 1.0, 3)
    write_data(tmp_path / "two.parquet", 1.0, 3)
    assert (tmp_path / "new" / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    shipped, written = read_splits(), read_splits(tmp_path / "two.parquet")
    for split, own in shipped.items():
        assert written[split].names == own.names
        assert [len(row) for row in written[split].tags] == [2 * len(row) for row in own.tags]
    write_data(tmp_path / "clean.parquet", 0.0, 3)
    assert read_splits(tmp_path / "clean.parquet") == shipped


def run(macro: float, micro: float) -> dict[str, float]:
    return {"macro": macro, "micro": micro, "seconds": 20.0}


def test_differences_are_taken_seed_by_seed() -> None:
    runs = {
        "attention": [run(0.62, 0.60), run(0.55, 0.58), run(0.60, 0.61)],
        "mean": [run(0.60, 0.61), run(0.52, 0.57), run(0.57, 0.59)],
    }
    content = compare(runs)
    assert content["attention"]["macro"] == spread([0.62, 0.55, 0.60])
    gaps = content["difference"]
    assert gaps["macro"].values == pytest.approx([0.02, 0.03, 0.03])
    assert gaps["macro"].deviation == pytest.approx(0.01 / math.sqrt(3))
    # Each pooling alone varies more from seed to seed than they differ.
    assert content["mean"]["macro"].deviation > gaps["macro"].mean
    assert content["beyond"] == {"macro": True, "micro": False}
    assert verdict(1.0, content) == (
        "With 1 noise tag for each own tag, attention is ahead of the mean by 0.027 ± 0.006 in macro "
        "accuracy; in micro accuracy there is no difference beyond the spread (0.007 ± 0.015)."
    )
    turned = compare({"attention": runs["mean"], "mean": runs["attention"]})
    assert verdict(0, turned).startswith(
        "With no noise, attention is behind the mean by 0.027 ± 0.006 in macro"
    )


def test_one_seed_shows_nothing() -> None:
    content = compare({"attention": [run(0.7, 0.7)], "mean": [run(0.1, 0.1)]})
    assert content["beyond"] == {"macro": False, "micro": False}


def test_a_second_run_fits_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fitted: list[tuple[Any, ...]] = []

    def fake(pooling: str, source: Path, on: str, seed: int, settings: dict[str, Any]) -> dict[str, float]:
        fitted.append((pooling, source.name, on, seed))
        noise = float(source.name.split("-")[1])
        return run(0.7 - 0.1 * noise + (0.05 * noise + 0.001 * seed) * (pooling == "attention"), 0.6)

    shipped = read_splits()
    few = {split: TaggedItems(*(column[::50] for column in rows)) for split, rows in shipped.items()}
    monkeypatch.setattr(attention, "read_splits", lambda: few)
    monkeypatch.setattr(attention, "train", fake)
    monkeypatch.setattr(attention, "plot", lambda *given: None)
    command = ["--out", str(tmp_path), "--seeds", "2", "--noise", "0", "1", "--on", "validation"]
    attention.main(command)
    assert fitted == [
        (pooling, f"noise-{noise}-seed-{seed}.parquet", "validation", seed)
        for noise in (0, 1)
        for seed in (0, 1)
        for pooling in ("attention", "mean")
    ]
    summary = json.loads((tmp_path / "validation" / "attention.json").read_text())
    assert summary["noise"]["1"]["difference"]["macro"]["values"] == pytest.approx([0.05, 0.051])
    assert summary["noise"]["1"]["beyond"] == {"macro": True, "micro": False}
    assert summary["settings"]["seeds"] == 2
    assert "attention is ahead of the mean by 0.051 ± 0.001" in summary["verdict"]["1"]
    assert summary["verdict"]["1"] in " ".join(capsys.readouterr().out.split())

    (tmp_path / "validation" / "mean-noise-1-seed-0.json").unlink()
    attention.main(command)
    assert fitted[8:] == [("mean", "noise-1-seed-0.parquet", "validation", 0)]
    attention.main([*command, "--epochs", "3"])
    assert len(fitted) == 9 + 8


def test_attention_starts_as_the_mean_and_both_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = read_splits()
    words = {word for tag in frequencies(splits["train"]) for word in re.findall(r"\w+", tag)}
    monkeypatch.setattr(attention, "BACKBONE", model_folder(tmp_path / "tower", words=sorted(words)))
    few = {
        split: TaggedItems(*(column[::step] for column in splits[split]))
        for split, step in (("train", 8), ("validation", 8), ("test", 8))
    }
    write_splits(tmp_path / "few.parquet", few)
    settings = {**SETTINGS, "classes": 12, "per_class": 4, "epochs": 1, "lr": 1e-3}

    def scores(pooling: str, **changed: Any) -> tuple[float, float]:
        result = train(
            pooling, tmp_path / "few.parquet", "validation", 0, {**settings, **changed}, progress=False
        )
        return result["macro"], result["micro"]

    still = scores("mean", lr=1e-12)
    assert scores("attention", lr=1e-12) == pytest.approx(still, abs=1e-6)
    trained = {pooling: scores(pooling, classes=30, epochs=6) for pooling in ("attention", "mean")}
    assert trained["attention"] != trained["mean"]
    assert all(macro > still[0] + 0.03 for macro, _ in trained.values())
