"""What a guide makes of the items of a data module."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import TextEncoder
from lit_metric.mining.texts import text_of_items


def guide_vectors(encoder: str, data: MetricDataModule, device: torch.device) -> Tensor:
    """``[N, g]`` float32 vectors of all items, by their global id, on ``device``.

    Args:
        encoder: hub id or folder of the guide, which has its own tokenizer.
        data: after its ``setup``.
        device: where to encode.
    """
    # To load a model draws random numbers, for weights that it then replaces.
    with torch.random.fork_rng():
        guide = TextEncoder(encoder, freeze=True).to(device)
    every = torch.arange(len(data.items))
    return torch.from_numpy(guide.encode(text_of_items(data.items, data.vocabulary, every))).to(device)
