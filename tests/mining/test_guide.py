"""What a guide vetoes, against loops; its vectors and scores against the libraries."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from lit_metric.configurable import rebuilt, spec
from lit_metric.data import Items, LabelRelations
from lit_metric.encoders import TextEncoder
from lit_metric.index import Embeddings
from lit_metric.mining import (
    Candidates,
    CrossEncoderGuide,
    EncoderGuide,
    Guide,
    GuideFilter,
    Miner,
    PositiveScores,
    write_texts,
)
from tests.encoders.tokens import model_folder, word_tokenizer
from tests.mining.cases import blobs, relations_of
from tests.small import questions


class Known(Guide):
    """Scores out of a matrix."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self.scores[anchors, candidates]


def candidates_of(anchors: list[int], ids: list[list[int]]) -> Candidates:
    nothing = torch.zeros(len(anchors))
    return Candidates(
        torch.tensor(anchors),
        torch.tensor(ids),
        torch.zeros(len(ids), len(ids[0])),
        PositiveScores(*[nothing] * 3),
    )


def kept(rule: GuideFilter, candidates: Candidates, relations: LabelRelations) -> list[list[int]]:
    rule.prepare(Embeddings(torch.arange(len(relations)), torch.eye(len(relations)), "cosine"), relations)
    left = candidates.without(candidates.present & ~rule.keep(candidates))
    return [[one for one in row if one >= 0] for row in left.ids.tolist()]


def test_a_candidate_must_be_less_alike_than_the_positive() -> None:
    scores = torch.zeros(6, 6)
    scores[0] = torch.tensor([1.0, 0.75, 0.5, 0.625, 0.5, 0.25])  # positives 1 and 2: 0.75 and 0.5
    scores[5] = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, 1.0])  # no positive
    relations = relations_of(torch.tensor([0, 0, 0, 1, 1, 2]))
    candidates = candidates_of([0, 5], [[3, 4, 5, -1], [0, 3, -1, -1]])
    everything = [0, 3]
    for reference, margin, expected in [
        ("best", 0.0, [3, 4, 5]),
        ("mean", 0.0, [4, 5]),  # 0.625 is not below 0.625
        ("worst", 0.0, [5]),
        ("best", 0.25, [5]),  # 0.5 is not below 0.5
        ("worst", -0.25, [3, 4, 5]),
        ("mean", 0.5, []),
    ]:
        rule = GuideFilter(Known(scores), margin, reference)  # type: ignore[arg-type]
        assert kept(rule, candidates, relations) == [expected, everything]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_reference_scores_are_those_of_a_loop_over_so_many_positives(most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    labels[7] = 4
    scores, ids = torch.rand(60, 60, generator=generator), torch.arange(60)
    asked: list[tuple[int, int]] = []

    class Heard(Known):
        def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            asked.extend(zip(anchors.tolist(), candidates.tolist(), strict=True))
            return super().score(anchors, candidates)

    rule = GuideFilter(Heard(scores), positives=most)
    rule.prepare(Embeddings(ids, torch.eye(60), "cosine"), relations_of(labels))
    found = rule.positive_scores(ids)
    first, asked = asked, []
    rule.positive_scores(ids.flip(0))
    assert sorted(first) == sorted(asked)  # The same ones, whatever they are asked with.
    assert len({*first}) == len(first)
    for anchor in range(60):
        own = [float(scores[pair]) for pair in first if pair[0] == anchor]
        assert all(labels[one] == labels[anchor] and one != anchor for who, one in first if who == anchor)
        assert len(own) == min(most, int((labels == labels[anchor]).sum()) - 1)
        if own:
            assert float(found.best[anchor]) == max(own)
            assert float(found.worst[anchor]) == min(own)
            assert float(found.mean[anchor]) == pytest.approx(sum(own) / len(own))
        else:
            assert math.isnan(float(found.mean[anchor]))


@pytest.fixture
def texts(tmp_path: Path) -> tuple[list[str], str]:
    rows = [text for text, _ in questions(40, seed=0)]
    return rows, str(write_texts(*Items.encode([[text] for text in rows]), tmp_path))


def test_an_encoder_guides_by_the_cosine_of_its_vectors(tmp_path: Path, texts: tuple[list[str], str]) -> None:
    rows, path = texts
    folder = model_folder(tmp_path / "model")
    guide = rebuilt(spec(EncoderGuide(folder, texts=path)))
    before = torch.random.get_rng_state()
    guide.prepare(torch.tensor([30, 3, 17, 5]))
    assert torch.equal(torch.random.get_rng_state(), before)
    vectors = torch.from_numpy(TextEncoder(folder).encode(rows))
    expected = torch.nn.functional.cosine_similarity(vectors[[3, 30, 5]], vectors[[17, 3, 5]])
    torch.testing.assert_close(
        guide.score(torch.tensor([3, 30, 5]), torch.tensor([17, 3, 5])), expected, rtol=0, atol=1e-5
    )
    kept_vectors = guide._vectors
    guide.prepare(torch.tensor([3, 5, 17, 30]))
    assert guide._vectors is kept_vectors  # It is frozen, and encodes the same items once.
    others, theirs = Items.encode([[text] for text in reversed(rows)])
    guide = EncoderGuide(folder)
    pair = torch.tensor([3]), torch.tensor([17])
    for items, vocabulary, expected in (
        (others, theirs, (36, 22)),
        (*Items.encode([[t] for t in rows]), (3, 17)),
    ):
        guide.lend(str(write_texts(items, vocabulary, tmp_path)))
        guide.prepare(torch.tensor([3, 17]))
        cosine = torch.nn.functional.cosine_similarity(vectors[expected[0]], vectors[expected[1]], dim=0)
        assert float(guide.score(*pair)) == pytest.approx(float(cosine), abs=1e-5)


def test_a_cross_encoder_guides_by_its_scores(tmp_path: Path, texts: tuple[list[str], str]) -> None:
    rows, path = texts
    model_folder(tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model", num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "cross")
    word_tokenizer().save_pretrained(tmp_path / "cross")
    guide = rebuilt(spec(CrossEncoderGuide(str(tmp_path / "cross"), batch_size=2, device="cpu", texts=path)))
    found = guide.score(torch.tensor([0, 1, 7]), torch.tensor([3, 1, 2]))
    pairs = [(rows[0], rows[3]), (rows[1], rows[1]), (rows[7], rows[2])]
    expected = CrossEncoder(str(tmp_path / "cross"), device="cpu").predict(pairs)
    assert len({*expected.tolist()}) == 3
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    assert guide.score(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)).shape == (0,)
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "cross")
    with pytest.raises(ValueError, match="gives 3 scores for a pair"):
        CrossEncoderGuide(str(tmp_path / "cross"), device="cpu", texts=path).score(
            torch.tensor([0, 1]), torch.tensor([3, 1])
        )


def test_a_miner_is_kept_from_false_negatives() -> None:
    # True classes of 10; half of the labels are split off as classes of their own.
    vectors, truth = blobs(80, 8, spread=0.3)
    labels = truth + 8 * (torch.arange(80) % 2)
    relations = relations_of(labels)
    unit = torch.nn.functional.normalize(blobs(80, 8, spread=0.1)[0], dim=1)
    assert (truth == blobs(80, 8, spread=0.1)[1]).all()

    def false_negatives(miner: Miner) -> float:
        table = miner.mine(Embeddings(torch.arange(80), vectors), relations)
        found = torch.from_numpy(table.ids).long()
        same = truth[found.clamp(min=0)] == truth[torch.from_numpy(table.anchors).long()][:, None]
        return float(same[found >= 0].float().mean())

    rule = GuideFilter(Known(unit @ unit.T), margin=0.3)
    alone, guided = Miner(top_k=3, filters=[]), Miner(top_k=3, filters=[])
    guided.filters = [rule]
    guided.spec = dict  # type: ignore[method-assign]  # Its guide is a matrix, which no description holds.
    assert false_negatives(alone) > 0.9
    assert false_negatives(guided) == 0.0


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="positives=0"):
        GuideFilter(Known(torch.eye(2)), positives=0)
    with pytest.raises(ValueError, match="positive_score='median'"):
        GuideFilter(Known(torch.eye(2)), positive_score="median")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"call prepare\(\) first"):
        GuideFilter(Known(torch.eye(2))).positive_scores(torch.tensor([0]))
