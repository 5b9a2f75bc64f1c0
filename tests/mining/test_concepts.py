"""Concepts against words that are compared one by one."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from lit_metric.configurable import rebuilt, spec
from lit_metric.data import Items, LabelRelations
from lit_metric.index import Embeddings
from lit_metric.mining import Candidates, ConceptFilter, Miner, PositiveScores, give_texts, write_texts
from lit_metric.mining import concepts as module

TEXTS = [
    "my card was stolen",
    "the stolen CARD!",
    "my pin",
    "a stolen phone",
    "",
    "pin of my card",
    "a b c",
]


def candidates_of(ids: list[list[int]]) -> Candidates:
    """The same for the anchors 0, 1, ..."""
    found = torch.tensor(ids)
    none = torch.full((len(ids),), torch.nan)
    scores = torch.where(found >= 0, 0.5, -torch.inf)
    return Candidates(torch.arange(len(ids)), found, scores, PositiveScores(none, none, none))


def prepared(rule: ConceptFilter, texts: list[str], folder: Path) -> ConceptFilter:
    items, vocabulary = Items.encode([[text] for text in texts])
    rule.lend(str(write_texts(items, vocabulary, folder)))
    ids = torch.arange(len(texts))
    rule.prepare(Embeddings(ids, torch.eye(len(texts))), LabelRelations.from_names(["a"] * len(texts), ids))
    return rule


def test_a_shared_rare_word_drops_a_candidate(tmp_path: Path) -> None:
    # "card", "stolen" and "my" are in three items of seven, "pin" in two, the others in one.
    rule = prepared(ConceptFilter(max_share=3 / 7), TEXTS, tmp_path)
    keep = rule.keep(candidates_of([[1, 2, 3, 4, 5, 6, -1], [0, 2, 3, 4, 5, 6, -1], [0, 1, 3, 4, 5, 6, -1]]))
    assert keep[:, :6].tolist() == [
        [False, False, False, True, False, True],
        [False, True, False, True, False, True],
        [False, True, True, True, False, True],
    ]
    rare = prepared(ConceptFilter(max_share=2 / 7), TEXTS, tmp_path)
    keep = rare.keep(candidates_of([[1, 2, 3, 5], [0, 2, 3, 5], [0, 1, 3, 5]]))
    assert keep.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]  # only "pin" is left
    # Two are shared by the first text and 1, "card" and "stolen", and by it and 5, "card" and "my".
    two = prepared(ConceptFilter(max_share=1.0, shared=2), TEXTS, tmp_path)
    assert two.keep(candidates_of([[1, 2, 3, 5]])).tolist() == [[False, True, True, False]]


def test_pairs_are_compared_as_by_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS", 7)
    draw = random.Random(0)
    texts = [
        " ".join(draw.choices(["red", "Blue", "long", "wide", "x"], k=draw.randint(0, 3))) for _ in range(40)
    ]
    ids = [[draw.randint(-1, 39) for _ in range(9)] for _ in range(40)]
    share = 0.4
    words = [{word.lower() for word in re.findall(r"\w\w+", text)} for text in texts]
    counts = Counter(word for own in words for word in own)
    concepts = [{word for word in own if counts[word] <= share * len(texts)} for own in words]
    assert 0 < sum(bool(own) for own in concepts) < 40
    keep = prepared(ConceptFilter(share), texts, tmp_path).keep(candidates_of(ids))
    for anchor, row in enumerate(ids):
        for place, other in enumerate(row):
            if other >= 0:
                assert keep[anchor, place] == (not concepts[anchor] & concepts[other])


def test_items_without_words_keep_all(tmp_path: Path) -> None:
    rule = prepared(ConceptFilter(), ["", "?", "!"], tmp_path)
    assert rule.keep(candidates_of([[1, 2], [0, 2]])).all()


def test_other_items_are_read_again_and_the_same_are_not(tmp_path: Path) -> None:
    rule = prepared(ConceptFilter(1.0), ["red ink", "red", "ink"], tmp_path)
    before = rule._concepts
    prepared(rule, ["red ink", "red", "ink"], tmp_path)
    assert rule._concepts is before
    assert rule.keep(candidates_of([[1, 2]])).tolist() == [[False, False]]
    prepared(rule, ["red ink", "red", "paper", "red"], tmp_path)
    assert rule.keep(candidates_of([[1, 2, 3]])).tolist() == [[False, True, False]]


def test_a_miner_leaves_out_what_shares_a_concept(tmp_path: Path) -> None:
    texts = ["stolen card", "stolen phone", "new phone", "old pin", "new account", "old account"]
    items, vocabulary = Items.encode([[text] for text in texts])
    ids = torch.arange(6)
    relations = LabelRelations.from_names([*"aabbcc"], ids)
    miner = rebuilt(spec(Miner(top_k=5, filters=[ConceptFilter(max_share=1.0)])))  # as the worker makes it
    give_texts(miner, items, vocabulary, tmp_path)
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    table = miner.mine(Embeddings(ids, vectors), relations, seed=0)
    found = {
        int(anchor): {one for one in row if one >= 0}
        for anchor, row in zip(ids, table.ids.tolist(), strict=True)
    }
    # Without positives and without what shares "stolen", "phone", "new", "old" or "account".
    assert found == {0: {2, 3, 4, 5}, 1: {3, 4, 5}, 2: {0, 5}, 3: {0, 1, 4}, 4: {0, 1, 3}, 5: {0, 1, 2}}
    assert table.report["rejected/ConceptFilter"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_share": 0.0}, "max_share=0.0 must be above 0 and at most 1"),
        ({"max_share": 1.5}, "max_share=1.5"),
        ({"shared": 0}, "shared=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConceptFilter(**given)  # type: ignore[arg-type]


def test_it_needs_to_be_prepared() -> None:
    with pytest.raises(RuntimeError, match="call prepare"):
        ConceptFilter().keep(candidates_of([[1]]))
