"""The vectors of items before and after, each encoded once, and what an evaluation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_metric.data import DataError
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.base import Precision
from lit_metric.evaluation import Measured, encode_split, evaluation_of
from lit_metric.index import Embeddings

ROWS = 4096
"""Vectors that an evaluation is given at once."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Vectors of some items.

    Args:
        ids: ``[M]`` int64, rising global ids.
        vectors: ``[M, d]`` float32, not normalised.
    """

    ids: Tensor
    vectors: Tensor

    def of(self, ids: Tensor) -> Tensor:
        """``[n, d]`` of the items ``ids [n]``, all of which were encoded."""
        return self.vectors[torch.searchsorted(self.ids, ids)]


def check_kind(encoder: Encoder, data: MetricDataModule) -> None:
    """Refuse data of another kind than the encoder takes.

    Raises:
        DataError: names both.
    """
    wanted = "set" if isinstance(encoder, SetEncoder) else "text"
    if data.items.kind != wanted and not isinstance(encoder, TwoTowerEncoder):
        raise DataError(f"the data has items of kind {data.items.kind!r}, but this model encodes {wanted!r}")


def encode_once(
    encoder: Encoder,
    data: MetricDataModule,
    groups: Sequence[Tensor],
    precision: Precision = "float32",
    shown: str | None = None,
    known: Embeddings | None = None,
) -> Encoded:
    """Encode the items of some groups, each item once.

    A group that is a split has the same batches as in an evaluation, so the vectors are the same.

    Args:
        encoder: in evaluation mode while it encodes.
        data: is prepared with the encoder's tokenizer.
        groups: ids of each.
        precision: of matrix products.
        shown: the title of a bar, None for none.
        known: vectors of some items by the same encoder, which aren't encoded again.

    Raises:
        DataError: when the data is of another kind than the encoder takes.
    """
    check_kind(encoder, data)
    data.prepare(encoder.tokenizer, progress=shown is not None)
    everything = torch.cat([*groups, torch.empty(0, dtype=torch.int64)]).unique()
    vectors = torch.empty(len(everything), encoder.dimension)
    half: AbstractContextManager[Any] = nullcontext()
    if precision != "float32":
        half = torch.autocast(encoder.device.type, getattr(torch, precision))
    done = torch.empty(0, dtype=torch.int64)
    if known is not None:
        done = everything[torch.isin(everything, known.ids)]
        kept = torch.as_tensor(known.values)  # as they are, since a page shows what isn't finite, too
        vectors[torch.searchsorted(everything, done)] = kept[known.rows(done)]
    for group in groups:
        left = group if not len(done) else group[~torch.isin(group, done)]
        if not len(left):
            continue
        with half:
            for part, ids in encode_split(encoder, data, left, shown=shown):
                vectors[torch.searchsorted(everything, ids.cpu())] = part.float().cpu()
        done = torch.cat([done, left])
    return Encoded(everything, vectors)


def _alone() -> bool:
    return False


def measure_encoded(
    encoded: Encoded,
    data: MetricDataModule,
    split: str,
    options: dict[str, Any],
    device: torch.device | str = "cpu",
    shown: bool = False,
) -> Measured:
    """What the evaluation of a split finds for vectors that are there already.

    Args:
        encoded: with all items of the split and of what it searches.
        data: the data.
        split: of the queries.
        options: of :class:`~lit_metric.evaluation.Evaluation`.
        device: where neighbours are searched.
        shown: whether to tell of long work.
    """
    evaluation = evaluation_of(data, split, **options).to(device)
    for part in evaluation.modules():
        if isinstance(part, Metric):  # after a fit of several ranks, the others don't answer any more
            part.distributed_available_fn = _alone
    for role, name in data.roles(split).items():
        for ids in data.splits[name].split(ROWS):
            evaluation.update(encoded.of(ids).to(device), ids.to(device), role)
    with stage("searching neighbours", shown):
        return evaluation.measure()
