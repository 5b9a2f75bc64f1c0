"""The data of the supervision benchmark, and how its runs are put together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import supervision
from benchmarks.results import BenchmarkError, Finished, spread
from benchmarks.supervision import TASKS, captions, movies, read, scored, split_of, word_definitions, write


def test_a_split_is_a_fifth_and_follows_the_name_alone() -> None:
    counts = Counter(split_of(str(number)) for number in range(5000))
    assert counts["train"] == pytest.approx(3000, abs=4 * (5000 * 0.6 * 0.4) ** 0.5)
    assert counts["test"] == pytest.approx(1000, abs=4 * (5000 * 0.2 * 0.8) ** 0.5)
    # 16 leaves 1 when divided by 5, so the sum of the hexadecimal digits decides.
    digits = hashlib.sha256(b"b").hexdigest()
    assert sum(int(digit, 16) for digit in digits) % 5 == 0
    assert split_of("b") == "test"


def test_films_are_chosen_by_year_cast_and_genre(tmp_path: Path) -> None:
    film = {"title": "A", "year": 2001, "cast": ["x", "y"], "genres": ["Drama"], "extract": "."}
    others = [{**film, "year": 1999}, {**film, "cast": ["x"]}, {**film, "genres": []}]
    write(tmp_path / "movies" / "movies.parquet", [film, *others])
    rows = read(Path(movies(tmp_path, tmp_path / "out")[1]))
    assert rows == [{"title": "A", "cast": ["x", "y"], "genres": ["Drama"], "split": split_of("A (2001)")}]


def test_words_go_with_their_definition(tmp_path: Path) -> None:
    entities = [{"id": str(n), "lemmas": ["a", f"b{n}"], "definition": f"d{n}"} for n in range(400)]
    write(tmp_path / "wn18rr" / "entities.parquet", entities)
    rows = read(Path(word_definitions(tmp_path, tmp_path / "out")[1]))
    assert len(rows) == pytest.approx(400 * 6 / 20, abs=4 * (400 * 0.3 * 0.7) ** 0.5)
    assert all(row["words"] == f"a, b{row['definition'][1:]}" for row in rows)
    assert set(Counter(row["split"] for row in rows)) == {"train", "validation", "test"}


def test_rows_of_one_caption_stay_together(tmp_path: Path) -> None:
    rows = [
        {"subset": "s", "caption": f"c{n % 40}", "caption2": f"d{n}", "negative": f"e{n}"} for n in range(200)
    ]
    write(tmp_path / "sugarcrepe_pp" / "triplets.parquet", rows)
    found = read(Path(captions(tmp_path, tmp_path / "out")[1]))
    assert len(found) == 200
    assert len({(row["caption"], row["split"]) for row in found}) == 40


def test_pairs_are_scored_by_common_tags_and_stay_in_their_split(tmp_path: Path) -> None:
    packages = [
        {"name": f"p{n}", "synopsis": f"s{n}", "tags": [f"t{n % 7}", f"u{n % 3}"], "section": "x"}
        for n in range(300)
    ]
    write(tmp_path / "debian" / "packages.parquet", packages)
    rows = read(Path(scored(tmp_path, tmp_path / "out")[1]))
    by_text = {row["synopsis"]: row for row in packages}
    for row in rows:
        one, other = by_text[row["sentence1"]], by_text[row["sentence2"]]
        assert row["sentence1"] < row["sentence2"]
        assert split_of(one["name"]) == split_of(other["name"]) == row["split"]
        common = sum(tag in other["tags"] for tag in one["tags"])
        assert row["score"] == pytest.approx(common / (4 - common))
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
    assert len(set(pairs)) == len(pairs) > 300
    assert sum(row["score"] > 0 for row in rows) > len(rows) / 2
    # The same pairs in every run.
    assert read(Path(scored(tmp_path, tmp_path / "again")[1])) == rows


def test_a_tenth_of_the_facts_is_learned(tmp_path: Path) -> None:
    folder = tmp_path / "wn18rr"
    rows = [{"head": str(n), "relation": "_r", "tail": str(n + 1)} for n in range(1000)]
    for name in ("train", "valid", "test"):
        write(folder / f"{name}.parquet", rows)
    words = supervision.facts(tmp_path, tmp_path / "out")
    named = dict(zip(words[::2], words[1::2], strict=True))
    assert named["--data.test"] == str(folder / "test.parquet")
    assert named["--data.supervision.init_args.entities"] == str(folder / "entities.parquet")
    kept = read(Path(named["--data.train"]))
    assert len(kept) == pytest.approx(100, abs=4 * 90**0.5)
    assert all(row in rows for row in kept)
    assert kept == read(Path(named["--data.validation"]))


def test_means_are_over_seeds_and_folds_and_a_second_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def fake(config: str, folder: Path, *words: str, log: Path) -> tuple[dict[str, Any], Finished]:
        given.append(list(words))
        fold = int(words[words.index("--data.supervision.init_args.fold") + 1])
        seed = int(words[words.index("--seed_everything") + 1])
        after = {"ndcg@10": 0.1 * fold + seed, "hit_rate@1": 0.5, "map@10": 0.25}
        return {"before": dict.fromkeys(after, 0.0), "after": after, "seconds": 2.0}, Finished(3.0, 100.0)

    folder = tmp_path / "data" / "cranfield"
    for name in ("qrels", "queries", "corpus"):
        write(folder / f"{name}.parquet", [{"id": "1"}])
    config = tmp_path / "cranfield.yaml"
    config.write_text("trainer: {}\n")
    monkeypatch.setattr(supervision, "fit", fake)
    monkeypatch.setattr(supervision, "plot", lambda *arguments: None)
    monkeypatch.setitem(TASKS, "cranfield", TASKS["cranfield"]._replace(config=str(config)))
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path / "data"))
    command = ["--out", str(tmp_path / "out"), "--tasks", "cranfield", "--seeds", "2"]
    supervision.main(command)
    assert len(given) == 10
    assert given[0][:2] == ["--data.train", str(folder / "qrels.parquet")]
    summary = json.loads((tmp_path / "out" / "supervision.json").read_text())["tasks"]["cranfield"]
    expected = spread([0.1 * fold + seed for seed in range(2) for fold in range(5)])
    assert summary["after"]["ndcg@10"]["mean"] == pytest.approx(expected.mean)
    assert summary["after"]["ndcg@10"]["deviation"] == pytest.approx(expected.deviation)
    supervision.main(command)
    assert len(given) == 10
    monkeypatch.setitem(TASKS, "cranfield", TASKS["cranfield"]._replace(measures=("tot",)))
    with pytest.raises(BenchmarkError, match=r"cranfield reports no tot; it has ndcg@10, hit_rate@1, map@10"):
        supervision.main(command)
