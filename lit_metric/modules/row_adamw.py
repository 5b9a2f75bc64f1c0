"""AdamW that updates only those rows of a table of token vectors that a batch has used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lit_metric.encoders.static import TokenTable

ROWS = "rows"
"""The key of a group of parameters that are updated by rows."""


class RowAdamW(torch.optim.AdamW):
    """AdamW in which each row of a table has a step count, moments and weight decay of its own.

    In groups with ``rows: True``, a row whose gradient is zero stays as it is: no decay, and its moments and
    its step count wait. So the rows of tokens that are not in the training texts keep their values, and a
    step costs what the rows of the batch cost, not what the table costs. The other groups are AdamW's. A row
    that has a gradient at every step is updated exactly as by AdamW.

    Gradients may be sparse or dense. The state of a table is that of AdamW, ``exp_avg`` and ``exp_avg_sq``
    ``[rows, h]``, with ``step [rows]``.

    Args:
        params, options: of :class:`torch.optim.AdamW`, without ``amsgrad`` and ``maximize``.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters; see :meth:`torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        waiting = []
        for group in self.param_groups:
            if not group.get(ROWS):
                continue
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad, group)
                    waiting.append((table, table.grad))
                    table.grad = None  # AdamW skips it
        super().step()
        for table, gradient in waiting:
            table.grad = gradient
        return loss

    def _update(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            places, values = gradient.indices()[0], gradient.values()
            used = values.ne(0).any(1)
            if not bool(used.all()):
                places, values = places[used], values[used]
        else:
            places = gradient.ne(0).any(1).nonzero().squeeze(1)
            values = gradient[places]
        state = self.state[table]
        if not state:
            # Named as in AdamW: Optimizer.load_state_dict leaves "step" in float32.
            state["step"] = torch.zeros(len(table), dtype=torch.float32, device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        (first, second), rate = group["betas"], group["lr"]
        steps = state["step"][places] + 1  # [n]
        means = state["exp_avg"][places].lerp_(values, 1 - first)  # [n, h]
        squares = state["exp_avg_sq"][places].mul_(second).addcmul_(values, values, value=1 - second)
        for name, rows in (("step", steps), ("exp_avg", means), ("exp_avg_sq", squares)):
            state[name].index_copy_(0, places, rows)
        counts = steps.double()[:, None]
        sizes = (-rate / (1 - first**counts)).to(table.dtype)  # [n, 1]
        scales = (1 - second**counts).rsqrt().to(table.dtype)
        rows = table[places].mul_(1 - rate * group["weight_decay"])
        rows.addcdiv_(means.mul_(sizes), squares.sqrt_().mul_(scales).add_(group["eps"]))
        table.index_copy_(0, places, rows)


def tables_of(module: nn.Module) -> list[TokenTable]:
    """The tables of token vectors inside a module."""
    return [each for each in module.modules() if isinstance(each, TokenTable)]


def dense_gradients(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters, with another parameter for each that has a sparse gradient: its gradient shares memory
    with the values of the sparse one, so to measure and scale it in place is to do so with the sparse one."""
    found = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values = parameter.grad._values()
            parameter = nn.Parameter(torch.empty_like(values))
            parameter.grad = values
        found.append(parameter)
    return found
