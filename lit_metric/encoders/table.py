"""Vectors of texts that a frozen model has already seen, looked up by vocabulary id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.segments import segment_sum


class FrozenTable:
    """One vector per text of a vocabulary, each computed when it is first asked for.

    A vocabulary id alone can mislead (another data set has other texts), so each entry also keeps a hash of
    the text's tokens, and of how many of them are kept out of pooling; an id that comes back with others is
    computed anew.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.state: Any = None
        self.count = 0
        self._slots = torch.empty(0, dtype=torch.int64)
        self._prints = torch.empty(0, dtype=torch.int64)
        self._vectors = torch.empty(0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.clear()

    def look_up(
        self,
        tokens: Ragged,
        text_ids: Tensor,
        state: Any,
        compute: Callable[..., Tensor],
        skip: Tensor | None = None,
    ) -> Tensor:
        """Vectors of the texts, without gradient.

        Args:
            tokens: token ids of ``U`` texts.
            text_ids: ``[U]`` vocabulary ids, all different.
            state: anything that changes when the model does; a change empties the table.
            compute: ``U'`` texts to ``[U', h]``, called with those that are new, and their ``skip`` if given.
            skip: ``[U]`` int64, how many leading tokens of each text are kept out of pooling.

        Returns:
            ``[U, h]``.
        """
        # Entries outlive an inference_mode block in which they were computed.
        with torch.inference_mode(False), torch.no_grad():
            if state != self.state:
                self.clear()
                self.state = state
                self._slots, self._prints = self._slots.to(text_ids.device), self._prints.to(text_ids.device)
            self._reserve_ids(text_ids)
            prints = token_hashes(tokens)
            if skip is not None:
                prints = prints + skip * 0x6A09E667F3BCC909
            slots = self._slots[text_ids]
            new = slots < 0
            if self.count:
                new |= self._prints[slots.clamp(min=0)] != prints
            rows = new.nonzero().squeeze(1)
            if len(rows):
                given = [tokens.select(rows)] if skip is None else [tokens.select(rows), skip[rows]]
                self._store(text_ids[rows], prints[rows], compute(*given))
                slots = self._slots[text_ids]
            return self._vectors.index_select(0, slots)

    def _reserve_ids(self, text_ids: Tensor) -> None:
        more = int(text_ids.max()) + 1 - len(self._slots) if len(text_ids) else 0
        if more > 0:
            self._slots = torch.cat([self._slots, self._slots.new_full((max(more, len(self._slots)),), -1)])

    def _store(self, text_ids: Tensor, prints: Tensor, vectors: Tensor) -> None:
        slots = torch.arange(self.count, self.count + len(vectors), device=text_ids.device)
        if self.count + len(vectors) > len(self._vectors):
            room = max(len(vectors), self.count)
            grown = vectors.new_empty(self.count + room, vectors.shape[1])
            grown[: self.count] = self._vectors[: self.count] if self.count else grown[:0]
            self._vectors = grown
            self._prints = torch.cat([self._prints[: self.count], prints.new_zeros(room)])
        self._vectors[slots], self._prints[slots], self._slots[text_ids] = vectors, prints, slots
        self.count += len(vectors)


def token_hashes(tokens: Ragged) -> Tensor:
    """``[U]`` int64, a hash of each row of token ids, in order."""
    mixed = (tokens.values + 1) * 0x9E3779B97F4A7C1 + (tokens.positions + 1) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ (mixed >> 29)) * 0x1B873593CC9E2D51
    return segment_sum(Ragged(mixed ^ (mixed >> 32), tokens.offsets))
