"""Batches for encoding many items outside of training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_metric.data.batch import Batch, Collator
from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.tokens import Tokens

MAX_ITEMS = 4096


def chunks(items: Items, tokens: Tokens, ids: Tensor, max_tokens: int = 16384) -> list[Tensor]:
    """Cut ``ids`` into batches of items of similar size, longest first.

    A batch holds at most ``MAX_ITEMS`` items and about ``max_tokens`` tokens, or a single item. Where all
    distinct texts of the items fit together, as a vocabulary of tags does, only the number of items counts.

    Returns:
        int64 global ids, each of ``ids`` once.

    Raises:
        ValueError: if ``max_tokens`` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    if not len(ids):
        return []
    texts = items.texts.select(ids)
    lengths = tokens.lengths
    if int(lengths[texts.values.unique()].sum()) <= max_tokens:
        return list(ids.split(MAX_ITEMS))
    sizes = torch.zeros(len(ids), dtype=torch.int64).index_add_(0, texts.segment_ids, lengths[texts.values])
    order = sizes.argsort(descending=True, stable=True)
    ends = sizes[order].cumsum(0).tolist()
    cuts, used = [0], 0
    for place, end in enumerate(ends):
        full = end - used > max_tokens or place - cuts[-1] >= MAX_ITEMS
        if full and place > cuts[-1]:
            cuts.append(place)
            used = ends[place - 1]
    return [ids[order[start:stop]] for start, stop in zip(cuts, [*cuts[1:], len(ids)], strict=True)]


class ChunkDataset(Dataset[Batch]):
    """One batch per chunk, whose anchors are the chunk's items; there are no candidates.

    Args:
        collator: builds batches from ids.
        chunks: global ids, see :func:`chunks`.
    """

    def __init__(self, collator: Collator, chunks: list[Tensor]) -> None:
        self.collator = collator
        self.chunks = Ragged.from_lengths(
            torch.cat([torch.empty(0, dtype=torch.int64), *chunks]),
            torch.tensor([len(chunk) for chunk in chunks], dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Batch:
        return self.collator(self.chunks[index], torch.empty(0, dtype=torch.int64))
