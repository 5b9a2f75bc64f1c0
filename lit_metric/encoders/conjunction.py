"""Pooling by pairs of values: for labels that depend on two tags together, and on neither alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.pooling import Pooling, is_built
from lit_metric.encoders.segments import take_rows, widen


class ConjunctionPooling(Pooling):
    """A weighted mean over all ordered pairs of a row's values: ``z = sum_jk a_jk (x_j * V_k)``.

    ``a_jk = softmax_jk(sum_c q_c (K x_j)_c (L x_k)_c)`` with a learned query ``q``, and ``V_k = V x_k + v``;
    the products of vectors are taken component by component. So the result can hold what two values mean
    together, which a weighted mean of single values can't. The order of the values makes no difference, and a
    value is also paired with itself.

    Each head has its own ``q``, and weighs its own slice of ``h / heads`` components. ``q`` and ``V`` start
    at zero and ``v`` at one: before training this *is* mean pooling. Values that come with weights ``w_i``
    have ``a_jk`` in proportion to ``w_j w_k`` times the exponential, so before training this is their
    weighted mean.

    The number of pairs is quadratic: of n values, time and memory grow by n². So rows
    are limited to ``most_values``. The longest row of a batch decides its memory, items × heads × n² numbers.

    Source: this is the tensor attention of Alman and Song, "How to Capture Higher-order Correlations?
    Generalizing Matrix Softmax Attention to Kronecker Computation", ICLR 2024 (arXiv 2310.04064), with one
    query, computed exactly. It isn't that paper's approximate algorithm, which needs entries of bounded size.

    Args:
        heads: independent queries; divides the dimension of the states.
        hidden: components of ``K x`` and ``L x``, at least 1; the states' dimension if None.
        dimension: of the states; the encoder fills it in if None.
        most_values: the largest number of values in a row, at least 1.

    Raises:
        ValueError: if an argument is out of range, or a row has more than ``most_values`` values.

    Example:
        >>> rows = Ragged(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 2, 2]))
        >>> ConjunctionPooling(dimension=1)(rows).tolist()
        [[2.0], [0.0]]
    """

    def __init__(
        self,
        heads: int = 1,
        hidden: int | None = None,
        dimension: int | None = None,
        most_values: int = 32,
    ) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads is {heads}; at least 1 is needed")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden is {hidden}; at least 1 is needed")
        if most_values < 1:
            raise ValueError(f"most_values is {most_values}; at least 1 is needed")
        self.heads, self.hidden, self.most_values = heads, hidden, most_values
        self.dimension: int | None = None
        if dimension is not None:
            self.build(dimension)

    def build(self, dimension: int) -> None:
        """Create the parameters; ValueError if ``heads`` doesn't divide it or it was built for another."""
        if is_built(self.dimension, dimension, self.heads):
            return
        self.dimension, inner = dimension, self.hidden or dimension
        self.first_key = nn.Linear(dimension, inner, bias=False)
        self.second_key = nn.Linear(dimension, inner, bias=False)
        self.query = nn.Parameter(torch.zeros(self.heads, inner))
        self.second_value = nn.Linear(dimension, dimension)
        nn.init.zeros_(self.second_value.weight)
        nn.init.ones_(self.second_value.bias)

    def weights(self, states: Ragged, given: Tensor | None = None) -> Tensor:
        """``[n, heads, m, m]`` weights of ordered pairs, m the length of the longest row: they sum to 1 over
        each row's pairs, and are 0 beyond its values. ``given [total]`` come with the values."""
        values, present = self._padded(states)
        return self._weights(values, present, states.offsets, given)

    def _weights(self, values: Tensor, present: Tensor, offsets: Tensor, given: Tensor | None) -> Tensor:
        if self.dimension is None:
            raise RuntimeError("give ConjunctionPooling a dimension, or let an encoder build it")
        kind = self.query.dtype
        first = self.first_key(values.to(kind))[:, None] * self.query[:, None]  # [n, heads, m, hidden]
        second = self.second_key(values.to(kind))[:, None]
        scores = widen(first @ second.transpose(2, 3))
        if given is not None:
            logs = self._padded(Ragged(given.log()[:, None], offsets))[0][:, :, 0]
            scores = scores + (logs[:, :, None] + logs[:, None, :])[:, None]
        pairs = (present[:, :, None] & present[:, None, :])[:, None].expand_as(scores)
        scores = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min)
        return scores.flatten(2).softmax(2).view_as(scores).masked_fill(~pairs, 0)

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        values, present = self._padded(states)
        if not values.numel():
            return values.new_zeros(len(states), values.shape[2])
        learned = self._weights(values, present, states.offsets, weights)
        partners = widen(self.second_value(values.to(self.query.dtype)))  # [n, m, h]
        own, others = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (values, partners)
        )  # [n, heads, m, h / heads]
        pooled = (own * (learned.to(others.dtype) @ others)).sum(2)
        return pooled.flatten(1)

    def _padded(self, states: Ragged) -> tuple[Tensor, Tensor]:
        """``[n, m, ...]`` with zeros behind shorter rows, and ``[n, m]``, where a row has a value.

        Raises:
            ValueError: if a row is longer than ``most_values``.
        """
        longest = int(states.lengths.max()) if len(states) else 0
        if longest > self.most_values:
            row = int(states.lengths.argmax())
            raise ValueError(
                f"ConjunctionPooling compares all pairs, and takes at most {self.most_values} values of an "
                f"item; item {row} of this batch has {longest}. Set most_values={longest} or more (the cost "
                "grows by the square), leave such items out by data.exclude, or take "
                "AttentionPooling(context=True)"
            )
        values = widen(states.values)
        place = torch.arange(longest, device=values.device)
        present = place < states.lengths[:, None]
        if not len(values):
            return values.new_zeros(len(states), longest, *values.shape[1:]), present
        index = (states.offsets[:-1, None] + place).clamp(max=len(values) - 1).flatten()
        padded = take_rows(values, index).unflatten(0, (len(states), longest))
        return padded.masked_fill(~present[:, :, None], 0), present
