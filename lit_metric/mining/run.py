"""One pass of mining: what is proposed for each anchor, what is kept, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.mining.candidates import Candidates, PositiveScores
from lit_metric.mining.ceilings import Ceilings
from lit_metric.mining.filters import CeilingFilter, NegativeFilter
from lit_metric.mining.propose import BEYOND, EMPTY, KEPT, FilteredProposals, Proposer, fetch
from lit_metric.mining.sample import explain, sampled
from lit_metric.mining.table import half
from lit_metric.mining.vectors import Vectors

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations


@dataclass(eq=False)
class MiningRun:
    """One mining: judges proposals, keeps the candidates found, and adds up what became of the others."""

    ids: Tensor
    positives: PositiveScores
    filters: Sequence[NegativeFilter]
    width: int
    sample: int
    explained: list[dict[str, Any]] = field(default_factory=list)
    unseen: bool = False

    def __post_init__(self) -> None:
        names = [each.name for each in self.filters]
        self.names = [
            name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names)
        ]
        self.found = torch.full((len(self.ids), self.width), -1, dtype=torch.int32)
        self.scores = np.full((len(self.ids), self.width), -np.inf, dtype=np.float16)
        self.dropped = torch.zeros(len(self.filters), dtype=torch.int64)
        self.examined = 0
        self.mined = (~self.positives.best.isnan()).nonzero()[:, 0]
        self.shown = torch.zeros(len(self.ids), dtype=torch.bool)
        self.shown[self.mined[sampled(self.ids[self.mined], self.sample)]] = True

    def judge(self, rows: Tensor, found: Tensor, scores: Tensor) -> Tensor:
        candidates = Candidates(self.ids[rows], found, scores, self.positives.select(rows))
        verdicts = torch.full(found.shape, KEPT, dtype=torch.int8).masked_fill(found < 0, EMPTY)
        for number, each in enumerate(self.filters, start=1):
            dropped = candidates.present & ~each.keep(candidates)
            verdicts.masked_fill_(dropped, number)
            candidates = candidates.without(dropped)
        return verdicts

    def search(
        self, proposer: Proposer, vectors: Vectors, relations: Relations, limit: int, corpus: int
    ) -> None:
        """Find candidates for all, among ``limit`` proposals at most out of ``corpus``, and explain a few."""
        by_score = _leading(self.filters[1:])
        ceilings = Ceilings(self.ids, self._ceilings(by_score)) if by_score else None
        allowed = proposer.excluding(relations, ceilings)
        self.unseen = allowed is not proposer
        # Where nothing is left to be dropped afterwards, no more are needed than are wanted.
        exactly = self.unseen and len(by_score) == len(self.filters) - 1
        fetched = partial(fetch, vectors=vectors, ids=self.ids, judge=self.judge, wanted=self.width)
        for part, judged in fetched(
            allowed, rows=self.mined, limit=limit, first=self.width if exactly else None
        ):
            self.take(part, judged)
            if not self.unseen:
                self.explain(part, judged, relations)
        if self.unseen:
            if ceilings is not None:
                dropped = ceilings.dropped.sum(0)
                self.dropped[1 : 1 + len(by_score)] += dropped
                self.examined += int(dropped.sum())
            # To people, what the relations exclude is shown, too.
            shown = self.shown.nonzero()[:, 0]
            for part, judged in fetched(proposer, rows=shown, limit=corpus):
                self.explain(part, judged, relations)

    def _ceilings(self, filters: Sequence[CeilingFilter]) -> Tensor:
        """``[A, F]`` of these filters."""
        return torch.stack([each.ceiling(self.positives) for each in filters], dim=1)

    def take(self, rows: Tensor, judged: FilteredProposals) -> None:
        ids, scores = judged.kept(self.width)
        # A proposer need not rank; a table does.
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self.found[rows], self.scores[rows.numpy()] = ids.gather(1, order).int(), half(scores)
        self.examined += int(((judged.verdicts != EMPTY) & (judged.verdicts != BEYOND)).sum())
        for number in range(len(self.filters)):
            self.dropped[number] += (judged.verdicts == number + 1).sum()

    def explain(self, rows: Tensor, judged: FilteredProposals, relations: Relations) -> None:
        for place in self.shown[rows].nonzero()[:, 0].tolist():
            row = rows[place : place + 1]
            self.explained.append(
                explain(
                    int(self.ids[row]),
                    judged,
                    place,
                    self.positives.select(row),
                    self.names,
                    relations,
                )
            )

    def report(self) -> dict[str, float]:
        count = (self.found[self.mined] >= 0).sum(1)
        shares = (self.dropped / max(self.examined, 1)).tolist()
        rejected = dict(zip(self.names, shares, strict=True))
        if self.unseen:
            del rejected[self.names[0]]
        mined = max(len(count), 1)
        return {
            "unpaired": 1 - len(count) / len(self.ids),
            "candidates": int(count.sum()) / mined,
            "examined": self.examined / mined,
            "short": int((count < self.width).sum()) / mined,
            "without": int((count == 0).sum()) / mined,
            **{f"rejected/{name}": share for name, share in rejected.items()},
        }


def _leading(filters: Sequence[NegativeFilter]) -> list[CeilingFilter]:
    """The first filters, as far as they judge by the score alone. One behind another kind can't come first,
    as a rank counts what the filters before it kept."""
    found: list[CeilingFilter] = []
    for each in filters:
        # One that keeps by a rule of its own is asked about each candidate.
        if not isinstance(each, CeilingFilter) or type(each).keep is not CeilingFilter.keep:
            break
        found.append(each)
    return found
