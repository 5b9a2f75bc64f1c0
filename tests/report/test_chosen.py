"""Which items are shown, and where they come from, against what the files hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric import MetricDataModule
from lit_metric.data import Judgements, Labels
from lit_metric.report.chosen import choose, cut_texts, describe_items, summarise_splits
from tests.small import Small, questions, write_csv


def judged(small: Small) -> MetricDataModule:
    files = [small / f"cranfield/{name}.parquet" for name in ("queries", "corpus")]
    data = MetricDataModule(
        train=small / "cranfield/qrels.parquet",
        supervision=Judgements(*files, folds=5),
        cache_dir=small / "cache",
    )
    data.read()
    return data


def test_all_queries_and_then_their_documents_come_first(small: Small) -> None:
    data = judged(small)
    queries, corpus = data.splits["test"], data.splits["corpus"]
    assert len(queries) < 20 < len(corpus) == 60
    assert choose(data, "test", 1000).tolist() == sorted({*range(len(data.items))})
    shown = choose(data, "test", 40)
    assert len(shown) == 40
    assert torch.isin(queries, shown).all()
    answers = data.relations.positives(queries, corpus).values.unique()
    assert torch.isin(answers, shown).all()
    assert torch.equal(shown, choose(data, "test", 40))
    assert not torch.equal(shown, choose(data, "test", 40, seed=1))


def test_classes_are_shown_in_proportion_to_their_sizes(tmp_path: Path) -> None:
    sizes = {"a": 300, "b": 90, "c": 30}
    rows = [(f"w{n} w{n % 7}", label) for label, count in sizes.items() for n in range(count)]
    train = write_csv(tmp_path / "train.csv", rows)
    test = write_csv(tmp_path / "test.csv", rows[:20])
    data = MetricDataModule(train=train, test=test, cache_dir=tmp_path)
    data.read()
    shown = choose(data, "test", 90)
    train_shown = shown[torch.isin(shown, data.splits["train"])]
    assert len(train_shown) == 70
    counts = torch.bincount(data.relations.labels[train_shown]).tolist()
    every = torch.bincount(data.relations.labels[data.splits["train"]]).tolist()
    assert counts == pytest.approx([70 * size / sum(every) for size in every], abs=1)


def test_items_are_described_by_the_rows_that_they_stand_in(small: Small, tmp_path: Path) -> None:
    rows = [(*row, f"p{number % 3}", number / 2) for number, row in enumerate(questions(72, 0))]
    long = " ".join(f"w{number}" for number in range(4, 60))
    rows[5] = (long, *rows[5][1:])
    names = ["text", "label", "place", "cost"]
    train = write_csv(tmp_path / "train.csv", rows, names)
    listed = write_csv(tmp_path / "out.csv", [(train, "3")], ["file", "row"])
    data = small.data(train=train, exclude=listed, supervision=Labels(text="text", label="label"))
    encoder = small.learner().encoder
    encoder.tokenizer.max_length = 20
    data.prepare(encoder.tokenizer)
    ids = choose(data, "test", 1000)
    items = describe_items(data, ids, "test")
    seen = set()
    for place, text in enumerate(items.texts):
        path = Path(items.files[items.file[place]])
        with path.open(newline="", encoding="utf-8") as file:
            row = list(csv.DictReader(file))[items.row[place] - 1]
        assert row["text"] == text
        assert row["label"] == items.labels[items.label_ids[items.label_offsets[place]]]
        if path.name == "train.csv":
            seen.add(int(items.row[place]))
            assert items.columns["place"][place] == row["place"]
            assert items.columns["cost"][place] == float(row["cost"])
        assert items.keys[place] == f"{path}:{items.row[place]}"
        assert items.columns["tokens"][place] == len(encoder.tokenizer.tokenize([text])[0])
    assert seen == {*range(1, 73)} - {3}
    cut = cut_texts(data, encoder.tokenizer)
    assert [data.vocabulary.texts[place] for place in cut.nonzero()[:, 0].tolist()] == [long]
    splits = {each.name: each for each in summarise_splits(data, ids, cut)}
    assert splits["train"].items + splits["validation"].items == 71
    assert splits["train"].cut + splits["validation"].cut == 1
    assert splits["test"].class_sizes == [5] * 6
    lengths = [len(each) for each in encoder.tokenizer.tokenize([text for text, _ in questions(30, 1)])]
    quantiles = np.quantile(lengths, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist()
    assert splits["test"].length_quantiles == quantiles
