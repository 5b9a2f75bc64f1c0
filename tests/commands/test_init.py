"""``lit-metric init``: from a table to a config that trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_metric.commands.columns import Column, ColumnGuesser
from lit_metric.commands.suggest import Suggestion, suggest
from lit_metric.data import DataError, read_table
from tests.end_to_end.command import run
from tests.small import Small, questions

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = questions(60, seed=5)
TEXTS, CLASSES = ([row[place] for row in ROWS] for place in (0, 1))
OTHERS = [text for text, _ in questions(60, seed=6)]
TAGS = [text.split() for text in TEXTS]
SCORES = [len({*one.split()} & {*other.split()}) / 6 for one, other in zip(TEXTS, OTHERS, strict=True)]


def lines(folder: Path, columns: dict[str, list[Any]], name: str = "table.jsonl") -> str:
    """A file of these columns."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def suggested(small: Small, tmp_path: Path) -> Any:
    """A suggestion for columns."""

    def look(columns: dict[str, list[Any]], **given: str) -> Suggestion:
        return suggest({"train": lines(tmp_path, columns)}, given, backbone=small / "backbone")

    return look


KINDS: dict[str, tuple[dict[str, list[Any]], str, dict[str, Any]]] = {
    "labels": (
        {"question": TEXTS, "intent": CLASSES},
        "texts with one label each",
        {"text": "question", "label": "intent"},
    ),
    "names that say nothing": (
        {"nr": [*range(60)], "words": TEXTS, "group": CLASSES},
        "texts with one label each",
        {"text": "words", "label": "group"},
    ),
    "several labels": (
        {"text": TEXTS, "topics": ["; ".join(each.split()[:2]) for each in TEXTS]},
        "texts with several labels each",
        {"supervision": {"text": "text", "labels": "topics", "labels_separator": ";"}},
    ),
    "tags": (
        {"words": TAGS, "section": CLASSES},
        "sets of tags with one label each",
        {"tags": "words", "label": "section"},
    ),
    "tags in strings": (
        {"keywords": ["|".join(each) for each in TAGS], "section": CLASSES},
        "sets of tags with one label each",
        {"tags": "keywords", "tag_separator": "|", "label": "section"},
    ),
    "pairs": (
        {"first": TEXTS, "second": OTHERS},
        "pairs of texts",
        {"supervision": {"anchor": "first", "positive": "second", "symmetric": True}},
    ),
    "question and answer": (
        {"query": TEXTS, "answer": [f"{each} {each} {each}" for each in OTHERS]},
        "pairs of texts",
        {"supervision": {"anchor": "query", "positive": "answer", "symmetric": False}},
    ),
    "scored pairs": (
        {"a": TEXTS, "b": OTHERS, "how similar": SCORES},
        "pairs of texts with a score",
        {"supervision": {"anchor": "a", "positive": "b", "score": "how similar", "symmetric": True}},
    ),
    "triplets": (
        {"anchor": TEXTS, "positive": OTHERS, "negative": OTHERS[1:] + OTHERS[:1]},
        "pairs of texts with negatives",
        {
            "supervision": {
                "anchor": "anchor",
                "positive": "positive",
                "negative": "negative",
                "symmetric": True,
            }
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_table_is_recognised(kind: str, suggested: Any) -> None:
    columns, what, expected = KINDS[kind]
    found = suggested(columns)
    assert found.what == f"60 rows, {what}"
    data = found.options()["data"]
    named = {name: data[name] for name in expected}
    if "supervision" in named:
        named["supervision"] = named["supervision"]["init_args"]
    assert named == expected


def test_facts_and_judgements_find_the_texts_next_to_them(small: Small, tmp_path: Path) -> None:
    folder = Path(small / "cranfield")
    found = suggest({"train": str(folder / "qrels.parquet")}, backbone=small / "backbone")
    assert found.options()["data"]["supervision"]["class_path"] == "Judgements"
    facts = {"head": ["a", "b", "c", "d"], "relation": ["is"] * 4, "tail": ["b", "c", "d", "a"]}
    train = lines(tmp_path, facts)
    with pytest.raises(DataError, match="name the table of its texts with --entities"):
        suggest({"train": train}, backbone=small / "backbone")
    lines(tmp_path, {"id": ["a", "b", "c", "d"], "text": TEXTS[:4]}, "entities.jsonl")
    found = suggest({"train": train}, backbone=small / "backbone")
    known = found.options()["data"]["supervision"]
    assert known == {"class_path": "Triples", "init_args": {"entities": str(tmp_path / "entities.jsonl")}}


def test_sizes_fit_the_classes_and_the_texts(suggested: Any) -> None:
    found = suggested({"text": TEXTS, "label": CLASSES})
    chosen = found.options()
    # 48 of 60 questions are trained on (8 of each of 6 intents), so a batch has at most 12 of them.
    assert chosen["data"]["planner"]["init_args"] == {"classes": 3, "per_class": 4}
    # [CLS], six words, [SEP]
    assert chosen["model"]["encoder"]["max_length"] == 16
    assert chosen["model"]["encoder"]["freeze"] == ["embeddings"]
    assert "texts have 8 tokens in the middle, 8 at most" in found.noticed
    assert "6 classes of 10 items each" in found.noticed


def test_a_person_is_told_what_is_odd(suggested: Any) -> None:
    texts = [*TEXTS, TEXTS[0], TEXTS[1], "", "w5 " * 300, "w6 alone", *["привет мир"] * 3]
    labels = [*CLASSES, "intent5", CLASSES[1], "intent1", "intent2", "rare", *["intent3"] * 3]
    found = suggested({"text": texts, "label": labels, "price": [*range(68)]})
    told = "\n".join(found.noticed)
    assert "4 of 67 items repeat an earlier one; 1 of them under another label" in told
    assert "1 class has one item, which serves as a negative" in told
    assert "columns that are not used: 'price'" in told
    assert "empty text in row 63" in told
    assert "302 at most" in told
    assert "of the texts are longer than" in told
    assert "texts by script: latin 98%, cyrillic 2%" in told
    assert found.options()["data"]["bad_rows"] == "skip"


def test_named_columns_override_guesses(tmp_path: Path) -> None:
    columns = {"title": TEXTS, "body": OTHERS, "kind": CLASSES, "area": ["north", "south"] * 30}
    table = read_table(lines(tmp_path, columns))
    guessed = ColumnGuesser(table, {}).choose()
    assert guessed.columns == {"label": "kind", "text": "title"}
    assert guessed.unsure == ["'body' could be the texts, too: --text"]
    assert ColumnGuesser(table, {"text": "body"}).choose().columns == {"text": "body", "label": "kind"}
    chosen = ColumnGuesser(table, {"anchor": "body"}).choose()
    assert chosen.columns == {"anchor": "body", "positive": "title"}
    tags = read_table(lines(tmp_path, {"words": [f"{one} und {two}" for one, two in ROWS], "group": CLASSES}))
    given = {"tags": "words", "tag_separator": " und "}
    assert ColumnGuesser(tags, given).choose().separators == {"tags": " und "}
    for given, message in (
        ({"label": "sort"}, "there is no column 'sort'; .* has 'title'"),
        ({"label": "kind", "score": "area"}, "--label is of items with labels and --score of pairs"),
    ):
        with pytest.raises(DataError, match=message):
            ColumnGuesser(table, given)
    nothing = read_table(lines(tmp_path, {"id": [f"x{row}" for row in range(60)], "text": TEXTS}))
    with pytest.raises(DataError, match="nothing there says what belongs together"):
        ColumnGuesser(nothing, {}).choose()


def test_what_a_column_holds() -> None:
    assert Column("a", ["1", "2.5", 3]).content == "numbers"
    assert Column("a", [["x"], ["y"]]).content == "lists"
    assert Column("a", []).content == "nothing"
    assert Column("a", ["a, b", "b, c", "c, a"]).separator == ","
    assert Column("a", ["yes, of course", "no, never", "well, then"]).separator is None
    assert Column("a", ["0", "1", "1", "0"]).is_label
    assert not Column("a", [0.5, 0.25, 0.5, 0.25]).is_label


@pytest.mark.parametrize("kind", ["tags in strings", "question and answer"])
def test_the_config_trains(
    kind: str, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path, KINDS[kind][0])
    run(tmp_path, "init", source, "--backbone", small / "backbone", "--output", "mine.yaml")
    told = capsys.readouterr().out
    assert "lit-metric fit --config mine.yaml" in told
    tags = "--tags keywords --tag_separator '|' --query TAGS"
    expected = tags if kind == "tags in strings" else '--text answer --query "a text"'
    assert f"lit-metric search --model runs/mine --corpus {source} {expected}" in told
    assert (
        (tmp_path / "mine.yaml")
        .read_text(encoding="utf-8")
        .startswith(f"# Written by lit-metric init {source}")
    )
    quick = [
        "--trainer.accelerator=cpu",
        "--trainer.fast_dev_run=true",
        f"--data.cache_dir={small / 'cache'}",
    ]
    run(tmp_path, "fit", "--config", "mine.yaml", *quick)


def test_outputs(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path, {"text": TEXTS, "label": CLASSES})
    run(tmp_path, "init", source, "--backbone", small / "backbone", "--output", "-")
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["data"]["train"] == source
    assert "6 classes of 10 items each" in shown.err
    (tmp_path / "config.yaml").touch()
    with pytest.raises(SystemExit) as end:
        run(tmp_path, "init", source, "--backbone", small / "backbone")
    assert end.value.code == 2
    assert "--output config.yaml exists" in capsys.readouterr().err
    run(tmp_path, "init", source, "--backbone", "nowhere/at-all", "--overwrite", "true")
    told = capsys.readouterr().out
    assert "nowhere/at-all can't be read here, so lengths are its own" in told
    assert "max_length" not in yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["encoder"]
