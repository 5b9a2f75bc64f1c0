"""Linear layers from a pooled vector to the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lit_metric.configurable import Configurable

Activation = Literal["identity", "tanh", "relu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


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
        vectors = F.dropout(vectors.to(self.linear.weight.dtype), self.dropout, self.training)
        return self.act(self.linear(vectors))


def projections(
    given: int | Projection | Sequence[Projection] | None, hidden: int | None = None
) -> list[Projection]:
    """The layers that an encoder's ``projection`` and ``hidden`` arguments ask for.

    Args:
        given: components of one linear layer, ready layers, or None for no layer.
        hidden: components of a layer with GELU before it; needs ``given`` to be a number.
    """
    if hidden is not None:
        if not isinstance(given, int):
            raise ValueError("hidden needs projection to be a number of components")
        return [Projection(hidden, activation="gelu"), Projection(given)]
    if given is None:
        return []
    if isinstance(given, int):
        return [Projection(given)]
    return [given] if isinstance(given, Projection) else list(given)


def stack(layers: list[Projection], dimension: int) -> tuple[nn.Sequential, int]:
    """Build ``layers`` one upon the other on ``dimension`` components: the stack, and what comes out."""
    for layer in layers:
        layer.build(dimension)
        dimension = layer.dimension
    return nn.Sequential(*layers), dimension
