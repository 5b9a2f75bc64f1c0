"""A frozen corpus as candidates: the live nearest by a loop, all of it, two ranks, and a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_metric import MetricDataModule, MetricLearner, TextEncoder
from lit_metric.batching import PairPlanner
from lit_metric.data import Pairs, Ragged
from lit_metric.encoders import ComposedPooling
from lit_metric.losses import (
    DensePairs,
    FrozenCorpus,
    InfoNCELoss,
    LossContext,
    gather_ids,
    gather_with_grad,
    rank,
    world_size,
)
from tests.distributed import RankPool
from tests.losses.cases import cosines
from tests.small import Small, Watch, questions, trainer, write_csv

CORPUS = torch.tensor([1, 3, 4, 6, 8, 9])


def vectors() -> Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


def bank(top_k: int | None) -> FrozenCorpus:
    made = FrozenCorpus("a folder", top_k)
    made.setup(LossContext(4, corpus=CORPUS.flip(0), encode=lambda _, ids: vectors()[ids]))
    return made


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_nearest_of_each_anchor_now(top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, anchors = bank(top_k), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        scores = cosines(anchors, vectors()[CORPUS])
        nearest = {int(CORPUS[place]) for row in scores for place in row.argsort(descending=True)[:top_k]}
        found, ids = corpus.extend(anchors, torch.tensor([1]))
        assert ids.tolist() == sorted(nearest)
        torch.testing.assert_close(found, torch.nn.functional.normalize(vectors()[ids], dim=1))
        anchors = anchors.roll(1, 1)  # other anchors at the next step, other neighbours
        monkeypatch.setattr("lit_metric.losses.frozen_corpus.BLOCK_SCORES", 6)  # one anchor at a time


@pytest.mark.parametrize("top_k", [None, 6, 100])
def test_the_whole_corpus_and_no_item_twice(top_k: int | None) -> None:
    anchors = torch.randn(2, 4)
    assert bank(top_k).extend(anchors, torch.tensor([3]))[1].tolist() == CORPUS.tolist()
    candidates, ids = bank(top_k).append(anchors, torch.randn(2, 4, requires_grad=True), torch.tensor([3, 5]))
    assert ids.tolist() == [3, 5, 1, 4, 6, 8, 9]
    assert candidates.shape == (7, 4)


def share_of_ranks() -> list[int]:
    own = vectors()[10:].split([2, 0])[rank()]
    return bank(1).extend(own, torch.tensor([0]))[1].tolist()


def test_ranks_get_the_same_candidates(pool: RankPool) -> None:
    alone = bank(1).extend(vectors()[10:], torch.tensor([0]))[1].tolist()
    assert pool.run(share_of_ranks) == [alone, alone]


def test_what_it_needs() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1, or null for the whole corpus, not 0"):
        FrozenCorpus("a folder", 0)
    with pytest.raises(ValueError, match="has no vectors yet: call setup"):
        FrozenCorpus("a folder").extend(torch.ones(1, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match="needs corpus and encode"):
        FrozenCorpus("a folder").setup(LossContext(4))
    with pytest.raises(ValueError, match="have 4 components, and the model's have 5"):
        FrozenCorpus("a folder").setup(LossContext(5, corpus=CORPUS, encode=lambda _, ids: vectors()[ids]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("top_k", [2, None])
def test_a_run_meets_documents_that_are_in_no_batch(small: Small, tmp_path: Path, top_k: int | None) -> None:
    rows = questions(24, seed=5)
    couples = [(one, other) for (one, _), (other, _) in zip(rows[:12], rows[12:], strict=True)]
    path = write_csv(tmp_path / "pairs.csv", couples, ("anchor", "positive"))
    data = MetricDataModule(
        train=path,
        validation=write_csv(tmp_path / "more.csv", [rows[0], rows[1]], ("anchor", "positive")),
        supervision=Pairs("anchor", "positive", symmetric=False),
        planner=PairPlanner(3),
        cache_dir=tmp_path / "c",
    )
    folder = small / "backbone"
    corpus, watch = FrozenCorpus(folder, top_k), Watch()
    seen: list[int] = []
    extend = corpus.extend

    def noted(anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
        found = extend(anchors, ids, task)
        seen.append(len(found[1]))
        return found

    corpus.extend = noted  # type: ignore[method-assign]
    learner = MetricLearner(TextEncoder(folder, dropout=0.0), InfoNCELoss(0.5), lr=1e-12, memory=corpus)
    trainer(tmp_path, watch, max_steps=2).fit(learner, data)
    documents = len(data.dataset.splits[data.dataset.corpus_of("train")])
    assert documents == len({other for _, other in couples})
    assert all(count == documents if top_k is None else 2 <= count <= 6 for count in seen)
    if top_k is None:  # the first loss, of three anchors against all documents
        ids = torch.tensor(watch.anchors[0])
        texts = [data.texts_of(int(item))[0] for item in ids]
        own = torch.from_numpy(learner.encode(texts))
        others = torch.from_numpy(learner.encode(sorted({other for _, other in couples})))
        logits = own @ others.T / 0.5
        answers = [sorted({other for _, other in couples}).index(dict(couples)[text]) for text in texts]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answers))
        assert watch.losses[0] == pytest.approx(expected.item(), rel=1e-4)


TARGETS = torch.tensor([2, 5, 8, 4, 9])
"""Of each of five queries."""


def composed_gradient() -> tuple[float, list[Tensor]]:
    """The loss and the gradient of a composer, for this rank's share of five queries."""
    generator = torch.Generator().manual_seed(3)
    pooling = ComposedPooling(hidden=3, dimension=4).double()
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    texts = torch.randn(5, 2, 4, generator=generator).double()
    shares = [5] if world_size() == 1 else [4, 1]
    own = torch.arange(5).split(shares)[rank()]
    queries = pooling(Ragged.from_lengths(texts[own].flatten(0, 1), torch.full([len(own)], 2)))
    corpus = FrozenCorpus("a folder", None)
    known = torch.randn(12, 4, generator=generator).double()
    corpus.setup(LossContext(4, corpus=torch.arange(12), encode=lambda _, ids: known[ids]))
    in_batch, ids = gather_with_grad(known[TARGETS[own]]), gather_ids(TARGETS[own])
    candidates, ids = corpus.append(queries, in_batch, ids)
    positive = ids == TARGETS[own][:, None]
    pairs = DensePairs(positive, ~positive)
    loss = InfoNCELoss(0.3).on_pairs(queries, candidates, pairs)["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in pooling.parameters()]
    assert all(each is not None for each in gradients)
    return loss.item(), gradients  # type: ignore[return-value]


def test_composed_queries_on_two_ranks_learn_as_on_one(pool: RankPool) -> None:
    loss, alone = composed_gradient()
    several = pool.run(composed_gradient)
    assert sum(each for each, _ in several) / 2 == pytest.approx(loss, rel=1e-9)
    for number, expected in enumerate(alone):  # DDP takes the mean
        found = torch.stack([gradients[number] for _, gradients in several]).mean(0)
        torch.testing.assert_close(found, expected)


def test_a_composer_learns_more_from_all_targets_than_from_those_of_a_small_batch() -> None:
    """3,000 targets: 150 things in 20 colours. The word for a colour is a turned copy of what it adds to a
    thing. A query is a thing of one colour and the word for another; things of the test were never seen."""
    torch.manual_seed(0)
    things, words, turn = torch.randn(150, 48), torch.randn(20, 48), torch.linalg.qr(torch.randn(48, 48))[0]
    things, words = (torch.nn.functional.normalize(each, dim=1) for each in (things, words))
    targets = torch.nn.functional.normalize(things[:, None] + 0.7 * (words @ turn), dim=2).flatten(0, 1)

    def draw(count: int, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """References, words and targets."""
        thing, old, new = (torch.randint(*ends, (count,)) for ends in ((first, last), (0, 20), (0, 20)))
        return thing * 20 + old, new, thing * 20 + new

    def composed(pooling: ComposedPooling, references: Tensor, edits: Tensor) -> Tensor:
        texts = torch.stack([targets[references], words[edits]], dim=1).flatten(0, 1)
        return pooling(Ragged.from_lengths(texts, torch.full((len(references),), 2)))

    test, hits = draw(500, 120, 150), {}
    for whole in (False, True):
        torch.manual_seed(1)
        corpus = FrozenCorpus("a folder", None)
        corpus.setup(LossContext(48, corpus=torch.arange(3000), encode=lambda _, ids: targets[ids]))
        pooling, loss = ComposedPooling(dimension=48), InfoNCELoss(0.05)
        optimizer = torch.optim.AdamW(pooling.parameters(), lr=3e-3)
        for _ in range(60):
            references, edits, ids = draw(4, 0, 120)
            queries, candidates, own = composed(pooling, references, edits), targets[ids], ids
            if whole:
                candidates, ids = corpus.append(queries, candidates, ids)
            pairs = DensePairs(ids == own[:, None], ids != own[:, None])
            optimizer.zero_grad()
            loss.on_pairs(queries, candidates, pairs)["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            scores = composed(pooling, *test[:2]) @ targets.T
        better = (scores > scores.gather(1, test[2][:, None])).sum(dim=1)
        hits[whole] = float((better < 10).float().mean())
    assert hits[True] > hits[False] + 0.3
