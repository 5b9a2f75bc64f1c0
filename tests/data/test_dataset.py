"""Judged pairs and triplets, and several data sets in one."""

from __future__ import annotations

import pytest
import torch

from lit_metric import MetricDataModule
from lit_metric.batching import MixturePart
from lit_metric.data import DataError, GivenPairs, GivenTriplets, Labels, Pairs
from lit_metric.data.dataset import union
from tests.data.formats.tables import known, read, table

PAIRS = table(anchor=["same", "b"], positive=["p", "q"])
LABELS = table(text=["same", "x", "y"], label=["l", "l", "m"])


def test_items_keep_their_texts_roles_and_relations():
    first = read(Labels(), train=LABELS, validation=LABELS)
    second = read(Pairs(symmetric=False), train=PAIRS, validation=PAIRS)
    whole = union({"one": first, "two": second})
    assert len(whole.items) == len(first.items) + len(second.items)
    start = len(first.items)
    for part, offset in ((first, 0), (second, start)):
        for item in range(len(part.items)):
            [text], [own] = whole.items.texts[item + offset].tolist(), part.items.texts[item].tolist()
            assert whole.vocabulary.texts[text] == part.vocabulary.texts[own]
            assert whole.items.fingerprints[item + offset] == part.items.fingerprints[item]
    names = whole.items.role_names
    roles = [names[role] for role in whole.items.roles.tolist()]
    assert roles[:start] == [""] * start
    assert roles[start:] == [second.items.role_names[role] for role in second.items.roles.tolist()]
    assert whole.splits["train"].tolist() == [
        *first.splits["train"].tolist(), *(second.splits["train"] + start).tolist()
    ]  # fmt: skip
    assert whole.splits["two/train_corpus"].tolist() == (second.splits["train_corpus"] + start).tolist()
    assert whole.splits["train_corpus"].tolist() == [
        *first.splits["train"].tolist(), *whole.splits["two/train_corpus"].tolist()
    ]  # fmt: skip
    everything = torch.arange(len(whole.items))
    positive = whole.relations.positive(everything, everything)
    assert torch.equal(
        positive[:start, :start], first.relations.positive(everything[:start], everything[:start])
    )
    assert not positive[:start, start:].any()
    assert not whole.relations.negative(everything, everything)[:start, start:].any()
    assert known(second, "train") == {("same", "p", 1.0), ("b", "q", 1.0)}


def test_sets_keep_weights_and_fields():
    tags = table(tags=[["a", "b"], ["a"]], weights=[[1, 2], [3]], label=["x", "x"])
    fields = table(title=["t", "u"], tag=[["a"], []], label=["x", "x"])
    first = read(Labels(tags="tags", weights="weights"), train=tags, validation=tags)
    second = read(Labels(fields={"title": "title", "tag": "tag"}), train=fields, validation=fields)
    whole = union({"one": first, "two": second})
    assert whole.items.weights.tolist() == [1, 2, 3, 1, 2, 3, *[1] * 6]
    texts, roles = whole.vocabulary.texts, whole.vocabulary.role_names
    named = [
        [(roles[whole.vocabulary.roles[text]], texts[text]) for text in row]
        for row in whole.items.texts.tolist()
    ]
    assert named[0] == [("", "a"), ("", "b")]
    assert named[4] == [("title", "t"), ("tag", "a")]
    assert whole.items.roles is None


def test_fingerprints_change_with_any_part():
    first = read(Labels(), train=LABELS, validation=LABELS)
    second = read(Pairs(), train=PAIRS, validation=PAIRS)
    other = read(Pairs(), train=table(anchor=["same", "b"], positive=["q", "p"]), validation=PAIRS)
    digests = {union({"one": first, "two": each}).digest("train") for each in (second, other)}
    assert len(digests) == 2
    assert union({"one": first, "two": second}).digest("train") in digests


def test_texts_and_sets_do_not_mix():
    tags = table(tags=[["a"], ["b"]], label=["x", "x"])
    sets = read(Labels(tags="tags"), train=tags, validation=tags)
    with pytest.raises(DataError, match=r"one encoder takes texts or sets, but .* are one: text, two: set"):
        union({"one": read(Labels(), train=LABELS, validation=LABELS), "two": sets})


@pytest.mark.parametrize(("name", "better"), [("a/b", "a_b"), ("", "first")])
def test_names_that_no_metric_can_have_are_refused_at_once(name: str, better: str) -> None:
    with pytest.raises(
        DataError, match=rf"mixture= has a data set called '{name}': .* without slashes, such as '{better}'"
    ):
        MetricDataModule(mixture={name: MixturePart(train={"text": ["a"], "label": ["b"]})})


TWO, THREE = torch.tensor([4, 1]), torch.tensor([1, 2, 7])


def test_what_has_to_be_encoded() -> None:
    assert GivenPairs(TWO, torch.tensor([1, 9]), torch.ones(2)).ids.tolist() == [1, 4, 9]
    triplets = GivenTriplets(TWO, torch.tensor([1, 9]), torch.tensor([0, 4]), ["swap", "add"])
    assert (len(triplets), triplets.ids.tolist()) == (2, [0, 1, 4, 9])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GivenPairs(TWO, THREE, torch.ones(2)),
            r"columns of pairs .* anchors \[2\], candidates \[3\], targets \[2\]",
        ),
        (lambda: GivenPairs(TWO, TWO, torch.ones(2, 1)), r"targets \[2, 1\]"),
        (
            lambda: GivenPairs(TWO, TWO, torch.tensor([1.0, torch.nan])),
            "the target of pair 1 is not a finite number",
        ),
        (lambda: GivenTriplets(TWO, TWO, THREE), r"columns of triplets .* negatives \[3\]"),
        (lambda: GivenTriplets(TWO, TWO, TWO, ["a"]), "1 groups were given for 2 triplets"),
    ],
)
def test_columns_that_do_not_fit_are_refused(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()  # type: ignore[operator]
