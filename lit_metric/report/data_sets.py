"""The data sets of a report: one, or those of a mixture, each in ids of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_metric.data.evaluated import EvaluationView


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of those of a report.

    Args:
        name: of a data set in a mixture, "" of the only one.
        data: in ids of its own.
        start: its first global id; the others follow.
    """

    name: str
    data: EvaluationView
    start: int

    def mine(self, ids: Tensor) -> Tensor:
        """``[n]`` bool, which of the global ``ids [n]`` are of this data set."""
        return (ids >= self.start) & (ids < self.start + len(self.data.relations))


def data_sets(data: EvaluationView) -> list[DataSet]:
    """The data sets of a mixture, or the only one."""
    if not data.parts:
        return [DataSet("", data, 0)]
    starts = itertools.accumulate((len(part.relations) for part in data.parts.values()), initial=0)
    return [
        DataSet(name, part, start) for (name, part), start in zip(data.parts.items(), starts, strict=False)
    ]


def data_set_of(data: EvaluationView, ids: Tensor) -> Tensor:
    """``[n]`` int64, the number of the data set of each of the global ``ids [n]``, by :func:`data_sets`."""
    starts = torch.tensor([view.start for view in data_sets(data)])
    return torch.searchsorted(starts, ids, right=True) - 1
