"""Hard negatives for the batches that loader workers build, read from a folder of tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_metric.mining.draw import Draw, Moment, Pool
from lit_metric.mining.table import NegativeTable

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

_OPEN = 2


def negatives_of(
    table: NegativeTable,
    draw: Draw,
    count: int,
    anchor_ids: Tensor,
    relations: Relations,
    moment: tuple[int, int, int],
) -> Tensor:
    """``[A, count]`` int64 negatives of ``anchor_ids [A]`` at ``moment``, (seed, epoch, step); -1 for
    none."""
    if not len(anchor_ids):
        return torch.empty(0, count, dtype=torch.int64)
    return draw.pick(table.candidates(anchor_ids), count, Moment(*moment), Pool(table.pool, relations))


class TableNegatives:
    """Draws the negatives of a batch from the version of the table that the plan names.

    It may be sent to other processes. Each opens a version when it is first asked for it, and remembers the
    last two, so a switch from one version to the next happens at the batch that the plan says, however far
    ahead a worker runs.

    Args:
        root: folder of the versions.
        draw: which candidates are drawn.
        negatives: how many for each anchor.
        relations: obeyed by random negatives.
        corpus: fingerprint that the tables must have been mined for; None accepts any.
    """

    def __init__(
        self, root: str | Path, draw: Draw, negatives: int, relations: Relations, corpus: str | None = None
    ) -> None:
        self.root = str(root)
        self.draw = draw
        self.negatives = negatives
        self.relations = relations
        self.corpus = corpus
        self._tables: dict[int, NegativeTable] = {}

    def __call__(self, anchor_ids: Tensor, seed: int, epoch: int, step: int, version: int) -> Tensor:
        """``[A, negatives]`` int64 global ids, -1 for none; version 0 stands for no table: none at all.

        Raises:
            TableError: if the version is not there, unfinished, damaged or of another corpus.
            KeyError: if an anchor has no row in it.
        """
        if version == 0:
            return torch.full((len(anchor_ids), self.negatives), -1)
        table = self._table(version)
        return negatives_of(table, self.draw, self.negatives, anchor_ids, self.relations, (seed, epoch, step))

    def _table(self, version: int) -> NegativeTable:
        if version not in self._tables:
            table = NegativeTable.open(self.root, version, self.corpus)
            newest = dict(list(self._tables.items())[1 - _OPEN :])
            self._tables = {**newest, version: table}
        return self._tables[version]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}
