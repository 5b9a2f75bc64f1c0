"""Items without a label in whole runs: negatives where a miner's filters let them pass, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric import MetricDataModule, Miner, Refresh
from lit_metric.data import Labels
from lit_metric.mining import NegativeFilter, RelativeMargin, UniformWindow, WithRandom
from tests.small import Small, Watch, questions, trainer, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")

LABELLED, UNLABELLED = 48, 40


def data(small: Small, root: Path, **options: Any) -> MetricDataModule:
    """Questions of which the last 40 have no label, and among those three that have one elsewhere."""
    rows = questions(LABELLED, seed=0)
    rest = [(text, "") for text, _ in [*rows[:3], *questions(UNLABELLED - 3, seed=7)]]
    source = write_csv(root / "train.csv", [*rows, *rest])
    supervision = Labels("text", label="label", unlabelled="negatives_if_mined")
    given = {"train": source, "validation": small / "test.csv", "test": None, "supervision": supervision}
    given["refresh"] = Refresh("never")
    return small.data(**{**given, **options})


def fit(small: Small, root: Path, **options: Any) -> tuple[MetricDataModule, Watch, Tensor]:
    """Train for two epochs; the data, what was met, and which items have no label."""
    content, watch = data(small, root, **options), Watch()
    trainer(root / "run", watch).fit(small.learner(), content)
    unlabelled = (content.relations.labels < 0).nonzero()[:, 0]  # type: ignore[attr-defined]
    assert len(unlabelled) == UNLABELLED
    return content, watch, unlabelled


def met(watch: Watch, items: Tensor) -> set[int]:
    """Those of ``items`` that were candidates in some batch."""
    return {each for batch in watch.candidates for each in batch} & set(items.tolist())


def test_without_a_miner_they_are_in_no_batch(small: Small, tmp_path: Path) -> None:
    _, watch, unlabelled = fit(small, tmp_path)
    assert met(watch, unlabelled) == set()
    assert not {each for batch in watch.anchors for each in batch} & set(unlabelled.tolist())


@pytest.mark.parametrize("share", [None, 0.95, 0.5])
def test_a_miner_proposes_those_that_its_filters_let_pass(
    small: Small, tmp_path: Path, share: float | None
) -> None:
    filters: list[NegativeFilter] = [] if share is None else [RelativeMargin(1 - share)]
    miner = Miner(top_k=30, negatives=4, filters=filters, draw=UniformWindow(0))
    content, watch, unlabelled = fit(small, tmp_path, miner=miner)
    ids = content.splits["train"]
    texts = [content.texts_of(item)[0] for item in ids.tolist()]
    vectors = small.learner().encoder.encode(texts)
    similar = np.asarray(vectors @ vectors.T, dtype=np.float64)
    labels = content.relations.labels[ids].tolist()  # type: ignore[attr-defined]
    known = {text for text, label in zip(texts, labels, strict=True) if label >= 0}
    assert content.refresher is not None
    table = content.refresher.task.open(1)
    proposed = 0
    for row, anchor in enumerate(ids.tolist()):
        found = table.candidates(torch.tensor([anchor])).ids[0]
        found = set(found[found >= 0].tolist())
        if labels[row] < 0:
            assert found == set()
            continue
        positive = [c for c in range(len(ids)) if c != row and labels[c] == labels[row]]
        ceiling = np.inf if share is None else share * similar[row, positive].mean()
        safe = {
            int(ids[c])
            for c in range(len(ids))
            if similar[row, c] < ceiling
            and (labels[c] != labels[row] if labels[c] >= 0 else texts[c] not in known)
        }
        assert found <= safe
        assert len(found) == min(30, len(safe))
        proposed += len(found & set(unlabelled.tolist()))
    assert (proposed > 100) == (share != 0.5)  # all are more alike than half of what positives are
    assert (len(met(watch, unlabelled)) > 15) == (share != 0.5)
    assert not {each for batch in watch.anchors for each in batch} & set(unlabelled.tolist())


def test_those_that_were_mined_are_negatives_of_the_anchors_that_they_were_mined_for(
    small: Small, tmp_path: Path
) -> None:
    miner = Miner(top_k=30, negatives=4, filters=[], draw=UniformWindow(0))
    content, watch, unlabelled = fit(small, tmp_path, miner=miner)
    labels = content.relations.labels.tolist()  # type: ignore[attr-defined]
    anchors, candidates = watch.anchors[0], watch.candidates[0]
    assert set(candidates) & set(unlabelled.tolist())
    assert content.refresher is not None
    table = content.refresher.task.open(1)
    drawn = table.draw(miner.draw, 4, torch.tensor(anchors), content.relations, content.seed, 0, 0).tolist()
    texts = [[content.texts_of(item)[0] for item in items] for items in (anchors, candidates)]
    encoder = small.learner().encoder
    powers = np.exp(encoder.encode(texts[0]) @ encoder.encode(texts[1]).T / 0.2)
    of_anchors = []
    for row, anchor in enumerate(anchors):
        same = [labels[each] == labels[anchor] for each in candidates]
        positives = [c for c, each in enumerate(candidates) if same[c] and each != anchor]
        pushing = [
            c
            for c, each in enumerate(candidates)
            if (each in drawn[row] if labels[each] < 0 else not same[c])
        ]
        pushed = sum(powers[row, c] for c in pushing)
        of_anchors.append(np.mean([-np.log(powers[row, c] / (powers[row, c] + pushed)) for c in positives]))
    assert watch.losses[0] == pytest.approx(np.mean(of_anchors), rel=1e-5)
    # Each was drawn for some, and not for all.
    counts = [sum(each in row for row in drawn) for each in candidates if labels[each] < 0]
    assert 0 < min(counts) <= max(counts) < len(anchors)


def test_what_is_drawn_at_random_passes_no_filter_and_has_labels(small: Small, tmp_path: Path) -> None:
    miner = Miner(top_k=5, negatives=6, draw=WithRandom(share=1.0))
    _, watch, unlabelled = fit(small, tmp_path, miner=miner)
    assert max(map(len, watch.candidates)) > 12  # random ones were added
    assert met(watch, unlabelled) == set()


def test_they_neither_vote_nor_are_relevant(small: Small, tmp_path: Path) -> None:
    from_file = data(small, tmp_path, validation_corpus="train")
    plain = Labels("text", label="label", unlabelled="ignore")
    without = data(small, tmp_path, validation_corpus="train", supervision=plain)
    results = []
    for content in (from_file, without):
        run = trainer(tmp_path / "run")
        run.validate(small.learner(), content, verbose=False)
        results.append({name: float(value) for name, value in run.callback_metrics.items()})
    votes = {name: value for name, value in results[0].items() if "knn" in name}
    assert len(votes) > 4
    assert votes == {name: value for name, value in results[1].items() if "knn" in name}
    assert results[0]["val/hit_rate@1"] <= results[1]["val/hit_rate@1"]
    assert results[0]["val/mrr"] < results[1]["val/mrr"]  # they are found, and are none of those looked for
