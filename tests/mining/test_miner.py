"""The whole path from embeddings to the negatives of a batch."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from lit_metric.configurable import spec
from lit_metric.data import PairRelations
from lit_metric.index import Embeddings, ExactIndex, FaissIndex, Index
from lit_metric.mining import (
    AbsoluteMargin,
    Candidates,
    MaxScore,
    Miner,
    NegativeFilter,
    NegativeTable,
    NeighbourProposer,
    PositiveScores,
    RandomProposer,
    RankRange,
    RelativeMargin,
    SimANS,
    TableError,
    TableNegatives,
    TopK,
    WithRandom,
    versions,
)
from tests.forked import SERVER
from tests.mining.cases import blobs, relations_of


def mined_by_loop(embeddings: Tensor, ids: Tensor, labels: Tensor, wanted: int) -> dict[int, list[int]]:
    """The nearest items of other classes, in double precision."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    result = {}
    for row, one in enumerate(ids.tolist()):
        near = (unit @ unit[row]).argsort(descending=True).tolist()
        others = [int(ids[place]) for place in near]
        result[one] = [other for other in others if labels[other] != labels[one]][:wanted]
    return result


@pytest.mark.parametrize("index", [ExactIndex(), FaissIndex("Flat", threads=1)])
def test_table_holds_the_nearest_items_of_other_classes(index: Index) -> None:
    embeddings, labels = blobs(200, 4, spread=0.5)
    # Ids that are neither dense nor in order, among others that are not mined.
    ids = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:200]
    all_labels = torch.zeros(400, dtype=torch.int64)
    all_labels[ids] = labels
    table = Miner(index, top_k=7, filters=[]).mine(Embeddings(ids, embeddings), relations_of(all_labels))
    expected = mined_by_loop(embeddings, ids, all_labels, 7)
    assert table.anchors.tolist() == sorted(expected)
    assert table.ids.tolist() == [expected[one] for one in sorted(expected)]
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    row_of = {one: row for row, one in enumerate(ids.tolist())}
    for anchor, row, scores in zip(table.anchors.tolist(), table.ids.tolist(), table.scores, strict=True):
        true = unit[[row_of[one] for one in row]] @ unit[row_of[anchor]]
        np.testing.assert_allclose(scores, true, rtol=0, atol=5e-4)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("negatives", [0, 3])
def test_a_table_and_its_files_say_on_which_scale_its_scores_are(
    tmp_path: Path, similarity: str, negatives: int
) -> None:
    """Margins and percentages of cosines mean nothing for inner products."""
    embeddings, labels = blobs(40, 4)
    miner = Miner(ExactIndex(similarity), top_k=3, negatives=negatives, filters=[])  # type: ignore[arg-type]
    table = miner.mine(Embeddings(torch.arange(40), embeddings), relations_of(labels))
    stored = NegativeTable.open(tmp_path, table.save(tmp_path, corpus="items", weights="w", step=0, epoch=0))
    assert (table.similarity, stored.similarity) == (similarity, similarity)
    if negatives:
        scale = embeddings.norm(dim=1) if similarity == "cosine" else torch.ones(40)
        found = torch.from_numpy(table.ids).long()
        scores = (embeddings[found] @ embeddings[:, :, None])[:, :, 0] / scale[found] / scale[:, None]
        np.testing.assert_allclose(table.scores, scores, rtol=1e-3, atol=1e-3)


def judged(queries: int, documents: int, seed: int) -> tuple[Tensor, Tensor, PairRelations]:
    """Vectors and ids, in no order, of queries and then documents, with one to three answers a query; some
    documents are copies of others."""
    lots = torch.Generator().manual_seed(seed)
    total = queries + documents
    prints = torch.arange(total)
    prints[queries : queries + 10] = prints[queries + 10 : queries + 20]
    answers = queries + torch.randint(documents, (3, queries), generator=lots)
    known = torch.arange(queries).repeat(3)
    relations = PairRelations(known, answers.flatten(), None, prints)
    return torch.randn(total, 12, generator=lots), torch.randperm(total, generator=lots), relations


@pytest.mark.parametrize("index", [ExactIndex(), FaissIndex("Flat", threads=1)])
def test_queries_are_mined_among_documents(index: Index) -> None:
    embeddings, ids, relations = judged(40, 90, seed=0)
    # Not all queries, nor all documents; positives count wherever they are.
    anchors, corpus = torch.arange(0, 40, 2), torch.arange(45, 130)
    miner = Miner(index, top_k=6, filters=[])
    table = miner.mine(Embeddings(ids, embeddings), relations, anchors=anchors, corpus=corpus.flip(0))
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    vector = dict(zip(ids.tolist(), unit, strict=True))
    assert table.anchors.tolist() == anchors.tolist()
    for query, row, told in zip(anchors.tolist(), table.ids.tolist(), table.positives, strict=True):
        here = torch.tensor(query)
        score = {one: float(vector[query] @ vector[one]) for one in ids.tolist()}
        ok = [one for one in corpus.tolist() if not relations.excluded_pairs(here, torch.tensor(one))]
        assert row == sorted(ok, key=lambda one: -score[one])[:6]
        own = [score[one] for one in ids.tolist() if relations.positive_pairs(here, torch.tensor(one))]
        np.testing.assert_allclose(told, [max(own), min(own), sum(own) / len(own)], atol=1e-3)
    assert table.report["unpaired"] == 0


def test_random_negatives_of_queries_are_documents_also_after_a_table_was_saved(tmp_path: Path) -> None:
    embeddings, ids, relations = judged(30, 50, seed=1)
    queries, documents = torch.arange(30), torch.arange(30, 80)
    miner = Miner(top_k=5, negatives=4, draw=WithRandom(share=1.0), proposer=RandomProposer())
    table = miner.mine(Embeddings(ids, embeddings), relations, anchors=queries, corpus=documents)
    assert table.save(tmp_path, corpus="c", weights="w", step=0, epoch=0) == 1
    opened = NegativeTable.open(tmp_path, 1)
    assert opened.pool.tolist() == table.pool.tolist() == documents.tolist()
    drawn = opened.draw(miner.draw, 4, queries, relations, 0, 0, 0)
    assert torch.equal(drawn, table.draw(miner.draw, 4, queries, relations, 0, 0, 0))
    assert int(drawn.min()) >= 30
    assert not relations.excluded_pairs(queries[:, None].expand_as(drawn), drawn).any()
    assert int(table.ids.min()) >= 30
    with (tmp_path / "v000001" / "pool.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(TableError, match=r"pool\.npy is damaged"):
        NegativeTable.open(tmp_path, 1)


def test_anchors_and_corpus_are_among_what_was_embedded() -> None:
    embeddings, ids, relations = judged(30, 50, seed=1)
    with pytest.raises(
        ValueError, match="corpus: 10 of the 30 requested items have no vector, the first is item 80"
    ):
        Miner().mine(Embeddings(ids, embeddings), relations, corpus=torch.arange(60, 90))
    with pytest.raises(ValueError, match="anchors: no item is named"):
        Miner().mine(Embeddings(ids, embeddings), relations, anchors=torch.arange(0))


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, the labels shown, and the true ones: 15% of the labels are hidden behind wrong ones."""
    embeddings, truth = blobs(1200, 12, dimension=24, spread=0.6)
    lots = torch.Generator().manual_seed(1)
    shown = torch.where(
        torch.rand(1200, generator=lots) < 0.15, torch.randint(12, (1200,), generator=lots), truth
    )
    return embeddings, shown, truth


def false_share(table: NegativeTable, truth: Tensor) -> float:
    """Share of mined negatives that truly belong to the anchor's class."""
    ids = torch.from_numpy(table.ids.astype(np.int64))
    there = ids >= 0
    wrong = (truth[ids.clamp(min=0)] == truth[:, None]) & there
    return int(wrong.sum()) / int(there.sum())


@pytest.mark.parametrize("rule", [AbsoluteMargin(0.05), RelativeMargin(0.05), MaxScore(0.5)])
def test_score_filters_keep_planted_false_negatives_out(rule: NegativeFilter) -> None:
    embeddings, shown, truth = planted()
    ids, relations = torch.arange(1200), relations_of(shown)
    naive = Miner(top_k=10, filters=[]).mine(Embeddings(ids, embeddings), relations)
    table = Miner(top_k=10, filters=[rule]).mine(Embeddings(ids, embeddings), relations)
    assert false_share(naive, truth) > 0.9  # Nearly all of the nearest "negatives" are unlabelled positives.
    assert false_share(table, truth) < 0.1
    assert table.report["short"] < 0.25
    assert table.report[f"rejected/{rule.name}"] > 0.05


def test_equal_texts_under_two_labels_are_never_negatives() -> None:
    embeddings, labels = blobs(60, 3)
    embeddings[30:] = embeddings[:30]  # Item 30 + i is a copy of item i, under any label.
    relations = relations_of(labels, torch.arange(60) % 30)
    table = Miner(top_k=20, filters=[]).mine(Embeddings(torch.arange(60), embeddings), relations)
    for anchor, row in zip(table.anchors.tolist(), table.ids.tolist(), strict=True):
        assert all(one == -1 or (one % 30 != anchor % 30 and labels[one] != labels[anchor]) for one in row)
        assert -1 not in row


def test_rejected_shares_add_up_to_what_a_loop_counts() -> None:
    embeddings, labels = blobs(150, 3, spread=1.5)
    ids, relations = torch.arange(150), relations_of(labels)
    filters: list[NegativeFilter] = [MaxScore(0.4), RankRange(2), MaxScore(0.3)]
    table = Miner(FaissIndex(threads=1), top_k=4, filters=filters).mine(
        Embeddings(ids, embeddings), relations
    )
    exact = Miner(top_k=4, filters=filters).mine(Embeddings(ids, embeddings), relations)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    counts, examined = [0, 0, 0, 0], 0
    for anchor in range(150):
        scores = unit @ unit[anchor]
        rank, kept = 0, list[int]()
        for one in scores.argsort(descending=True).tolist():
            if len(kept) == 4:
                break
            examined += 1
            if labels[one] == labels[anchor]:
                counts[0] += 1
            elif scores[one] >= 0.4:
                counts[1] += 1
            elif (rank := rank + 1) <= 2:
                counts[2] += 1
            elif scores[one] >= 0.3:
                counts[3] += 1
            else:
                kept.append(one)
        assert table.ids[anchor].tolist() == kept
    names = ["RelationFilter", "MaxScore 1", "RankRange", "MaxScore 3"]
    for name, count in zip(names, counts, strict=True):
        assert count > 0
        assert table.report[f"rejected/{name}"] == pytest.approx(count / examined)
    assert table.report["examined"] == pytest.approx(examined / 150)
    # Exact search leaves out what the relations exclude, and never looks at it.
    assert "rejected/RelationFilter" not in exact.report
    examined -= counts[0]
    for name, count in zip(names[1:], counts[1:], strict=True):
        assert exact.report[f"rejected/{name}"] == pytest.approx(count / examined)
    assert exact.report["examined"] == pytest.approx(examined / 150)
    assert (table.report["candidates"], table.report["short"], table.report["without"]) == (4, 0, 0)


def test_the_sample_is_the_same_anchors_whatever_the_embeddings() -> None:
    embeddings, labels = blobs(100, 4)
    miner, ids, relations = Miner(top_k=5, sample=6), torch.arange(100), relations_of(labels)
    first = miner.mine(Embeddings(ids, embeddings), relations).sample
    second = miner.mine(Embeddings(ids, embeddings.flip(0)), relations, seed=9).sample
    assert len(first) == 6
    assert [entry["anchor"] for entry in first] == [entry["anchor"] for entry in second]


def test_the_sample_says_why() -> None:
    embeddings, labels = blobs(100, 4)
    embeddings[99], labels[98], labels[99] = embeddings[98] + 0.1 * embeddings[97], 0, 1
    fingerprints = torch.arange(100)
    fingerprints[99] = fingerprints[98]
    relations = relations_of(labels, fingerprints)
    miner = Miner(top_k=5, filters=[MaxScore(0.3)], sample=100)
    sample = miner.mine(Embeddings(torch.arange(100), embeddings), relations).sample
    assert [entry["anchor"] for entry in sample] == list(range(100))
    duplicates = [one["id"] for one in sample[99]["candidates"] if "duplicate" in one["verdict"]]
    assert duplicates == [98]
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    for entry in sample:
        anchor, verdicts = entry["anchor"], [one["verdict"] for one in entry["candidates"]]
        assert verdicts.count("kept") == 5
        assert verdicts.count("RelationFilter: itself") == 1
        # Listed and omitted together are all that were looked at until the last one kept.
        last = next(one["id"] for one in reversed(entry["candidates"]) if one["verdict"] == "kept")
        scores = unit @ unit[anchor]
        assert len(verdicts) + entry["omitted"] == int((scores >= scores[last]).sum())
        positive = [
            float(unit[anchor] @ unit[o]) for o in range(100) if o != anchor and labels[o] == labels[anchor]
        ]
        assert entry["positive"]["best"] == pytest.approx(max(positive), abs=1e-4)
        for one in entry["candidates"]:
            other, score = one["id"], float(unit[anchor] @ unit[one["id"]])
            assert one["score"] == pytest.approx(score, abs=1e-4)
            if other == anchor:
                assert one["verdict"] == "RelationFilter: itself"
            elif labels[other] == labels[anchor]:
                assert one["verdict"] == "RelationFilter: positive"
            elif fingerprints[other] == fingerprints[anchor]:
                assert one["verdict"] == "RelationFilter: duplicate or ignored"
            else:
                assert one["verdict"] == ("kept" if score < 0.3 else "MaxScore")
    json.dumps(sample, allow_nan=False)


class Odd(RelativeMargin):
    """Keeps by a rule of its own, which no ceiling tells."""

    def keep(self, candidates: Candidates) -> Tensor:
        return super().keep(candidates) & (candidates.ids % 2 == 1)


class Shy(AbsoluteMargin):
    """Has a ceiling of its own."""

    def ceiling(self, positives: PositiveScores) -> Tensor:
        return super().ceiling(positives).masked_fill(positives.best > 0.9, torch.nan)


@pytest.mark.parametrize(
    "rules",
    [
        [RelativeMargin(0.05)],
        [RankRange(2)],
        [AbsoluteMargin(0.05), MaxScore(0.6)],
        [MaxScore(0.7), RankRange(2), RelativeMargin(0.2, "best")],
        [Odd(0.9)],
        [Shy(0.1), Odd(0.9)],
    ],
    ids=lambda rules: "+".join(type(each).__name__ for each in rules),
)
def test_leaving_out_while_searching_changes_no_table(
    rules: list[NegativeFilter], monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, labels = blobs(400, 3, spread=0.8)
    labels[labels == 2] = labels[labels == 2] * (torch.arange(int((labels == 2).sum())) % 5 == 0)
    labels[::17] = -1
    fingerprints = torch.arange(400)
    fingerprints[200:230], embeddings[200:230] = fingerprints[:30], embeddings[:30]
    relations, miner = relations_of(labels, fingerprints), Miner(top_k=30, filters=rules, sample=12)
    table = miner.mine(Embeddings(torch.arange(400), embeddings), relations)
    monkeypatch.setattr(NeighbourProposer, "excluding", lambda self, *_: self)
    wide = miner.mine(Embeddings(torch.arange(400), embeddings), relations)
    for name in ("anchors", "ids", "scores", "positives"):
        np.testing.assert_array_equal(getattr(table, name), getattr(wide, name))
    assert table.sample == wide.sample
    # Nor what is counted, but for the class, which is never looked at.
    counted, examined = wide.report, 1 - wide.report["rejected/RelationFilter"]
    assert table.report["examined"] == pytest.approx(counted["examined"] * examined)
    for name in {name for name in table.report if name.startswith("rejected/")}:
        assert table.report[name] == pytest.approx(counted[name] / examined)


def test_an_item_in_the_midst_of_a_large_class_finds_negatives_within_a_small_bound() -> None:
    embeddings = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    embeddings[:150, 0] += 20
    ids, relations = torch.arange(200), relations_of((torch.arange(200) >= 150).long())
    expected = mined_by_loop(embeddings, ids, relations.labels, 6)
    exact = Miner(top_k=6, filters=[], max_scanned=20).mine(Embeddings(ids, embeddings), relations)
    assert exact.ids.tolist() == [expected[one] for one in range(200)]
    assert {one["id"] for one in exact.sample[0]["candidates"] if one["verdict"] == "kept"} == set(
        exact.ids[exact.sample[0]["anchor"]].tolist()
    )
    wide = Miner(FaissIndex(threads=1), top_k=6, filters=[], max_scanned=20)
    assert (wide.mine(Embeddings(ids, embeddings), relations).ids[:150] == -1).all()


def test_items_without_positives_are_not_mined_and_those_without_negatives_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embeddings, _ = blobs(40, 2)
    labels = torch.tensor([0] * 19 + [1] * 19 + [2, -1])
    with caplog.at_level(logging.WARNING):
        table = Miner(top_k=3, filters=[]).mine(
            Embeddings(torch.arange(40), embeddings), relations_of(labels)
        )
    assert table.ids[38:].tolist() == [[-1] * 3] * 2
    assert (table.ids[:38] >= 0).all()
    assert np.isnan(table.positives[38:]).all()
    assert table.report["unpaired"] == pytest.approx(2 / 40)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        Miner(top_k=3, filters=[MaxScore(-1)]).mine(
            Embeddings(torch.arange(40), embeddings), relations_of(labels)
        )
    assert "100% of the items found no negative among 40 proposals" in caplog.text


@pytest.mark.parametrize("proposer", [None, RandomProposer()])
def test_a_call_within_autocast_computes_scores_in_full_precision(proposer: RandomProposer | None) -> None:
    embeddings, labels = blobs(200, 4, spread=0.5)
    ids, relations = torch.arange(200), relations_of(labels)
    miner = Miner(top_k=7, filters=[], proposer=proposer)
    expected = miner.mine(Embeddings(ids, embeddings), relations)
    with torch.autocast("cpu", torch.bfloat16):
        table = miner.mine(Embeddings(ids, embeddings), relations)
    for name in ("ids", "scores", "positives"):
        np.testing.assert_array_equal(getattr(table, name), getattr(expected, name))


def test_random_proposals_make_a_table_in_falling_order() -> None:
    embeddings, labels = blobs(100, 4)
    miner = Miner(top_k=5, filters=[], proposer=RandomProposer())
    tables = [
        miner.mine(Embeddings(torch.arange(100), embeddings), relations_of(labels), seed=seed)
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(tables[0].ids, tables[1].ids)
    assert tables[0].overlap(tables[2]) < 0.2
    assert (np.diff(tables[0].scores, axis=1) <= 0).all()
    assert (labels[tables[0].ids] != labels[:, None]).all()
    # Random ones are no harder than random: the five nearest would be.
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    others = (unit @ unit.T)[labels[:, None] != labels[None]].mean()
    assert tables[0].scores.mean() == pytest.approx(float(others), abs=0.03)


def test_the_table_does_not_depend_on_the_order_of_items() -> None:
    embeddings, labels = blobs(200, 5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    miner, relations = Miner(top_k=10), relations_of(labels)
    one = miner.mine(Embeddings(torch.arange(200), embeddings), relations)
    two = miner.mine(Embeddings(order, embeddings[order].numpy()), relations)
    for name in ("anchors", "ids", "scores", "positives"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def drawn_in_another_process(
    source: TableNegatives, anchors: list[int], version: int
) -> tuple[int, list[list[int]]]:
    return os.getpid(), source(torch.tensor(anchors), 1, 2, 3, version).tolist()


def test_other_processes_draw_the_same_from_the_version_that_the_plan_names(tmp_path: Path) -> None:
    embeddings, labels = blobs(120, 4)
    ids, relations = torch.arange(120), relations_of(labels)
    miner = Miner(top_k=10, negatives=3, filters=[], draw=WithRandom(SimANS(), 0.5))
    tables = [miner.mine(Embeddings(ids, embeddings + change), relations) for change in (0.0, 1.0, 3.0)]
    numbers = [table.save(tmp_path, corpus="c", weights="w", step=0, epoch=0) for table in tables]
    assert numbers == versions(tmp_path) == [1, 2, 3]
    source, anchors = TableNegatives(tmp_path, miner.draw, 3, relations, "c"), torch.tensor([5, 77, 3, 119])
    expected = [table.draw(miner.draw, 3, anchors, relations, 1, 2, 3).tolist() for table in tables]
    assert len({str(each) for each in expected}) == 3
    # Back and forth, as workers with batches fetched ahead do around a switch; only two stay open.
    for number in (1, 2, 1, 3, 2, 3, 1):
        assert source(anchors, 1, 2, 3, number).tolist() == expected[number - 1]
    assert len(source._tables) == 2
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
        other, found = pool.submit(drawn_in_another_process, source, anchors.tolist(), 2).result()
    assert other != os.getpid()
    assert found == expected[1]
    assert source(anchors, 1, 2, 3, 0).tolist() == [[-1] * 3] * 4  # Before the first table.
    assert source(anchors[:0], 1, 2, 3, 1).shape == (0, 3)
    with pytest.raises(TableError, match="does not exist"):
        source(anchors, 1, 2, 3, 4)


def test_fewer_candidates_than_asked_for_are_marked() -> None:
    embeddings, _ = blobs(6, 2)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    table = Miner(top_k=4, filters=[]).mine(Embeddings(torch.arange(6), embeddings), relations_of(labels))
    drawn = table.draw(TopK(), 3, torch.tensor([2, 5]), relations_of(labels), 0, 0, 0)
    assert drawn[0].tolist() == [5, -1, -1]
    assert drawn[1].tolist() == [-1, -1, -1]


CONFIG = """
miner:
  index:
    class_path: lit_metric.index.FaissIndex
    init_args: {factory: Flat, similarity: dot}
  top_k: 20
  negatives: 4
  filters:
    - class_path: lit_metric.mining.AbsoluteMargin
      init_args: {margin: 0.1, positive_score: worst}
    - class_path: lit_metric.mining.RankRange
      init_args: {range_min: 2}
  draw:
    class_path: lit_metric.mining.WithRandom
    init_args:
      share: 0.25
      draw:
        class_path: lit_metric.mining.SimANS
        init_args: {a: 50, b: -0.1}
"""


def miner_from(config: str) -> Miner:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Miner, "miner")
    miner: Miner = parser.instantiate_classes(parser.parse_string(config)).miner
    return miner


def test_a_miner_is_built_from_yaml_and_from_its_own_spec() -> None:
    miner = miner_from(CONFIG)
    margin, window = miner.filters
    assert isinstance(margin, AbsoluteMargin)
    assert (margin.margin, margin.positive_score) == (0.1, "worst")
    assert isinstance(window, RankRange)
    assert (window.range_min, window.range_max) == (2, None)
    assert isinstance(miner.draw, WithRandom)
    assert isinstance(miner.draw.draw, SimANS)
    assert (miner.draw.share, miner.draw.draw.a, miner.draw.draw.b) == (0.25, 50, -0.1)
    assert (miner.top_k, miner.negatives) == (20, 4)
    told = json.loads(json.dumps(miner.spec()))
    assert told["class_path"] == "lit_metric.mining.Miner"
    again = json.dumps({"miner": told["init_args"]})
    assert miner_from(again).spec() == told


def test_a_spec_refuses_what_it_cannot_describe() -> None:
    class Forgetful(NegativeFilter):
        def __init__(self, depth: int) -> None:
            self.other = depth

        def keep(self, candidates: Any) -> Tensor:
            return candidates.present

    with pytest.raises(TypeError, match="Forgetful cannot be described: its argument 'depth'"):
        spec(Forgetful(3))
    with pytest.raises(TypeError, match="Forgetful"):
        Miner(filters=[Forgetful(3)]).mine(
            Embeddings(torch.arange(2), torch.ones(2, 2)), relations_of(torch.tensor([0, 0]))
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 10, "max_scanned": 9}, "top_k=10 must be at least 1 and at most max_scanned=9"),
        ({"negatives": -1}, "negatives=-1"),
        ({"index": ExactIndex(), "proposer": RandomProposer()}, "both index and proposer"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Miner(**arguments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([0, 1, 1]), "1 of 3 ids occur twice"),
        (torch.tensor([0, 1]), "give a matrix with one row for each id"),
        (torch.tensor([0, 1, 2**31]), "ids from 0 to 2³¹ − 1"),
    ],
)
def test_ids_that_do_not_fit_are_refused(ids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Miner().mine(Embeddings(ids, torch.ones(3, 2)), relations_of(torch.tensor([0, 0, 1])))
