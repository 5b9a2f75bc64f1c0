"""What attention pooling looks at: the weights of tags in a set, or of tokens in a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders import SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.base import Encoder
from lit_metric.encoders.packing import evaluating
from lit_metric.encoders.pooling import AttentionPooling, drop_leading, unit_rows
from lit_metric.report.structure import Attention

Item = str | Sequence[str]


@torch.no_grad()
def attention_of(
    before: Encoder | None,
    after: Encoder,
    inputs: Sequence[Item],
    places: Sequence[int],
    role: str | None = None,
    weights: Sequence[Sequence[float]] | None = None,
) -> list[Attention]:
    """The weights that the pooling of an encoder gives to the parts of items, before and after training.

    Args:
        before: the untrained encoder; None: unknown.
        after: the trained one.
        inputs: ``n`` texts, or lists of tags for an encoder of sets, as ``Encoder.encode`` takes them.
        places: ``n`` places of the items in the report.
        role: of the items, for an encoder with roles.
        weights: for each item, how much each of its tags counts; None: all the same.

    Returns:
        One for each item with a tag or a token; none if the pooling of ``after`` has no weights, such as the
        mean. ``before`` of each is None if that encoder has none, or cuts texts into other tokens.
    """
    found = _weights_of(after, inputs, role, weights)
    if found is None:
        return []
    kind, parts, now = found
    earlier = None if before is None else _weights_of(before, inputs, role, weights)
    shown = []
    for row, place in enumerate(places):
        if parts[row]:
            same = earlier is not None and earlier[:2] == (kind, parts)
            first = earlier[2][row] if same and earlier is not None else None
            shown.append(Attention(int(place), kind, parts[row], first, now[row]))
    return shown


def _weights_of(
    encoder: Encoder, inputs: Sequence[Item], role: str | None, weights: Sequence[Sequence[float]] | None
) -> tuple[str, list[list[str]], list[list[list[float]]]] | None:
    """The kind of the parts, the parts of each item, and by item and head the weight of each part; None for a
    pooling without weights."""
    if isinstance(encoder, TwoTowerEncoder):
        encoder = encoder.tower(role)
    if not isinstance(encoder, TextEncoder | SetEncoder) or not isinstance(encoder.pooling, AttentionPooling):
        return None
    given = None
    with evaluating(encoder):
        if isinstance(encoder, SetEncoder):
            kind, parts = "tags", [[str(tag) for tag in item] for item in inputs]
            texts, rows = _tags(encoder, parts, role)
            states = Ragged(texts[rows.values.to(texts.device)], rows.offsets.to(texts.device))
            if weights is not None:
                numbers = [number for row in weights for number in row]
                given = torch.tensor(numbers, dtype=torch.float32, device=texts.device)
        else:
            kind = "tokens"
            states, parts = _tokens(encoder, [str(item) for item in inputs], role)
        learned = encoder.pooling.weights(states, given).float().cpu()  # [total, heads]
    bounds = states.offsets.tolist()
    by_item = [learned[start:end].T.tolist() for start, end in pairwise(bounds)]
    return kind, parts, by_item


def _tags(encoder: SetEncoder, items: list[list[str]], role: str | None) -> tuple[Tensor, Ragged]:
    """The vectors of all distinct tags, and each item's rows of them."""
    numbers: dict[str, int] = {}
    rows = Ragged.from_lists([[numbers.setdefault(tag, len(numbers)) for tag in item] for item in items])
    tokens, skip = encoder.tokenizer.tokenize_by_role([*numbers], [role] * len(numbers))
    texts = encoder.text.embed(EncoderInput.of_texts(tokens, skip=skip).to(encoder.device))
    return (unit_rows(texts) if encoder.normalize_texts else texts), rows


def _tokens(encoder: TextEncoder, texts: list[str], role: str | None) -> tuple[Ragged, list[list[str]]]:
    """The states of each text's tokens that the pooling sees, and the tokens."""
    tokens, skip = encoder.tokenizer.tokenize_by_role(texts, [role] * len(texts))
    states = encoder.backbone(tokens.to(encoder.device))
    if skip is not None:
        states, tokens = drop_leading(states, skip.to(encoder.device)), drop_leading(tokens, skip)
    names = encoder.tokenizer.tokenizer.convert_ids_to_tokens
    return states, [[str(token) for token in names(row)] for row in tokens.tolist()]
