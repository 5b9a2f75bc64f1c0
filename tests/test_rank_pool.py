"""The processes that the tests of several ranks run in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed import RankFailed, RankPool


def fail_on_second() -> None:
    if dist.get_rank() == 1:
        raise KeyError("only here")


def test_the_pool_names_the_failing_rank_and_recovers(tmp_path: Path) -> None:
    with RankPool(2, tmp_path) as pool:
        with pytest.raises(RankFailed, match=r"(?s)on rank 1:.*KeyError: 'only here'"):
            pool.run(fail_on_second)
        assert pool.run(dist.get_world_size) == [2, 2]
        first = pool.run(torch.rand, 3)
        assert all(torch.equal(drawn, first[0]) for drawn in first + pool.run(torch.rand, 3))
