"""From files to splits, and from splits to batches."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lit_metric import MetricDataModule
from lit_metric.batching import PairPlanner, PKPlanner, ScoredPairPlanner
from lit_metric.data import DataError, Judgements, Labels, Pairs
from lit_metric.data.tokens import count_truncated
from lit_metric.encoders.tokenizer import TextTokenizer
from tests.encoders.tokens import word_tokenizer
from tests.small import Small, Watch, trainer, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def of_sizes(folder: Path, **sizes: int) -> str:
    """A file with so many different texts of each class."""
    rows = [(f"w{4 + row} of {label}", label) for label, size in sizes.items() for row in range(size)]
    return write_csv(folder / "data.csv", rows)


def read(**options: Any) -> MetricDataModule:
    data = MetricDataModule(**options)
    data.read()
    return data


def sizes(data: MetricDataModule, split: str) -> dict[str, int]:
    """How many items of each class a split has."""
    return Counter(
        data.relations.classes[label] for label in data.relations.labels[data.splits[split]].tolist()
    )


def test_validation_takes_a_share_of_every_class_and_empties_none(tmp_path: Path) -> None:
    source = of_sizes(tmp_path, one=1, two=2, three=3, nine=9, twenty=20, fifty=50)
    data = read(train=source, validation_share=0.2)
    assert sizes(data, "validation") == {"nine": 2, "twenty": 4, "fifty": 10}
    assert sizes(data, "train") == {"one": 1, "two": 2, "three": 3, "nine": 7, "twenty": 16, "fifty": 40}
    both = torch.cat([data.splits["train"], data.splits["validation"]])
    assert sorted(both.tolist()) == list(range(85))
    # However large the share, a class keeps half of its items.
    assert sizes(read(train=source, validation_share=0.9), "train") == {
        "one": 1,
        "two": 2,
        "three": 3,
        "nine": 5,
        "twenty": 10,
        "fifty": 25,
    }


def test_the_split_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_sizes(tmp_path, a=40, b=40)

    def chosen(**options: Any) -> list[int]:
        return read(train=source, **options).splits["validation"].tolist()

    torch.manual_seed(1)
    first = chosen(seed=3)
    torch.manual_seed(2)
    assert chosen(seed=3) == first == sorted(first)
    assert chosen(seed=4) != first
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    assert chosen() == first
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert chosen() == chosen(seed=0)


def test_given_splits_are_left_alone_and_share_one_space_of_ids(small: Small, tmp_path: Path) -> None:
    validation = write_csv(tmp_path / "validation.csv", [("w28 w30", "intent1"), ("w4", "new")])
    data = read(train=small / "train.csv", validation=validation, test=small / "test.csv")
    assert {name: (int(ids[0]), int(ids[-1]), len(ids)) for name, ids in data.splits.items()} == {
        "train": (0, 71, 72),
        "validation": (72, 73, 2),
        "test": (74, 103, 30),
    }
    assert data.texts_of(73) == ["w4"]
    # Classes are numbered over all splits, so that equal labels mean the same everywhere.
    label = data.relations.labels[72]
    assert data.relations.classes[label] == "intent1"
    assert data.relations.positive(torch.tensor([72]), torch.tensor([1, 2, 7])).tolist() == [
        [True, False, True]
    ]
    assert data.class_counts.tolist() == [12] * 6 + [0]


def test_members_of_one_are_neighbours_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = read(train=of_sizes(tmp_path, one=1, two=2, four=4))
    assert "1 class has one training item, and serves as negatives and neighbours only: 'one'" in caplog.text
    assert dict(zip(data.relations.classes, data.class_counts.tolist(), strict=True)) == {
        "four": 2,
        "one": 1,
        "two": 2,
    }


def test_validation_items_that_find_nothing_of_their_kind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = of_sizes(tmp_path, a=10, b=10)
    told = "no two validation items have the same class"
    read(train=source, validation_share=0.2)
    read(train=source, validation_corpus="train")
    read(train=source)
    assert told not in caplog.text
    one = write_csv(tmp_path / "one.csv", [("w1", "a"), ("w2", "b")])
    read(train=source, validation=one)
    assert told not in caplog.text
    read(train=source, validation=one, validation_corpus="self")
    assert told in caplog.text
    caplog.clear()
    read(train=source, validation=write_csv(tmp_path / "two.csv", [("w1", "a"), ("w2", "a")]))
    assert "all validation items are of one class" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "chosen", "told"),
    [
        ({"a": 100, "b": 100}, "self", None),
        ({"a": 50, "b": 50}, "both", "some classes have fewer than 20 validation items"),
        ({"a": 5, "b": 5}, "both", "some classes have fewer than 20 validation items"),
        ({"a": 1000, "b": 10}, "self", None),  # a long tail of few items
    ],
)
def test_small_validation_splits_are_compared_with_the_training_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sizes: dict[str, int], chosen: str, told: str | None
) -> None:
    caplog.set_level("INFO")
    source = of_sizes(tmp_path, **sizes)
    data = read(train=source, validation_share=0.2)
    assert data.compared_with("validation") == chosen
    assert [*data.roles("validation")] == (["queries"] if chosen == "self" else ["queries", "corpus"])
    assert caplog.text.count("data.validation_corpus") == (told is not None)
    assert told is None or told in caplog.text
    caplog.clear()
    for given in ("self", "train", "both"):
        data = read(train=source, validation_share=0.2, validation_corpus=given)
        assert data.compared_with("validation") == given
    assert "so the training items" not in caplog.text


def test_validation_items_alone_in_their_class_search_the_training_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one = write_csv(tmp_path / "one.csv", [("w1", "a"), ("w2", "b")])
    data = read(train=of_sizes(tmp_path, a=5, b=5), validation=one)
    assert data.compared_with("validation") == "train"
    assert "most validation items are alone in their class" in caplog.text


def test_validation_items_of_classes_of_their_own_search_each_other(tmp_path: Path) -> None:
    sizes = dict.fromkeys("abcde", 2)  # whole classes are held out
    assert read(train=of_sizes(tmp_path, **sizes), validation_share=0.2).compared_with("validation") == "self"


def test_nothing_belongs_together(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no class .* two members \(3 items, 3 classes\).* is label= the right"
    ):
        read(train=of_sizes(tmp_path, a=1, b=1, c=1))


def test_sets_and_texts_do_not_mix(small: Small) -> None:
    with pytest.raises(
        DataError, match="texts in all splits or sets in all splits, not train: text, test: set"
    ):
        read(train=small / "train.csv", test=small / "test.parquet")


def test_without_any_source(small: Small) -> None:
    with pytest.raises(DataError, match=r"no data: give train="):
        read()
    data = read(test=small / "test.csv")
    with pytest.raises(DataError, match=r"nothing to train on: give train="):
        data.train_dataloader()
    with pytest.raises(DataError, match=r"there is no validation split: give validation="):
        data.roles("validation")
    assert data.roles("test") == {"queries": "test"}  # there is no corpus to search


@pytest.mark.parametrize(
    ("against", "roles"),
    [
        ("self", {"queries": "test"}),
        ("train", {"queries": "test", "corpus": "train"}),
        ("both", {"queries": "test", "corpus": "train"}),
    ],
)
def test_roles(small: Small, against: Any, roles: dict[str, str]) -> None:
    data = read(train=small / "train.csv", test=small / "test.csv", test_corpus=against)
    assert data.roles("test") == roles


def test_predictions_need_no_labels(tmp_path: Path) -> None:
    source = tmp_path / "new.parquet"
    pq.write_table(pa.table({"text": ["w5 w6", "w9"]}), source)
    data = read(predict=str(source))
    assert data.splits["predict"].tolist() == [0, 1]
    assert data.relations.labels.tolist() == [-1, -1]


def test_training_does_not_read_the_rows_that_are_only_encoded(small: Small, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    source.write_text('text\nw5 w6\n""\n')  # an empty text would be refused
    learner, data = small.learner(), small.data(predict=str(source), bad_rows="error")
    trainer(tmp_path, max_steps=1).fit(learner, data)
    assert sorted(data.splits) == ["test", "train", "validation"]
    corpus = data.corpus
    assert read(train=small / "train.csv", validation_share=0.2, seed=data.seed).corpus == corpus
    with pytest.raises(DataError, match=r"new\.csv: 1 bad row"):
        trainer(tmp_path).predict(learner, data)


def test_rows_that_are_read_all_at_once_are_read_after_training(small: Small, tmp_path: Path) -> None:
    pairs = {"anchor": [f"w{n} w{n + 1}" for n in range(4, 24)], "positive": [f"w{n}" for n in range(4, 24)]}
    data = MetricDataModule(
        pairs,
        predict={"anchor": ["w5 w6", "w9"]},
        supervision=Pairs("anchor", "positive"),
        validation_share=0.2,
        cache_dir=small / "cache",
    )
    learner = small.learner()
    trainer(tmp_path, max_steps=1).fit(learner, data)
    corpus = data.corpus
    assert "predict" not in data.splits
    trainer(tmp_path).predict(learner, data, return_predictions=False)
    expected = learner.encode(["w5 w6", "w9"])
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npy"), expected, atol=1e-5)
    assert data.corpus == corpus


@pytest.mark.parametrize(
    "options",
    [
        {"validation_share": -0.1},
        {"validation_share": 1.0},
        {"num_workers": -1},
        {"prefetch_factor": 0},
    ],
)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MetricDataModule(**options)


def test_every_loader_of_an_evaluation_holds_each_item_once(small: Small) -> None:
    data = small.data(max_tokens=40, validation_corpus="self")
    data.prepare(TextTokenizer(word_tokenizer(), max_length=64))
    for loaders, names in (
        (data.val_dataloader(), ["validation"]),
        (data.test_dataloader(), ["test", "train"]),
    ):
        for loader, name in zip(loaders, names, strict=True):
            batches = list(loader)
            assert len(batches) > 1
            seen = torch.cat([batch.anchor_ids for batch in batches]).sort().values
            assert torch.equal(seen, data.splits[name].sort().values)
    # Text w4 .. w59 is token 4 .. 59, between [CLS] and [SEP].
    batch = next(iter(data.encoding_loader(data.splits["test"])))
    row = int(batch.items[int(batch.anchors[0])][0])
    words = data.texts_of(int(batch.anchor_ids[0]))[0].split()
    assert batch.tokens[row].tolist() == [1, *(int(word[1:]) for word in words), 2]


def test_the_corpus_is_known_by_content_and_labels(small: Small, tmp_path: Path) -> None:
    rows = [("w5", "a"), ("w6", "a"), ("w7", "b"), ("w8", "b"), ("w9", "b")]
    other = [*rows[:4], ("w10", "b")]
    moved = [*rows[:2], ("w7", "a"), *rows[3:]]
    of = [
        read(train=write_csv(tmp_path / f"{number}.csv", each), validation=small / "test.csv").corpus
        for number, each in enumerate((rows, rows, other, moved))
    ]
    assert of[0] == of[1]
    assert len(set(of)) == 3


def test_a_planner_says_how_long_an_epoch_is(small: Small, tmp_path: Path) -> None:
    data, watch = small.data(), Watch()
    fit = trainer(tmp_path, watch, max_epochs=2)
    fit.fit(small.learner(), data)
    assert data.batches_per_epoch == 5 == len(data.train_dataloader()) == fit.num_training_batches
    assert watch.epochs == [0] * 5 + [1] * 5
    plan = data.planner.plan(data.splits["train"], data.relations, data.seed, 1)
    assert watch.anchors[5:] == plan.anchors.tolist()


def pairs_csv(path: Path, header: tuple[str, ...], *rows: tuple[Any, ...]) -> str:
    return write_csv(path, [tuple(map(str, row)) for row in rows], header)


def test_the_planner_follows_what_is_known(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alike = pairs_csv(
        tmp_path / "alike.csv", ("anchor", "positive"), ("w5", "w6"), ("w7", "w8"), ("w9", "w4")
    )
    scored = pairs_csv(
        tmp_path / "scored.csv", ("sentence1", "sentence2", "score"), ("w5", "w6", 1), ("w7", "w8", 0.5)
    )
    with caplog.at_level(logging.INFO):
        assert type(read(train=small / "train.csv").planner) is PKPlanner
        data = read(train=alike)
    assert type(data.planner) is PairPlanner
    taken = "taken by their usual names: anchor='anchor', positive='positive'"
    assert f"columns of {alike} {taken}" in caplog.messages
    assert type(read(train=scored).planner) is ScoredPairPlanner
    assert type(read(train=alike, planner=PairPlanner(2)).planner) is PairPlanner
    assert data.roles("train") == {"queries": "train", "corpus": "train_corpus"}
    assert data.roles("validation") == {"queries": "validation", "corpus": "validation_corpus"}
    with pytest.raises(TypeError, match="PairRelations have no classes to count"):
        _ = data.class_counts


def test_given_pairs_and_triplets(tmp_path: Path) -> None:
    rows = [("w5", "w6", "w7", "x"), ("w8", "w9", "w4", "y")]
    source = pairs_csv(tmp_path / "t.csv", ("a", "p", "n", "kind"), *rows)
    data = read(test=source, supervision=Pairs("a", "p", "n", group="kind"))
    triplets = data.dataset.triplets.get("test")
    assert triplets is not None
    assert [data.texts_of(int(item))[0] for item in triplets.negatives] == ["w7", "w4"]
    assert triplets.groups == ["x", "y"]
    assert data.dataset.pairs.get("test") is None
    assert data.dataset.triplets.get("validation") is None


def test_pairs_without_any_positive(tmp_path: Path) -> None:
    header = ("sentence1", "sentence2", "score")
    source = pairs_csv(tmp_path / "s.csv", header, ("w5", "w6", 0), ("w7", "w8", 0))
    judged = Judgements(
        pairs_csv(tmp_path / "q.csv", ("id", "text"), (1, "w5"), (2, "w7")),
        pairs_csv(tmp_path / "d.csv", ("id", "text"), ("a", "w6")),
    )
    qrels = pairs_csv(tmp_path / "r.csv", ("query", "document", "relevance"), (1, "a", 0), (2, "a", 0))
    read(train=source)  # scores may be as low as they are
    with pytest.raises(DataError, match=r"none of the 1 training anchors has a positive, .* positive_from"):
        read(train=qrels, supervision=judged)


def test_supervision_is_said_once(small: Small) -> None:
    with pytest.raises(DataError, match=r"label= and supervision= were both given"):
        MetricDataModule(train=small / "train.csv", label="label", supervision=Labels())
    with pytest.raises(ValueError, match="bad_rows must be 'error' or 'skip', not 'drop'"):
        MetricDataModule(bad_rows="drop")  # type: ignore[arg-type]


def test_bad_rows_of_all_sources_are_told_together(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [("w5", "a"), ("", "a"), ("w6", "a"), ("w7", "a")])
    test = write_csv(tmp_path / "test.csv", [("w5", "a"), ("w6", "")])
    with pytest.raises(DataError) as error:
        read(train=train, test=test)
    assert str(error.value) == (
        f"{train}: 1 bad row, {test}: 1 bad row (counted from 1, without a header): column 'text' of "
        f"{train}: empty text in row 2; column 'label' of {test}: no label in row 2. Fill it in, or "
        "drop the row. Or leave them out with bad_rows='skip'."
    )
    data = read(train=train, test=test, bad_rows="skip")
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert len(data.problems) == 2


def test_texts_that_are_cut_are_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "w5 " * 30_000
    rows = [(long, "a"), (long + "w6", "a"), ("w5 " * 62, "a"), ("w5 " * 61, "a"), ("w7", "a")]
    data = read(train=write_csv(tmp_path / "long.csv", rows), cache_dir=str(tmp_path))
    tokenizer = TextTokenizer(word_tokenizer(), max_length=64)
    with caplog.at_level(logging.INFO):
        data.prepare(tokenizer, progress=False)
        data.prepare(tokenizer)
    told = [line for line in caplog.messages if "max_length" in line]
    assert told == ["2 of 5 texts are longer than max_length=64 tokens, and are cut there"]
    assert int(data.collator.tokens.lengths.max()) == 64
    # Kept next to the token ids: nothing is tokenised again.
    monkeypatch.setattr(tokenizer, "tokenize_and_count", None)
    assert count_truncated(data.vocabulary, data.collator.tokens, tokenizer) == {}
    monkeypatch.setattr(tokenizer, "tokenize_and_count", lambda *given: pytest.fail("tokenised again"))
    assert count_truncated(data.vocabulary, data.collator.tokens, tokenizer) == {64: [2, 5]}


def test_the_fingerprint_of_pairs_knows_texts_scores_and_documents(tmp_path: Path) -> None:
    header = ("sentence1", "sentence2", "score")
    first = [("w5", "w6", 1), ("w7", "w8", 0.5), ("w9", "w4", 1)]
    each = [first, first, [*first[:2], ("w9", "w4", 0)], [*first[:2], ("w9", "w10", 1)]]
    validation = pairs_csv(tmp_path / "v.csv", header, ("w5", "w6", 1))
    digests = [
        read(train=pairs_csv(tmp_path / f"{number}.csv", header, *rows), validation=validation).corpus
        for number, rows in enumerate(each)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(("symmetric", "together"), [(True, False), (False, True)])
def test_scores_of_documents_for_a_query_come_together(
    tmp_path: Path, symmetric: bool, together: bool
) -> None:
    rows = [(f"w{query} w4", f"w{query + number} w5", number) for query in range(9) for number in range(3)]
    source = pairs_csv(tmp_path / "a.csv", ("query", "passage", "score"), *rows)
    supervision = Pairs("query", "passage", score="score", symmetric=symmetric)
    planner = read(train=source, supervision=supervision).planner
    assert isinstance(planner, ScoredPairPlanner)
    assert planner.together is together
