"""The processes of a command that runs on several devices; Lightning starts and connects them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from lit_metric.cli import RANKS

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""Processes wait this long for the slowest."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a command.

    Args:
        device: of this process.
        rank: of this process, over all machines.
        world_size: the number of processes.
        fabric: connects them; None if there is one process.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    fabric: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prepares and finishes."""
        return self.rank == 0

    def first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns in the first process; the others wait for it. All must call this.

        If it raises there, that process raises and the others end.
        """
        result, error = None, None
        if self.is_first:
            try:
                result = action()
            except Exception as raised:
                error = raised
        if self.fabric is not None:
            result, failed = self.fabric.broadcast((result, error is not None))
            if failed and not self.is_first:
                raise SystemExit(2)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.fabric is not None:
            self.fabric.barrier()


def start_ranks(accelerator: str = "auto", devices: int = 1, num_nodes: int = 1) -> Ranks:
    """Start the processes, or join those that torchrun or SLURM has started.

    Args:
        accelerator: of Lightning; ``auto`` takes a GPU if there is one.
        devices: processes on each machine; -1 for all devices.
        num_nodes: machines.
    """
    alone = devices == 1 and num_nodes == 1 and not any(name in os.environ for name in RANKS)
    if alone and accelerator in ("auto", "cpu"):
        on_gpu = accelerator == "auto" and torch.cuda.is_available()
        return Ranks(torch.device("cuda" if on_gpu else "cpu"))
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    fabric = Fabric(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=DDPStrategy(timeout=PATIENCE)
    )
    fabric.launch()
    return Ranks(fabric.device, fabric.global_rank, fabric.world_size, fabric)
