"""Batches that memory doesn't cap: what the backward pass needs is computed again, not kept."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import get_device_states, set_device_states
from transformers import PreTrainedModel

Recompute = Literal["none", "chunks", "layers"]

TOKENS_IN_MEMORY = 4096
"""Tokens whose activations are held at once under ``recompute: chunks``, by default."""
GROWTH = 1 << 26
"""Bytes by which the process may grow from chunk to chunk before freed memory is given back."""
BETWEEN = 8
"""Chunks between two times at least, so that giving back costs little beside them."""
SIZES = "/proc/self/statm"
ALLOCATORS = {
    "tcmalloc": "MallocExtension_ReleaseFreeMemory",
    "jemalloc": "mallctl",
    "mimalloc": "mi_malloc",
    "glibc": "malloc_trim",
}
"""Where the memory of tensors on the CPU may come from, and a function that only this library has."""


def tokens_in_memory(recompute: Recompute, given: int | None) -> int:
    """The number of tokens of a chunk, after a check of both arguments.

    Raises:
        ValueError: if there is no such way to recompute, or a number is given that is below 1 or not used.
    """
    if recompute not in get_args(Recompute):
        raise ValueError(f"recompute is {recompute!r}; choose one of {', '.join(get_args(Recompute))}")
    if given is None:
        return TOKENS_IN_MEMORY
    if recompute != "chunks":
        raise ValueError(
            f"max_tokens_in_memory is {given}, but recompute is {recompute!r}, which has no chunks: "
            "say recompute: chunks, or leave the number out"
        )
    if given < 1:
        raise ValueError(f"max_tokens_in_memory is {given}; it has to be at least 1")
    return given


def length_chunks(lengths: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Cut rows into chunks of similar length, longest first, of at most ``max_tokens`` tokens or one row."""
    order = lengths.argsort(descending=True, stable=True)
    used = lengths[order].cumsum(0).tolist()
    start, before = 0, 0
    for place, total in enumerate(used):
        if total - before > max_tokens and place > start:
            yield order[start:place]
            start, before = place, used[place - 1]
    if start < len(order):
        yield order[start:]


def in_chunks(
    work: Callable[[Tensor], Tensor], lengths: Tensor, max_tokens: int, inputs: Iterable[Tensor] = ()
) -> Tensor:
    """``work`` on all rows, with the activations of one chunk of them in memory.

    Without gradient, and where one chunk takes all rows, nothing is computed twice. Else ``work`` is called
    again for each chunk in the backward pass, with the same random numbers. That is GradCache (Gao et al.,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983) for any loss.

    Args:
        work: from the numbers ``[m]`` of some rows to their vectors ``[m, d]``, each of which depends on its
            own row only.
        lengths: ``[n]`` int64, the tokens of each row.
        max_tokens: of a chunk; a longer row is a chunk by itself.
        inputs: parameters and tensors that ``work`` reads; those that require it get a gradient.

    Returns:
        ``[n, d]``.

    Raises:
        ValueError: if parameters are sharded over processes, as FSDP does it.

    Example:
        >>> in_chunks(lambda rows: 10.0 * rows[:, None], torch.tensor([3, 1, 2]), max_tokens=4).tolist()
        [[0.0], [10.0], [20.0]]
    """
    chunks = list(length_chunks(lengths, max_tokens))
    if len(chunks) <= 1:
        return work(torch.arange(len(lengths), device=lengths.device))
    trained = [each for each in inputs if each.requires_grad] if torch.is_grad_enabled() else []
    if any(hasattr(each, "placements") or hasattr(each, "_sharded_size") for each in trained):
        raise ValueError(
            "recompute: chunks can't work on parameters that are sharded over processes (FSDP), as each "
            "would encode another number of chunks: take recompute: layers, or DDP"
        )
    vectors: Tensor = Chunks.apply(work, chunks, *trained)
    return vectors


class Chunks(torch.autograd.Function):
    """See :func:`in_chunks`.

    ``torch.utils.checkpoint`` would do, too, but keeps a graph of each chunk until the backward pass. Its
    many small objects lie between the activations on the C heap, which then can't be used again as a whole:
    memory grows with every chunk.
    """

    @staticmethod
    def forward(ctx: Any, work: Callable[[Tensor], Tensor], chunks: list[Tensor], *trained: Tensor) -> Tensor:
        """The vectors of all rows, in order."""
        kind = chunks[0].device.type
        # Autocast would convert a weight once for all chunks, and add up their gradients in half precision.
        precision: dict[str, Any] = {
            "dtype": torch.get_autocast_dtype(kind),
            "enabled": torch.is_autocast_enabled(kind),
            "cache_enabled": False,
        }

        def chunk(rows: Tensor) -> Tensor:
            with torch.autocast(kind, **precision):
                return work(rows)

        vectors, states, heap = torch.empty(0), [], Heap(kind)
        for rows in chunks:
            if trained:
                states.append((torch.get_rng_state(), *get_device_states(rows)))
            # With a graph that keeps nothing, so that the same kernels run as in the backward pass.
            with torch.set_grad_enabled(bool(trained)), saved_tensors_hooks(lambda tensor: None, refuse):
                part = chunk(rows).detach()
            if rows is chunks[0]:
                vectors = part.new_empty(sum(map(len, chunks)), part.shape[1])
            vectors[rows] = part
            del part
            heap.after_chunk()
        ctx.chunk, ctx.chunks, ctx.states, ctx.trained = chunk, chunks, states, trained
        ctx.heap = heap
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The sum of the chunks' gradients."""
        totals: list[Tensor | None] = [None] * len(ctx.trained)
        kind = gradient.device.type
        heap = ctx.heap
        heap.after_loss()
        for rows, (state, devices, device_states) in zip(ctx.chunks, ctx.states, strict=True):
            with torch.random.fork_rng(devices, device_type="cuda" if kind == "cpu" else kind):
                torch.set_rng_state(state)
                set_device_states(devices, device_states)
                with torch.enable_grad():
                    part = ctx.chunk(rows)
            if not part.requires_grad:
                continue
            found = torch.autograd.grad(part, ctx.trained, gradient[rows], allow_unused=True)
            totals = [add(*both) for both in zip(totals, found, strict=True)]
            del part, found  # before the next chunk
            heap.after_chunk()
        pairs = zip(totals, ctx.trained, strict=True)
        return None, None, *(None if total is None else total.to(each.dtype) for total, each in pairs)


class Heap:
    """Keeps the C heap from growing with every chunk, where tensors are on the CPU and the heap is that of
    glibc or tcmalloc.

    Small objects that stay lie between the tensors of chunks. So what one chunk has freed serves the next
    only in part. To give it back to the system after every chunk would cost a tenth of the time, as the next
    one has to get it again; so that is done when the process has grown by ``GROWTH``, and not within
    ``BETWEEN`` chunks.

    Args:
        kind: of the device of the tensors.
    """

    def __init__(self, kind: str) -> None:
        self._release = _release_function() if kind == "cpu" else None
        self._first = self._last = 0  # bytes after the first and the last chunk of those that are counted
        self._chunks = 0

    def after_chunk(self) -> None:
        """Give freed memory back to the system, if it is time to."""
        if self._release is None:
            return
        self._last = resident_memory()
        self._first = self._first or self._last
        self._chunks += 1
        if self._chunks >= BETWEEN and self._last > self._first + GROWTH:
            self._give_back(self._release)

    def after_loss(self) -> None:
        """Give back what the loss took, if it is much. Count anew, as chunks take more backwards."""
        if self._release is not None:
            if resident_memory() > self._last + GROWTH:
                self._give_back(self._release)
            self._first = self._chunks = 0

    def _give_back(self, release: Callable[[], object]) -> None:
        release()
        self._first = self._chunks = 0


def resident_memory() -> int:
    """The memory that this process holds, in bytes; on Linux only."""
    with open(SIZES, "rb") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def allocator() -> str | None:
    """Which of ``ALLOCATORS`` this process has its memory from; None if from another, or if that isn't told.

    Example:
        >>> allocator() in (*ALLOCATORS, None)
        True
    """
    if sys.platform != "linux":
        return None
    loaded = ctypes.CDLL(None)  # what is loaded before glibc, by LD_PRELOAD, comes first
    return next((name for name, only in ALLOCATORS.items() if hasattr(loaded, only)), None)


@functools.cache
def _release_function() -> Callable[[], object] | None:
    """What gives freed memory back to the system; None if nothing does, or sizes of processes aren't told."""
    name = allocator() if os.path.exists(SIZES) else None
    if name not in ("tcmalloc", "glibc"):
        return None
    release = getattr(ctypes.CDLL(None), ALLOCATORS[name])
    return functools.partial(release, 0) if name == "glibc" else release


def add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of two gradients, in place of the first and in float32 at least; None is none."""
    if more is None:
        return total
    # Two parameters that are added up share one gradient, so the first is copied.
    if total is None:
        return more.to(torch.promote_types(more.dtype, torch.float32), copy=True)
    return total.add_(more)


def refuse(_: object) -> Tensor:
    """Called where somebody asks for what a graph has not kept."""
    raise RuntimeError("the activations of a chunk were not kept")


def recompute_layers(model: PreTrainedModel) -> None:
    """Switch on the model's own gradient checkpointing: in training, it keeps the input of each layer only.

    Raises:
        ValueError: if the model has none.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(
            f"recompute: layers needs gradient checkpointing, and transformers has none for models of type "
            f"{model.config.model_type}: take recompute: chunks, which works with any model"
        )
    # Older versions of transformers have it under its former name only.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # It makes token embeddings ask for a gradient, which would run the backward pass through frozen layers.
    model.disable_input_require_grads()
