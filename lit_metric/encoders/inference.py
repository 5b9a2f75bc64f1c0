"""How a text model runs on a CPU without gradient: a few tokens at a time, and in bfloat16 from a copy.

Autocast to bfloat16 converts each weight at each call, and leaves what is between matrix products in float32.
oneDNN then changes the order of each weight in memory before it multiplies. A copy of the model in bfloat16
needs none of this. It is made when it is first needed, and again after the weights have changed.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from lit_metric.data.ragged import Ragged

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = 1024
"""Tokens that run together, for each thread. What a layer computes from more tokens leaves a core's cache."""

TOLERANCE = 6e-2
"""Relative difference (Frobenius) between the states in bfloat16 and in float32 that rounding explains."""

SAMPLED = 16

MOST_PIECES = 8
"""Pieces that run at a time; more would wait for Python's lock."""


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for matrix products in bfloat16 (AVX512-BF16 or AMX), so that
    encoding in it is faster than in float32."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(bool(each()) for each in asked if each is not None)


Run = Callable[[PreTrainedModel, Ragged], Tensor]

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_pools.clear)


class PackedLinear(nn.Module):
    """A linear layer, and perhaps GELU after it, whose weight lies in memory as oneDNN reads it.

    Args:
        linear: in bfloat16.
        gelu: whether GELU (the exact one) comes after it.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TOKENS_AT_ONCE)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, states: Tensor) -> Tensor:
        """``[..., input]`` to ``[..., output]``."""
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, *self.after)


class HalfCopy:
    """The copy of one model in bfloat16, for any number of threads. It is neither saved nor copied with the
    object that holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[Any, PreTrainedModel] | None = None  # the state of the weights, and their copy
        self._refused = False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    @property
    def wanted(self) -> bool:
        """Whether the call comes under autocast to bfloat16 without gradient, on a processor that has the
        instructions."""
        return (
            not self._refused
            and not torch.is_grad_enabled()
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and platform.machine().lower() in ("x86_64", "amd64")
            and torch.backends.mkldnn.is_available()
            and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )

    def of(self, model: PreTrainedModel, tokens: Ragged, run: Run) -> PreTrainedModel | None:
        """The copy of a model in evaluation mode.

        Before the first one is used, a few texts run through it and through the model. One that differs, or
        can't be made, is not used, and the log says why.

        Args:
            model: in float32.
            tokens: at least one text.
            run: a model and texts to the states of their tokens.

        Returns:
            None where there is no copy.
        """
        parameters = [*model.parameters()]
        ordinary = all(type(each) is nn.Parameter and not each.is_inference() for each in parameters)
        if not ordinary or any(each.dtype != torch.float32 for each in parameters):
            return None
        # Something may have written to ``parameter.data``, which counts as no new version.
        some = parameters[:: max(1, len(parameters) // SAMPLED)]
        state = (
            [(each._version, each.data_ptr()) for each in parameters],
            [float(each.detach().reshape(-1)[each.numel() // 2]) for each in some if each.numel()],
        )
        made = self._made  # read once, as another thread may replace it
        if made is not None and made[0] == state:
            return made[1]
        with self._lock:
            return self._renewed(state, model, tokens, run)

    def _renewed(
        self, state: Any, model: PreTrainedModel, tokens: Ragged, run: Run
    ) -> PreTrainedModel | None:
        """A new copy; for one thread at a time."""
        if self._refused:
            return None
        if self._made is not None and self._made[0] == state:  # by another thread
            return self._made[1]
        # The copy outlives an inference_mode block in which it was made.
        with torch.inference_mode(False), torch.no_grad():
            try:
                half = half_copy(model)
                if self._made is None:
                    filled = tokens.lengths.nonzero().squeeze(1)
                    self._check(model, half, tokens.select(filled[:4]), run)
                self._made = state, half
                return half
            except Exception as error:  # a model's own code may raise anything
                log.info("no copy in bfloat16, but autocast: %s: %s", type(error).__name__, error)
                self._made, self._refused = None, True
                return None

    @staticmethod
    def _check(model: PreTrainedModel, half: PreTrainedModel, tokens: Ragged, run: Run) -> None:
        with torch.autocast("cpu", enabled=False):
            expected, states = run(model, tokens), run(half, tokens).float()
        difference = float((states - expected).norm() / expected.norm().clamp(min=1e-6))
        if not difference <= TOLERANCE:  # NaN is no agreement either
            raise ValueError(f"its states differ by {difference:.2g}")


def half_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with parameters in bfloat16 and linear layers as oneDNN wants them; buffers stay as they are."""
    half = copy.deepcopy(model)
    for parameter in half.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for module in [*half.modules()]:
        # BERT and its relatives.
        gelu = isinstance(getattr(module, "intermediate_act_fn", None), GELUActivation)
        if gelu and type(getattr(module, "dense", None)) is nn.Linear:
            module.dense = PackedLinear(module.dense, gelu=True)  # type: ignore[arg-type]
            module.intermediate_act_fn = nn.Identity()
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return half


def pieces(tokens: Ragged, threads: int) -> list[Ragged]:
    """The texts in order, cut into pieces of about :data:`TOKENS_AT_ONCE` tokens for each of ``threads``.

    Example:
        >>> [len(piece) for piece in pieces(Ragged.from_lists([[1], [2, 3]]), threads=1)]
        [2]
    """
    limit = TOKENS_AT_ONCE * threads
    if len(tokens.values) <= limit:
        return [tokens]
    starts = tokens.offsets[:-1]
    first = torch.cat([starts.new_ones(1, dtype=torch.bool), (starts // limit).diff() > 0])
    cuts = [*first.nonzero().squeeze(1).tolist(), len(tokens)]
    offsets = [tokens.offsets[begin : end + 1] for begin, end in itertools.pairwise(cuts)]
    return [Ragged(tokens.values[each[0] : each[-1]], each - each[0]) for each in offsets]


def reentrant(model: PreTrainedModel) -> bool:
    """Whether several threads may run a model at a time.

    It must be a model of transformers, and not change itself, as one does whose rotary positions depend on
    the longest text.
    """
    rotary = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    changing = any(kind in each for each in rotary for kind in ("dynamic", "longrope"))
    return type(model).__module__.startswith("transformers.") and not changing


def run_pieces(work: Callable[[Ragged], Tensor], tokens: Ragged, at_once: bool) -> Tensor:
    """``work`` on the pieces of some texts, without gradient.

    The threads of an operation wait for each other after it, those of different pieces never.

    Args:
        work: from texts to the states ``[T, h]`` of their tokens.
        tokens: ``T`` in all.
        at_once: run several pieces at a time, each on a share of the threads.

    Returns:
        ``[T, h]``.
    """
    threads = torch.get_num_threads()
    count = min(threads, MOST_PIECES) if at_once else 1
    parts = pieces(tokens, threads // count)
    if len(parts) < 2 or count == 1:
        return torch.cat([work(part) for part in pieces(tokens, threads)])
    inference = torch.is_inference_mode_enabled()

    def do(part: Ragged) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    with _lock:
        if (threads, count) not in _pools:
            _pools[threads, count] = _pool(threads, count)
    return torch.cat([*_pools[threads, count].map(do, parts)])


def _pool(threads: int, count: int) -> ThreadPoolExecutor:
    """``count`` threads that share PyTorch's ``threads``."""
    pool, together = ThreadPoolExecutor(count, "lit-metric"), threading.Barrier(count)

    def start(_: int) -> None:
        torch.get_num_threads()  # else the first operation of a new thread would undo what comes now
        torch.set_num_threads(threads // count)
        together.wait()

    [*pool.map(start, range(count))]
    torch.set_num_threads(threads)  # the number is that of a thread, but new threads begin with the latest
    return pool
