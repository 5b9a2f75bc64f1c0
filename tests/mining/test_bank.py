"""The latest vector of each item, from any rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_metric.mining.bank import Bank
from lit_metric.mining.snapshot import SnapshotError

IDS = torch.tensor([2, 4, 5, 9])


def test_the_latest_vector_of_any_rank_is_taken(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    banks = [Bank(tmp_path / f"rank{rank}", IDS, 3, fresh=True) for rank in range(2)]
    expected: dict[int, tuple[int, int, list[float]]] = {}
    for step in range(4):
        for rank, bank in enumerate(banks):
            ids = torch.randperm(10, generator=generator)[:3]
            vectors = torch.rand(3, 3, generator=generator)
            bank.put(ids, vectors, step)
            for item, vector in zip(ids.tolist(), vectors.tolist(), strict=True):
                if item in IDS.tolist() and (step, -rank) > expected.get(item, (-1, 0, []))[:2]:
                    expected[item] = step, -rank, vector
    merged = Bank(tmp_path / "merged", IDS, 3, fresh=True)
    merged.merge(banks)
    again = Bank(tmp_path / "merged", IDS, 3)  # as another process reads it
    assert 1 < len(expected) <= 4
    for row, item in enumerate(IDS.tolist()):
        step, _, vector = expected.get(item, (-1, 0, [0.0] * 3))
        assert again.steps[row] == step
        assert again.vectors[row].tolist() == vector
    stale = [row for row, item in enumerate(IDS.tolist()) if expected.get(item, (-1,))[0] < 3]
    assert again.stale(3).tolist() == stale


def test_one_bank_is_copied_whole(tmp_path: Path) -> None:
    bank, copy = (Bank(tmp_path / name, IDS, 2, fresh=True) for name in ("bank", "copy"))
    bank.put(torch.tensor([9, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16), step=0)
    copy.merge([bank])
    bank.put(torch.tensor([9]), torch.zeros(1, 2), step=1)
    assert copy.vectors.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert copy.steps.tolist() == [-1, 0, -1, 0]


def test_files_of_another_size_are_refused(tmp_path: Path) -> None:
    Bank(tmp_path / "bank", IDS, 3, fresh=True)
    with pytest.raises(SnapshotError, match="is not the bank of 4 vectors of 2 components"):
        Bank(tmp_path / "bank", IDS, 2)
    with pytest.raises(SnapshotError, match="is not the bank"):
        Bank(tmp_path / "none", IDS, 2)
