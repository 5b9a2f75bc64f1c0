"""Training with a guide."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lit_metric import TextEncoder
from lit_metric.data import Items
from lit_metric.losses import GuidedLoss, InfoNCELoss, Loss, SumLoss
from lit_metric.modules.tasks import encode_items
from tests.distributed import RankPool
from tests.small import Small, Watch, heard, questions, trainer


def losses_with(small: Small, folder: Path, loss: Loss) -> list[float]:
    watch = Watch()
    trainer(folder, watch, max_epochs=1).fit(small.learner(loss), small.data(seed=0))
    return watch.losses


def test_a_guide_leaves_out_what_it_finds_alike(small: Small, tmp_path: Path) -> None:
    guide = small / "backbone"
    plain = losses_with(small, tmp_path, InfoNCELoss(0.2))
    everything = GuidedLoss(InfoNCELoss(0.2), guide, threshold=1.1)
    assert losses_with(small, tmp_path, everything) == plain
    nothing = GuidedLoss(InfoNCELoss(0.2), guide, threshold=-1.1)
    assert losses_with(small, tmp_path, nothing) == [0.0] * len(plain)
    nested = GuidedLoss(InfoNCELoss(0.2), guide, threshold=None, margin=0.0)
    some = losses_with(small, tmp_path, SumLoss({"guided": nested}))
    assert len(some) == len(plain)
    assert 0 < some[0] < plain[0]


def test_the_guide_knows_every_item_by_its_id(small: Small, tmp_path: Path) -> None:
    loss = GuidedLoss(InfoNCELoss(0.2), small / "backbone")
    data = small.data(seed=0)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(small.learner(loss), data)
    assert loss.vectors is not None
    encoder = TextEncoder(small / "backbone")
    for item in (0, 5, len(data.items) - 1):
        vector = torch.from_numpy(encoder.encode(data.texts_of(item)))[0]
        torch.testing.assert_close(loss.vectors[item], vector / vector.norm(), rtol=0, atol=1e-5)


def shared_work(folder: str, texts: list[str]) -> tuple[list[str], Tensor]:
    """What this process encodes, and the vectors that it gets."""
    items, vocabulary = Items.encode([[text] for text in texts])
    asked: list[str] = []

    with patch("lit_metric.encoders.text.TextEncoder", heard(asked)):
        data = SimpleNamespace(items=items, vocabulary=vocabulary)
        return asked, encode_items(folder, data=data, device=torch.device("cpu"))  # type: ignore[arg-type]


def test_ranks_share_the_encoding_and_have_the_same_vectors(small: Small, pool: RankPool) -> None:
    for count in (11, 1):
        texts = [text for text, _ in questions(count, seed=0)]
        texts += texts[:3]  # Copies are encoded once, or rounding would tell them apart.
        asked, alone = shared_work(small / "backbone", texts)
        assert asked == texts[:count]
        (first, vectors), (second, theirs) = pool.run(shared_work, small / "backbone", texts)
        assert (len(first), len(second)) == ((count + 1) // 2, count // 2)
        assert sorted(first + second) == sorted(texts[:count])
        assert torch.equal(vectors, theirs)
        assert torch.equal(vectors[: len(texts) - count], vectors[count:])
        torch.testing.assert_close(vectors, alone, rtol=0, atol=1e-6)
        encoder = TextEncoder(small / "backbone")
        by_one = [torch.from_numpy(encoder.encode([text]))[0] for text in texts]
        torch.testing.assert_close(vectors, torch.stack(by_one), rtol=0, atol=1e-5)


def test_only_the_items_that_are_asked_for_are_encoded(small: Small) -> None:
    texts = [text for text, _ in questions(6, seed=1)]
    items, vocabulary = Items.encode([[text] for text in texts])
    data: Any = SimpleNamespace(items=items, vocabulary=vocabulary)
    asked: list[str] = []

    with patch("lit_metric.encoders.text.TextEncoder", heard(asked)):
        ids = torch.tensor([4, 1])
        found = encode_items(small / "backbone", ids, data=data, device=torch.device("cpu"))
    assert asked == [texts[4], texts[1]]
    expected = torch.from_numpy(TextEncoder(small / "backbone").encode([texts[4], texts[1]]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
