"""Shares of an encoding, as files: what is taken, and what is refused with the reason."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_metric.mining.shares import Shares

VECTORS = torch.arange(12.0).view(4, 3)


def taken(
    shares: Shares, weights: str = "w", shape: tuple[int, int] = (4, 3), wait: float = 0.0
) -> Tensor | str:
    return shares.take(7, 1, weights, shape, time.monotonic() + wait)


def test_every_part_is_somebody_s_and_the_large_ones_are_spread() -> None:
    shares = Shares(Path(), 3)
    parts = list(range(8))
    assert [shares.of(machine, parts) for machine in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert shares.of(2, parts[:1]) == []


def test_a_share_comes_as_it_was_put_also_when_it_is_waited_for(tmp_path: Path) -> None:
    shares = Shares(tmp_path / "shares", 2)
    assert "is not there yet" in str(taken(shares))
    late = threading.Timer(0.3, shares.put, (7, 1, "w", VECTORS))
    late.start()
    found = taken(shares, wait=60)
    assert isinstance(found, Tensor)
    assert torch.equal(found, VECTORS)
    shares.put(7, 1, "w", torch.empty(0, 3))
    found = taken(shares, shape=(0, 3))
    assert isinstance(found, Tensor)
    assert found.shape == (0, 3)


def test_what_is_not_the_share_asked_for_is_refused(tmp_path: Path) -> None:
    shares = Shares(tmp_path, 2)
    shares.put(7, 1, "w", VECTORS)
    assert "other weights" in str(taken(shares, weights="v"))
    assert "vectors of [4, 3], not [5, 3]" in str(taken(shares, shape=(5, 3)))


@pytest.mark.parametrize(("damage", "said"), [("flip", "is damaged"), ("cut", "can't be read")])
def test_damage_is_found(tmp_path: Path, damage: str, said: str) -> None:
    shares = Shares(tmp_path, 2)
    shares.put(7, 1, "w", VECTORS)
    [path] = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-5])
    assert said in str(taken(shares))


def test_shares_of_refreshes_before_are_removed(tmp_path: Path) -> None:
    shares = Shares(tmp_path, 3)
    for number in (5, 7, 12):
        for machine in (1, 2):
            shares.put(number, machine, "w", VECTORS)
    shares.forget_before(7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{number:09d}-{machine}.safetensors" for number in (7, 12) for machine in (1, 2)
    ]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.store.MARGIN", 1 << 60)
    with pytest.raises(OSError, match="make room"):
        Shares(tmp_path, 2).put(7, 1, "w", VECTORS)
