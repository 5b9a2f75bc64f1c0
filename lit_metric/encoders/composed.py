"""Encoders made of other encoders: of items with several texts, such as tags, and of queries and documents by
two towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.encoders.base import Encoder, Roles, Weights, as_list, check_texts
from lit_metric.encoders.pooling import AttentionPooling, Pooling, Projection, drop_values, unit_rows
from lit_metric.encoders.recompute import in_chunks
from lit_metric.encoders.segments import take_rows, widen
from lit_metric.encoders.text import TextEncoder
from lit_metric.encoders.tokenizer import NO_ROLE, QUERY, TextTokenizer, TowerTokenizers

POOL_AT_ONCE = 1 << 18

QUERY_ROLE = 0
"""The number that batches have for the role of queries."""


class SetEncoder(Encoder):
    """Text vectors of an item's texts, pooled; the order of the texts makes no difference with most poolings.

    Args:
        text: encodes each distinct text of a batch once.
        pooling: from text vectors to one vector; attention with one head if None. An item without texts gets
            the pooling's answer for an empty row, the zero vector unless it says otherwise.
        projection: components of a linear layer after the pooling, or ready layers.
        hidden: components of a further layer with GELU before that one.
        normalize_texts: bring text vectors to length 1 before they are pooled.
        tag_dropout: in training, leave out each text of an item with this probability, but never all of them.
        normalize: whether :meth:`encode` returns vectors of length 1.

    Raises:
        ValueError: if ``tag_dropout`` is not in [0, 1), or drops texts whose places have a meaning.

    In a configuration, with two layers after the pooling::

        class_path: lit_metric.encoders.SetEncoder
        init_args:
          text:
            class_path: lit_metric.encoders.TextEncoder
            init_args: {backbone: sentence-transformers/all-MiniLM-L6-v2}
          projection:
          - class_path: lit_metric.encoders.Projection
            init_args: {dimension: 512, activation: gelu, dropout: 0.1}
          - class_path: lit_metric.encoders.Projection
            init_args: {dimension: 128, dropout: 0.1}
    """

    subfolders = ("text",)

    def __init__(
        self,
        text: TextEncoder,
        pooling: Pooling | None = None,
        projection: int | Projection | list[Projection] | None = None,
        hidden: int | None = None,
        normalize_texts: bool = False,
        tag_dropout: float = 0.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= tag_dropout < 1:
            raise ValueError(f"tag_dropout is {tag_dropout}; it has to be at least 0 and less than 1")
        self.text = text
        self.pooling = pooling or AttentionPooling()
        if tag_dropout and self._ordered:
            raise ValueError(
                f"tag_dropout is {tag_dropout}, and {type(self.pooling).__name__} needs each text at its "
                "place: leave tag_dropout out"
            )
        self.pooling.build(text.dimension)
        self.projection, self.dimension = Projection.stack(projection, hidden, text.dimension)
        self.normalize_texts = normalize_texts
        self.tag_dropout = tag_dropout
        self.normalize = normalize

    @property
    def _ordered(self) -> bool:
        return getattr(self.pooling, "ordered", False)  # poolings from elsewhere may not say

    @property
    def tokenizer(self) -> TextTokenizer:
        """The text encoder's."""
        return self.text.tokenizer

    def forward(self, inputs: EncoderInput) -> Tensor:
        """See :meth:`Encoder.forward`."""
        texts, items, weights = self.text.embed(inputs), inputs.items, inputs.weights
        if self.text.recompute != "chunks":
            return self.pool(texts, items, weights)

        def pool(rows: Tensor) -> Tensor:
            own = None if weights is None else Ragged(weights, items.offsets).select(rows).values
            return self.pool(texts, items.select(rows), own)

        sources = [texts, *self.pooling.parameters(), *self.projection.parameters()]
        return in_chunks(pool, items.lengths, self.text.tokens_in_memory, sources)

    def pool(self, texts: Tensor, items: Ragged, weights: Tensor | None = None) -> Tensor:
        """``[U, d]`` text vectors and ``I`` rows of positions among them to ``[I, dimension]``; ``weights``
        are how much each of the positions counts in its row."""
        if self.training and self.tag_dropout > 0:
            places = torch.arange(len(items.values), device=items.values.device)
            kept = drop_values(Ragged(places, items.offsets), self.tag_dropout)
            items = Ragged(items.values[kept.values], kept.offsets)
            weights = None if weights is None else weights[kept.values]
        if self.normalize_texts:
            texts = unit_rows(texts)
        states = Ragged(take_rows(texts, items.values), items.offsets)
        # Poolings from elsewhere may take no weights.
        pooled = self.pooling(states) if weights is None else self.pooling(states, weights)
        return widen(self.projection(pooled))

    def check_items(self, items: list[Any], places: Sequence[int] | None = None) -> None:
        """See :meth:`Encoder.check_items`; here each item is a sequence of texts, which becomes a list."""
        for row, item in enumerate(items):
            place = row if places is None else places[row]
            if isinstance(item, str) or not hasattr(item, "__iter__"):
                raise TypeError(
                    f"item {place} is {item!r:.60}, and a list of texts was expected: this encoder is for "
                    "items of several texts (tags)"
                )
            if self._ordered and isinstance(item, (set, frozenset)):
                raise TypeError(
                    f"item {place} is a set, which has no order, and {type(self.pooling).__name__} needs "
                    "one: give a list"
                )
            items[row] = (
                sorted(item) if isinstance(item, (set, frozenset)) else as_list(item, f"item {place}")
            )
            check_texts(items[row], lambda text, place=place: f"text {text} of item {place}")  # type: ignore[misc]

    def _encode(self, items: Any, max_tokens: int, progress: bool, role: Roles, weights: Weights) -> Tensor:
        places: dict[tuple[str | None, str], int] = {}
        pairs = [
            zip(self.roles_of(given, len(item), "texts"), item, strict=True)
            for given, item in zip(self.roles_of(role, len(items)), items, strict=True)
        ]
        sets = Ragged.from_lists([[places.setdefault(pair, len(places)) for pair in row] for row in pairs])
        counts = None
        if weights is not None:
            if [len(row) for row in weights] != sets.lengths.tolist():
                raise ValueError("weights: give a list for each item, with a number for each of its texts")
            numbers = torch.tensor([weight for row in weights for weight in row], dtype=torch.float32)
            if not bool(((numbers > 0) & numbers.isfinite()).all()):
                raise ValueError("weights have to be numbers above 0")
            counts = Ragged(numbers, sets.offsets)
        texts = self.text._encode(
            [text for _, text in places], max_tokens, progress, [each for each, _ in places], None
        ).to(self.device)
        # As many items as have about POOL_AT_ONCE text vectors.
        step = max(1, POOL_AT_ONCE * len(sets) // max(1, len(sets.values)))
        pooled = [torch.empty(0, self.dimension)]
        for start in range(0, len(sets), step):
            chosen = torch.arange(start, min(start + step, len(sets)))
            own = None if counts is None else counts.select(chosen).values.to(self.device)
            pooled.append(self.pool(texts, sets.select(chosen).to(self.device), own).float().cpu())
        return torch.cat(pooled)


class TwoTowerEncoder(Encoder):
    """Encodes items in the role "query" by one encoder, and items in any other role by another.

    Each has its own backbone, tokenizer, pooling and projection, and may be frozen. One encoder for both
    roles needs no towers: a TextEncoder with ``prompts`` by role.

    Args:
        query: encodes queries.
        document: encodes all other items.

    Raises:
        ValueError: if the towers are the same encoder, or don't agree on the dimension or on normalising.
    """

    subfolders = ("query", "document")

    def __init__(self, query: Encoder, document: Encoder) -> None:
        super().__init__()
        if query is document:
            raise ValueError("both towers are the same encoder: use it alone, with prompts by role if needed")
        if isinstance(query, TwoTowerEncoder) or isinstance(document, TwoTowerEncoder):
            raise ValueError("a tower is a TwoTowerEncoder itself: give a TextEncoder or a SetEncoder")
        if query.dimension != document.dimension:
            raise ValueError(
                f"the query tower gives {query.dimension} components and the document tower "
                f"{document.dimension}: give one of them a projection to the dimension of the other"
            )
        if query.normalize != document.normalize:
            raise ValueError(
                f"normalize is {query.normalize} in the query tower and {document.normalize} in the document "
                "tower: set the same in both"
            )
        self.query, self.document = query, document
        self.dimension, self.normalize = query.dimension, query.normalize

    @property
    def tokenizer(self) -> TowerTokenizers:
        """Those of the towers, chosen by role."""
        query, document = self.query.tokenizer, self.document.tokenizer
        assert isinstance(query, TextTokenizer)
        assert isinstance(document, TextTokenizer)
        return TowerTokenizers(query, document)

    def tower(self, role: str | None) -> Encoder:
        """The encoder of items in a role.

        Raises:
            ValueError: if there is no role, or one for each text.
        """
        if not isinstance(role, str):
            raise ValueError(NO_ROLE)
        return self.query if role == QUERY else self.document

    def forward(self, inputs: EncoderInput) -> Tensor:
        """See :meth:`Encoder.forward`; here items need roles."""
        if inputs.roles is None:
            raise ValueError(NO_ROLE)
        queries = inputs.roles == QUERY_ROLE
        rows = [queries.nonzero().squeeze(1), (~queries).nonzero().squeeze(1)]
        vectors = [
            tower(inputs.select(chosen)) if len(chosen) else tower.nothing()
            for tower, chosen in zip((self.query, self.document), rows, strict=True)
        ]
        return take_rows(torch.cat(vectors), torch.cat(rows).argsort())

    def nothing(self) -> Tensor:
        """See :meth:`Encoder.nothing`."""
        return torch.cat([self.query.nothing(), self.document.nothing()])

    def _encode(self, items: Any, max_tokens: int, progress: bool, role: Roles, weights: Weights) -> Tensor:
        roles = self.roles_of(role, len(items))
        vectors = torch.empty(len(items), self.dimension)
        for tower in (self.query, self.document):
            rows = [row for row, each in enumerate(roles) if self.tower(each) is tower]
            if rows:
                own = [items[row] for row in rows]
                tower.check_items(own, rows)
                vectors[rows] = tower._encode(
                    own,
                    max_tokens,
                    progress,
                    [roles[row] for row in rows],
                    None if weights is None else [weights[row] for row in rows],
                )
        return vectors
