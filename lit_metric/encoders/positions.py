"""How a model counts the positions of a text's tokens."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_metric.data.ragged import Ragged


def skipped_position(model: nn.Module) -> int | None:
    """``padding_idx`` of a model that counts its tokens from behind it, as RoBERTa and MPNet do, or None."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_inputs_embeds"):
            return int(module.padding_idx)  # type: ignore[arg-type]
    return None


def position_ids(model: nn.Module, tokens: Ragged) -> Tensor:
    """``[T]`` int64, each token's position as the model counts: from 0, or RoBERTa's from padding_idx + 1."""
    padding = skipped_position(model)
    if padding is None:
        return tokens.positions
    counted = (tokens.values != padding).long()
    before = counted.cumsum(0) - counted
    starts = tokens.offsets[:-1].clamp(max=max(len(before) - 1, 0))
    first = before[starts] if len(before) else before
    local = before - first.repeat_interleave(tokens.lengths, output_size=len(before)) + 1
    return local * counted + padding


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens a text may have, None if the model doesn't say."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    skipped = skipped_position(model)
    return limit if skipped is None else limit - skipped - 1
