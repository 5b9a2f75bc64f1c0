"""Two encoders side by side: one for queries, one for what they look for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import EncoderInput
from lit_metric.encoders.base import Encoder, Roles, Weights, roles_of
from lit_metric.encoders.segments import take_rows
from lit_metric.encoders.tokenizer import NO_ROLE, QUERY, TextTokenizer, TowerTokenizers

QUERY_NUMBER = 0
"""The number that batches have for the role of queries."""


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
                "tower: set it alike in both"
            )
        self.query, self.document = query, document
        self.dimension, self.normalize = query.dimension, query.normalize

    @property
    def tokenizer(self) -> TowerTokenizers:
        """Those of the towers, chosen by role."""
        return TowerTokenizers(_tokenizer(self.query), _tokenizer(self.document))

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
        queries = inputs.roles == QUERY_NUMBER
        rows = [queries.nonzero().squeeze(1), (~queries).nonzero().squeeze(1)]
        vectors = [
            tower(inputs.select(chosen)) if len(chosen) else tower.nothing()
            for tower, chosen in zip((self.query, self.document), rows, strict=True)
        ]
        return take_rows(torch.cat(vectors), torch.cat(rows).argsort())

    def nothing(self) -> Tensor:
        """See :meth:`Encoder.nothing`."""
        return torch.cat([self.query.nothing(), self.document.nothing()])

    def clear_cache(self) -> None:
        """See :meth:`Encoder.clear_cache`."""
        self.query.clear_cache()
        self.document.clear_cache()

    def freeze_unused(self) -> None:
        """See :meth:`Encoder.freeze_unused`."""
        self.query.freeze_unused()
        self.document.freeze_unused()

    def _encode(self, items: Any, max_tokens: int, progress: bool, role: Roles, weights: Weights) -> Tensor:
        roles = roles_of(role, len(items))
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

    def _own_files(self) -> tuple[str, ...]:
        return ("query.", "document.")

    def _save_parts(self, folder: Path, weights: bool) -> tuple[tuple[str, ...], dict[str, Any]]:
        self.query.write(folder / "query", weights)
        self.document.write(folder / "document", weights)
        return self._own_files(), {"query": {"encoder": "query"}, "document": {"encoder": "document"}}


def _tokenizer(tower: Encoder) -> TextTokenizer:
    tokenizer = tower.tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    return tokenizer
