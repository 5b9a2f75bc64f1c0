"""Processes that train together agree on what rank zero knows, apart from their training's own traffic."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

MARGIN_S = 60.0


class Ranks:
    """A group of its own over gloo, so that waiting for a table never counts against the collectives of
    training, whose time-out is another.

    To be made by all ranks at the same point of their programs. With one process it does nothing.

    Args:
        seconds: how long rank zero may keep the others waiting.
    """

    def __init__(self, seconds: float) -> None:
        self.group: dist.ProcessGroup | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            limit = timedelta(seconds=seconds + MARGIN_S)
            self.group = dist.new_group(backend="gloo", timeout=limit)

    def agree(self, number: int) -> int:
        """Rank zero's ``number``, on all ranks."""
        if self.group is None:
            return number
        told = torch.tensor([number])
        dist.broadcast(told, src=0, group=self.group)
        return int(told)

    def meet(self) -> None:
        """Go on when all have come here."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def part(self) -> None:
        """End the group."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)
        self.group = None
