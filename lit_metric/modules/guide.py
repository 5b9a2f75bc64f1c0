"""All items of a data module, encoded by another model."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import TextEncoder
from lit_metric.losses.gather import gather_ids, rank, world_size
from lit_metric.mining.texts import text_of_items


def encode_items(encoder: str, data: MetricDataModule, device: torch.device) -> Tensor:
    """``[N, g]`` float32 vectors of all items, by their global id, on ``device``.

    Every rank must call it: each encodes its share of the distinct texts, and all get the same vectors.

    Args:
        encoder: hub id or folder of the guide, which has its own tokenizer.
        data: after its ``setup``.
        device: where to encode.
    """
    # To load a model draws random numbers, for weights that it then replaces.
    with torch.random.fork_rng():
        guide = TextEncoder(encoder, freeze=True).to(device)
    texts = text_of_items(data.items, data.vocabulary, torch.arange(len(data.items)))
    distinct = list(dict.fromkeys(texts))
    shares = [distinct[first :: world_size()] for first in range(world_size())]
    vectors = gather_ids(torch.from_numpy(guide.encode(shares[rank()])).to(device))
    rows = {text: row for row, text in enumerate(text for share in shares for text in share)}
    return vectors[torch.tensor([rows[text] for text in texts], device=device)]
