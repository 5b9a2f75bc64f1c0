"""Rows of all ranks in rank order; their gradient goes back to the rank that owns them.

Without a process group there is one rank, and every function returns its argument.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_share() -> slice:
    """This rank's share of rows that all ranks have: every ``world_size()``-th from ``rank()`` on."""
    return slice(rank(), None, world_size())


def rows_before(count: int, device: torch.device) -> tuple[int, int]:
    """How many rows the ranks before this one have together, and how many all have; ``count`` is its own."""
    if world_size() == 1:
        return 0, count
    counts = gather_ids(torch.tensor([count], device=device)).tolist()
    return sum(counts[: rank()]), sum(counts)


def shared_generator() -> torch.Generator:
    """Random numbers that are the same on all ranks, on the CPU; every rank must call it.

    Its seed is a draw of the first rank's global generator, which a learner seeds by the step. So a resumed
    run and a run of one process draw the same.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> int(torch.randperm(1000, generator=shared_generator())[0])  # any, but always the same
        906
    """
    seed = torch.randint(2**62, (1,))
    device = "cuda" if world_size() > 1 and dist.get_backend() == "nccl" else "cpu"
    return torch.Generator().manual_seed(int(gather_ids(seed.to(device))[0]))


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` of any shape over all ranks, without gradient.

    Example:
        >>> sum_over_ranks(torch.tensor([3, 4])).tolist()  # a single process
        [3, 4]
    """
    values = values.detach()
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather_ids(ids: Tensor) -> Tensor:
    """``ids [n, ...]`` of all ranks, concatenated in rank order; n may differ between ranks and be 0.

    Every rank must call it. The trailing shape and the dtype must be the same on all ranks.

    Raises:
        ValueError: on every rank, if the rows of the ranks differ in size.
    """
    ids = ids.detach()
    if world_size() == 1:
        return ids
    counts, _ = _exchange_counts(ids)
    return _gather_rows(ids, counts)


def gather_with_grad(rows: Tensor) -> Tensor:
    """Embeddings of every rank in rank order, differentiable with respect to this rank's own.

    The gradient of a row is the *sum* of the gradients of all ranks' losses. If rank r's loss is
    ``world_size * (its share of the objective)``, then DDP's average over ranks is exactly the gradient of
    the objective on the union of the ranks' batches.

    The backward pass is a collective, too: every rank's loss must depend on the result, if only by
    ``result[:0].sum()``, or the other ranks wait forever. A rank whose own rows need no gradient (it may
    have no rows) takes part if the rows of any rank do.

    Args:
        rows: ``[n, d]`` floating point; n may differ between ranks and be 0. Half precision is gathered as
            float32, so that the sum of many ranks' gradients is precise.

    Returns:
        ``[N, d]``, N the sum of the ranks' n; rank 0's rows first.

    Raises:
        ValueError: on every rank, if the rows of the ranks differ in size.
    """
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    if world_size() == 1:
        return rows
    counts, any_needs_grad = _exchange_counts(rows)
    if any_needs_grad and torch.is_grad_enabled() and not rows.requires_grad:
        rows = rows.detach().requires_grad_()
    gathered: Tensor = _Gather.apply(rows, counts)
    return gathered


def mark_fixed(rows: Tensor, fixed: int) -> Tensor:
    """``rows [n, d]``, of which the last ``fixed`` need no gradient. :func:`fixed_rows` says so, and a loss
    then computes none for them."""
    marked: Tensor = _Fixed.apply(rows, fixed)
    return marked


def fixed_rows(rows: Tensor) -> int:
    """How many of the last rows need no gradient, by :func:`mark_fixed`."""
    return int(getattr(rows.grad_fn, "fixed", 0))


class _Fixed(torch.autograd.Function):
    """The same rows; the number stands in the graph."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fixed: int) -> Tensor:
        ctx.fixed = fixed
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.start = sum(counts[: rank()])
        ctx.stop = ctx.start + len(rows)
        return _gather_rows(rows, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.stop], None


def _exchange_counts(rows: Tensor) -> tuple[list[int], bool]:
    """Each rank's number of rows, and whether any rank's rows need a gradient."""
    width = rows[0].numel() if len(rows) else rows.new_empty(rows.shape[1:]).numel()
    needs_grad = rows.requires_grad and torch.is_grad_enabled()
    mine = torch.tensor([len(rows), width, needs_grad], dtype=torch.int64, device=rows.device)
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(gathered, mine)
    counts, widths, need = torch.stack(gathered).T.tolist()
    if len(set(widths)) > 1:
        raise ValueError(
            f"rows to gather have {widths} values each on ranks 0 to {len(widths) - 1}; make them equal"
        )
    return counts, any(need)


def _gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    # Collectives need equal shapes, so short ranks are padded, and the padding is cut off again.
    longest = max(counts)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
