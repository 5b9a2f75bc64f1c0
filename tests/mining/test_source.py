"""A switch from one table to the next reaches each batch that the plan says, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lit_metric.batching import PKPlanner, PlanDataset, PlanSampler
from lit_metric.data import Collator, Items, LabelRelations
from lit_metric.data.tokens import Tokens
from lit_metric.mining import NegativeTable, TableNegatives, TopK

ANCHORS, VERSIONS = 48, 4


def tables(root: Path) -> None:
    """Version ``v`` names for each of the anchors only the two items that are ``v``'s own."""
    rows = np.arange(ANCHORS, dtype=np.int32)
    for version in range(1, VERSIONS + 1):
        first = ANCHORS + 2 * (version - 1)
        ids = np.tile(np.array([first, first + 1], dtype=np.int32), (ANCHORS, 1))
        scores = np.full((ANCHORS, 2), 0.5, dtype=np.float16)
        positives = np.full((ANCHORS, 3), 0.9, dtype=np.float16)
        table = NegativeTable(rows, ids, scores, positives)
        assert table.save(root, corpus="c", weights="w", step=0, epoch=0) == version


def switch(epoch: int, step: int) -> int:
    """A new version in the middle of each epoch of four batches, and at once in the next."""
    return min(VERSIONS, 1 + (4 * epoch + step) // 3)


@pytest.mark.parametrize(
    ("workers", "persistent", "prefetch"),
    [(0, False, None), (2, False, 1), (2, True, 1), (2, False, 8), (2, True, 8)],
)
def test_each_batch_carries_the_negatives_of_its_version(
    tmp_path: Path, workers: int, persistent: bool, prefetch: int | None
) -> None:
    tables(tmp_path)
    items, vocabulary = Items.encode([[f"text {number}"] for number in range(ANCHORS + 2 * VERSIONS)])
    labels = torch.tensor([number % 6 for number in range(ANCHORS)] + [6] * 2 * VERSIONS)
    relations = LabelRelations(labels, [str(number) for number in range(7)], items.fingerprints)
    collator = Collator(items, Tokens.from_lists([[number] for number in range(len(vocabulary))]))
    source = TableNegatives(tmp_path, TopK(), 2, relations, "c")
    dataset = PlanDataset(PKPlanner(4, 3), torch.arange(ANCHORS), relations, collator, negatives=source)
    assert len(dataset) == 4
    epoch = 0
    loader = DataLoader(
        dataset,
        sampler=PlanSampler(4, position_fn=lambda: (epoch, 0), version_fn=switch),
        batch_size=None,
        num_workers=workers,
        persistent_workers=persistent,
        prefetch_factor=prefetch,
    )
    for epoch in range(3):
        batches = list(loader)
        assert len(batches) == 4
        for step, batch in enumerate(batches):
            mined = [item for item in batch.candidate_ids.tolist() if item >= ANCHORS]
            first = ANCHORS + 2 * (switch(epoch, step) - 1)
            assert mined == [first, first + 1]
