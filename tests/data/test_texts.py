"""Texts in Arrow blocks, in memory and on disk, are the same as a list of strings."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lit_metric import MetricDataModule
from lit_metric.data import DataError, Items, Texts
from lit_metric.data import texts as texts_module
from lit_metric.data.texts import OneTextEach, TextWriter, distinct

TEXTS = ["b", "", "a", "b", "ä" * 40, "a\x00", "b", *(f"text {number % 60}" for number in range(200))]


@pytest.fixture(params=[1 << 26, 100], ids=["memory", "disk"])
def in_blocks(request, monkeypatch) -> None:
    """Blocks of seven texts; with the second parameter nearly all of them are on disk."""
    monkeypatch.setattr(texts_module, "BLOCK", 7)
    monkeypatch.setattr(texts_module, "IN_MEMORY", request.param)


@pytest.mark.usefixtures("in_blocks")
def test_a_sequence_of_strings(tmp_path):
    texts = Texts.of(TEXTS, tmp_path)
    assert (len(texts), list(texts), texts[3:90], texts[-3]) == (207, TEXTS, TEXTS[3:90], TEXTS[-3])
    assert texts == TEXTS
    assert texts != [*TEXTS[:-1], "other"]
    assert texts[::-5] == TEXTS[::-5]
    places = np.random.default_rng(0).integers(len(TEXTS), size=50)
    assert texts.take(places) == list(texts.select(places, tmp_path)) == [TEXTS[place] for place in places]
    assert texts.select(np.arange(len(texts))) is texts
    assert list(Texts.joined([texts, Texts.of([]), texts.select(places, tmp_path)])) == [
        *TEXTS,
        *(TEXTS[place] for place in places),
    ]
    assert list(pickle.loads(pickle.dumps(texts))) == TEXTS
    assert list(tmp_path.iterdir()) == []  # the file has no name
    for place in (207, -208):
        with pytest.raises(IndexError, match="of 207"):
            texts[place]


@pytest.mark.usefixtures("in_blocks")
def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError), TextWriter(tmp_path) as writer:
        writer.extend([*TEXTS, "\ud800", *TEXTS])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("collide", [False, True])
def test_distinct_texts_against_a_dict(tmp_path, collide):
    texts = Texts.of(TEXTS, tmp_path)
    fingerprints = texts.fingerprints() % (5 if collide else 1 << 62)
    places = np.random.default_rng(1).permutation(len(TEXTS))[:150]
    roles = np.random.default_rng(2).integers(3, size=150).astype(np.int8)
    known: dict[tuple[str, int], int] = {}
    expected = [known.setdefault((TEXTS[p], int(r)), len(known)) for p, r in zip(places, roles, strict=True)]
    first, numbers = distinct(texts, fingerprints, places, roles)
    assert numbers.tolist() == expected
    assert [(TEXTS[places[at]], int(roles[at])) for at in first] == list(known)


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("roles", [None, ["document", "query", "title"]])
def test_items_are_those_of_lists(tmp_path, roles):
    numbers = np.random.default_rng(3).integers(3, size=len(TEXTS)).astype(np.int8)
    names = None if roles is None else [roles[number] for number in numbers]
    expected, vocabulary = Items.encode([[text] for text in TEXTS], roles=names)
    given = {} if roles is None else {"roles": numbers, "role_names": roles}
    items, found = Items.of_texts(Texts.of(TEXTS, tmp_path), folder=tmp_path, **given)
    assert found.texts == vocabulary.texts
    assert (found.role_names, items.role_names) == (vocabulary.role_names, expected.role_names)
    assert found.digest == vocabulary.digest
    for own, theirs in (
        (items.texts.values, expected.texts.values),
        (items.texts.offsets, expected.texts.offsets),
        (items.fingerprints, expected.fingerprints),
        (found.fingerprints, vocabulary.fingerprints),
        *(() if roles is None else ((items.roles, expected.roles), (found.roles, vocabulary.roles))),
    ):
        assert own.dtype == theirs.dtype
        assert own.tolist() == theirs.tolist()


@pytest.mark.usefixtures("in_blocks")
def test_rows_of_one_text_each(tmp_path):
    rows = OneTextEach(Texts.of(TEXTS, tmp_path))
    assert rows == [[text] for text in TEXTS]
    assert rows[5:9] == [[text] for text in TEXTS[5:9]]
    assert rows != [[text] for text in TEXTS[1:]]


@pytest.mark.usefixtures("in_blocks")
def test_data_is_read_alike_from_all_kinds_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_metric.data.table.ROWS_AT_ONCE", 9)
    rows = [{"text": f"a text, {number % 70}", "label": f"c{number % 7}"} for number in range(150)]
    import pandas

    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    read = []
    for source in (rows, *(tmp_path / f"a.{kind}" for kind in ("csv", "parquet", "jsonl"))):
        data = MetricDataModule(train=source, cache_dir=str(tmp_path / "cache"))
        data.read()
        texts = [data.texts_of(item) for item in range(len(data.items))]
        read.append((texts, data.relations.labels.tolist(), data.splits["train"].tolist(), data.corpus))
    assert read[0][0] == [[row["text"]] for row in rows]
    assert all(each == read[0] for each in read)


def test_every_bad_row_of_many_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_metric.data.table.ROWS_AT_ONCE", 4)
    lines = [f'{{"text": "text {number}", "label": "c"}}' for number in range(20)]
    lines[6], lines[13], lines[17] = "no JSON", '{"text": " ", "label": "c"}', '{"text": "a", "label": null}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        MetricDataModule(train=tmp_path / "a.jsonl").read()
    found = {(row["row"], row["column"]) for row in error.value.problems.rows()}
    assert found == {(7, ""), (14, "text"), (18, "label")}
