"""From the states of a text's tokens, or the vectors of an item's texts, to one vector, and from that through
linear layers to the embedding.

All poolings take rows of any length, including none: an empty row gives the zero vector, unless the class
says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_metric.configurable import Configurable
from lit_metric.data.ragged import Ragged
from lit_metric.encoders.segments import (
    segment_max,
    segment_mean,
    segment_softmax,
    segment_spread,
    segment_sum,
    take_rows,
    widen,
)

Activation = Literal["identity", "tanh", "relu", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


class Pooling(Configurable, nn.Module):
    """``[total, h]`` ragged states to ``[n, h]`` vectors, in float32 at least.

    Called with the states, and optionally ``weights [total] > 0``, how much each counts in its row. Poolings
    that take means use them; the largest, first and last state are the same with any.

    Attributes:
        ordered: whether an item's texts have different meanings by their places, so that none may be dropped.
    """

    ordered: ClassVar[bool] = False

    def build(self, dimension: int) -> None:
        """Create parameters for states of ``dimension`` components; encoders call this."""

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        """Pool each row of ``states``."""
        raise NotImplementedError

    def _pick(self, states: Ragged, places: Tensor) -> Tensor:
        """The state at one of ``places [n]`` for each row, zero where the row is empty."""
        empty = (states.lengths == 0).unsqueeze(1)
        values = widen(states.values)
        if not len(values):
            return values.new_zeros(len(states), *values.shape[1:])
        return take_rows(values, places.clamp(0, len(values) - 1)).masked_fill(empty, 0)


def is_built(built: int | None, dimension: int, heads: int) -> bool:
    """Whether a pooling with heads has its parameters.

    Args:
        built: the dimension for which it was built; None if it wasn't.
        dimension: of the states that it is to take.
        heads: of the pooling.

    Raises:
        ValueError: if it was built for another dimension, or ``heads`` doesn't divide this one.
    """
    if built is not None and built != dimension:
        raise ValueError(f"this pooling is for {built} components, the states have {dimension}")
    if dimension % heads:
        raise ValueError(f"{heads} heads don't divide {dimension} components")
    return built is not None


class MeanPooling(Pooling):
    """The mean of each row.

    Example:
        >>> MeanPooling()(Ragged(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 2, 2]))).tolist()
        [[2.0], [0.0]]
    """

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        return segment_mean(states, weights)


class MaxPooling(Pooling):
    """The largest value of each component; equal ones share the gradient."""

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        return segment_max(states)


class CLSPooling(Pooling):
    """The first state of each row."""

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        return self._pick(states, states.offsets[:-1])


class LastTokenPooling(Pooling):
    """The last state of each row, the only one that has seen the whole text in a causal model."""

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        return self._pick(states, states.offsets[1:] - 1)


class AttentionPooling(Pooling):
    """A weighted mean of each row whose weights are learned: ``z = sum_i softmax_i(e_i) x_i``.

    ``e_i = v^T tanh(W x_i + b)`` (feed-forward attention, Raffel and Ellis 2016, arXiv 1512.08756), or
    ``e_i = q^T x_i / sqrt(h)`` with a learned query. Each head has its own ``v`` or ``q`` and weighs its own
    slice of ``h / heads`` components, so the result has ``h`` components for any number of heads. ``v`` and
    ``q`` start at zero: before training this *is* mean pooling.

    These scores see one value at a time, and so can't find a value that doesn't fit the others. With
    ``context``, ``e_i = v^T tanh(W n_i + U c_i + P (n_i * c_i) + b)``, where ``n_i`` is ``x_i`` with mean 0
    and variance 1 over its components, and ``c_i`` the mean of the *other* values' ``n`` (zero if there are
    none). The order of the values still makes no difference.

    Values that come with weights ``w_i`` have ``softmax_i(e_i + log w_i)``: so before training, this is their
    weighted mean.

    Args:
        heads: independent sets of weights; divides the dimension of the states.
        score: "feedforward" or "dot".
        hidden: rows of ``W``, the states' dimension if None; "feedforward" only.
        context: whether a value's score depends on the others; "feedforward" only.
        empty: what a row without values becomes: the zero vector, or a learned vector that starts at zero.
        dimension: of the states; the encoder fills it in if None.

    Raises:
        ValueError: if an argument is out of range, or ``context`` is given with "dot".
    """

    def __init__(
        self,
        heads: int = 1,
        score: Literal["feedforward", "dot"] = "feedforward",
        hidden: int | None = None,
        empty: Literal["zero", "learned"] = "zero",
        dimension: int | None = None,
        context: bool = False,
    ) -> None:
        super().__init__()
        if score not in ("feedforward", "dot"):
            raise ValueError(f"score is {score!r}; choose 'feedforward' or 'dot'")
        if empty not in ("zero", "learned"):
            raise ValueError(f"empty is {empty!r}; choose 'zero' or 'learned'")
        if heads < 1:
            raise ValueError(f"heads is {heads}; at least 1 is needed")
        if context and score != "feedforward":
            raise ValueError(f"context needs score='feedforward', not {score!r}")
        self.heads, self.score, self.hidden, self.empty = heads, score, hidden, empty
        self.context = context
        self.dimension: int | None = None
        if dimension is not None:
            self.build(dimension)

    def build(self, dimension: int) -> None:
        """Create the parameters; ValueError if ``heads`` doesn't divide it or it was built for another."""
        if is_built(self.dimension, dimension, self.heads):
            return
        self.dimension = dimension
        inner = dimension
        if self.score == "feedforward":
            inner = self.hidden or dimension
            self.inner = nn.Linear(dimension, inner)
            if self.context:
                self.others = nn.Linear(dimension, inner, bias=False)
                self.agreement = nn.Linear(dimension, inner, bias=False)
        self.query = nn.Parameter(torch.zeros(self.heads, inner))
        if self.empty == "learned":
            self.empty_vector = nn.Parameter(torch.zeros(dimension))

    def scores(self, states: Ragged) -> Tensor:
        """``[total, heads]`` scores before the softmax."""
        if self.dimension is None:
            raise RuntimeError("give AttentionPooling a dimension, or let an encoder build it")
        values = states.values.to(self.query.dtype)
        if self.score == "dot":
            return values @ self.query.T * self.query.shape[1] ** -0.5
        return torch.tanh(self._inner(Ragged(values, states.offsets))) @ self.query.T

    def _inner(self, states: Ragged) -> Tensor:
        if not self.context:
            return self.inner(states.values)
        values = nn.functional.layer_norm(widen(states.values), states.values.shape[1:])
        rows = Ragged(values, states.offsets)
        others = segment_spread(segment_sum(rows), rows) - values
        others = others / (segment_spread(states.lengths, rows) - 1).clamp(min=1).unsqueeze(1)
        values, others = values.to(self.query.dtype), others.to(self.query.dtype)
        return self.inner(values) + self.others(others) + self.agreement(values * others)

    def weights(self, states: Ragged, given: Tensor | None = None) -> Tensor:
        """``[total, heads]`` attention weights, which sum to 1 over each row; ``given [total]`` come with the
        values."""
        scores = self.scores(states)
        if given is not None:
            scores = widen(scores) + given.log().unsqueeze(1)
        return segment_softmax(Ragged(scores, states.offsets))

    def forward(self, states: Ragged, weights: Tensor | None = None) -> Tensor:
        learned = self.weights(states, weights)
        values = widen(states.values).unflatten(1, (self.heads, -1))
        pooled = segment_sum(Ragged((values * learned.unsqueeze(2)).flatten(1), states.offsets))
        if self.empty == "learned":
            empty = (states.lengths == 0).unsqueeze(1)
            pooled = torch.where(empty, self.empty_vector.to(pooled.dtype), pooled)
        return pooled


class Projection(Configurable, nn.Module):
    """``activation(W dropout(x) + b)``: ``[n, input]`` to ``[n, dimension]``.

    Args:
        dimension: components of the result.
        bias: whether there is a ``b``.
        activation: "identity", "tanh", "relu" or "gelu".
        dropout: in training, each component of ``x`` is 0 with this probability, and the others are scaled up
            to keep the mean.
        input_dimension: components of ``x``; the encoder fills it in if None.

    Raises:
        ValueError: if ``activation`` is none of these or ``dropout`` not in [0, 1).
    """

    def __init__(
        self,
        dimension: int,
        bias: bool = True,
        activation: Activation = "identity",
        dropout: float = 0.0,
        input_dimension: int | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it has to be at least 0 and less than 1")
        self.dimension, self.bias, self.activation, self.dropout = dimension, bias, activation, dropout
        self.act = ACTIVATIONS[activation]()
        if input_dimension is not None:
            self.build(input_dimension)

    def build(self, input_dimension: int) -> None:
        """Create the parameters; raises ValueError if they were created for another input."""
        if not hasattr(self, "linear"):
            self.linear = nn.Linear(input_dimension, self.dimension, bias=self.bias)
        elif self.linear.in_features != input_dimension:
            raise ValueError(
                f"this projection takes {self.linear.in_features} components, not {input_dimension}"
            )

    def forward(self, vectors: Tensor) -> Tensor:
        """Project the rows of ``vectors``."""
        vectors = nn.functional.dropout(vectors.to(self.linear.weight.dtype), self.dropout, self.training)
        return self.act(self.linear(vectors))

    @staticmethod
    def stack(
        given: int | Projection | Sequence[Projection] | None, hidden: int | None, dimension: int
    ) -> tuple[nn.Sequential, int]:
        """Build an encoder's layers, one upon the other.

        Args:
            given: components of one linear layer, ready layers, or None for no layer.
            hidden: components of a layer with GELU before it; needs ``given`` to be a number.
            dimension: components of the pooled vector, which the first layer takes.

        Returns:
            the layers, and the components of what comes out.

        Raises:
            ValueError: if ``hidden`` is given without a number, or a layer was built for another input.
        """
        if hidden is not None and not isinstance(given, int):
            raise ValueError("hidden needs projection to be a number of components")
        if isinstance(given, int):
            layers = [] if hidden is None else [Projection(hidden, activation="gelu")]
            layers.append(Projection(given))
        else:
            layers = [given] if isinstance(given, Projection) else list(given or [])
        for layer in layers:
            layer.build(dimension)
            dimension = layer.dimension
        return nn.Sequential(*layers), dimension


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows of length 1 in float32 at least; a zero row stays zero."""
    return nn.functional.normalize(widen(vectors), dim=-1, eps=1e-12)


def drop_leading(rows: Ragged, counts: Tensor) -> Ragged:
    """Leave out the first ``counts [n]`` values of each row, or all where it has no more.

    Example:
        >>> drop_leading(Ragged.from_lists([[1, 2, 3], [4], []]), torch.tensor([1, 2, 1])).tolist()
        [[2, 3], [], []]
    """
    counts = counts.minimum(rows.lengths)
    kept = rows.positions >= counts.repeat_interleave(rows.lengths, output_size=len(rows.values))
    return Ragged.from_lengths(take_rows(rows.values, kept.nonzero().squeeze(1)), rows.lengths - counts)


def drop_values(rows: Ragged, probability: float) -> Ragged:
    """Leave out each value with the given probability, but never the last one of a row."""
    if not len(rows.values):
        return rows
    luck = torch.rand(len(rows.values), device=rows.offsets.device)
    luckiest = segment_spread(segment_max(Ragged(luck, rows.offsets)), rows)
    keep = (luck >= probability) | (luck == luckiest)
    return Ragged.from_lengths(rows.values[keep], segment_sum(Ragged(keep.long(), rows.offsets)))
