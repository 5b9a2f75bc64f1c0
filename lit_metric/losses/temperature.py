"""Base of the losses that divide scores by a temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lit_metric.losses.base import LossOutput, MetricLoss
from lit_metric.losses.pairs import Pairs
from lit_metric.losses.scores import Distance

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


class TemperatureLoss(MetricLoss):
    """Base of the losses of scores divided by a temperature, fixed or learned.

    If it is learned, ``temperature`` is logged.

    Args:
        temperature: between 0.01 and 100 if it is learned, otherwise above 0.
        learnable: learn the temperature from there, as its logarithm, within those bounds.
        distance: see :class:`VectorLoss`.
        normalize: see :class:`VectorLoss`.
        block_rows: see :class:`VectorLoss`.

    Raises:
        ValueError: if the temperature is out of its range.
    """

    def __init__(
        self, temperature: float, learnable: bool, distance: Distance, normalize: bool, block_rows: int
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        low, high = (MIN_TEMPERATURE, MAX_TEMPERATURE) if learnable else (0.0, math.inf)
        if not (low <= temperature <= high and 0 < temperature < math.inf):
            bound = f"between {low} and {high} to be learned" if learnable else "above 0 and finite"
            raise ValueError(f"temperature must be {bound}, not {temperature}")
        self.fixed_temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learnable else None

    @property
    def temperature(self) -> Tensor | float:
        """The temperature now; a scalar tensor with gradient if it is learned."""
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.exp()

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        if self.log_temperature is None:
            return super().on_pairs(anchors, candidates, pairs)
        # The parameter itself is clamped: beyond the bound a clamp in the graph would stop its gradient, and
        # it could never come back.
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        output = super().on_pairs(anchors, candidates, pairs)
        output["temperature"] = self.log_temperature.detach().exp()
        return output
