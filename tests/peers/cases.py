"""What the comparisons with peers share: batches of many kinds, one way to compare, and the count of it.

A comparison is made on the same random numbers, of the value and of the gradient. What is compared is counted
under the names of a peer and a subject: ``LIT_METRIC_COUNTS=FILE`` writes the counts at the end of a run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs

COUNTS: Counter[tuple[str, str]] = Counter()
QUICK, FULL = 1, 40
"""Seeds of each comparison: in the quick part, and in all."""

UNUSED = (
    "gdown",
    "matplotlib",
    "matplotlib.pyplot",
    "omegaconf",
    "requests",
    "torchvision",
    "torchvision.ops",
    "validators",
)
"""What the peers' modules import at their top, and the functions that are compared don't use."""

Scalar = Callable[..., Tensor]


def seeds(quick: int = QUICK, full: int = FULL) -> Any:
    """Parametrize ``seed``: the first ``quick`` always run, the rest are marked ``peers``."""
    marked = [pytest.param(seed, marks=pytest.mark.peers) for seed in range(quick, full)]
    return pytest.mark.parametrize("seed", [*range(quick), *marked])


def count(peer: str, subject: str, number: int = 1) -> None:
    """Note that ``number`` values were compared."""
    COUNTS[peer, subject] += number


def module(name: str) -> Any:
    """A module of a peer by its full name, without running the ``__init__`` of the packages around it.

    Those import what a loss doesn't need. So a peer can be installed without its dependencies; those of
    :data:`UNUSED` that its modules name, and that are missing, are stand-ins while it is imported. Where the
    peer isn't installed, the tests that ask for it are skipped.
    """
    top, *rest = name.split(".")[:-1]
    if top not in sys.modules:
        found = importlib.util.find_spec(top)
        if found is None or not found.submodule_search_locations:
            pytest.skip(f"{top} is not installed: make test-peers installs it", allow_module_level=True)
        _bare(top, Path(found.submodule_search_locations[0]))
    folder = Path(sys.modules[top].__path__[0])
    for depth in range(1, len(rest) + 1):
        package = ".".join([top, *rest[:depth]])
        if package not in sys.modules:
            _bare(package, folder.joinpath(*rest[:depth]))
    missing = [each for each in UNUSED if importlib.util.find_spec(each.partition(".")[0]) is None]
    with mock.patch.dict(sys.modules, {each: mock.MagicMock() for each in missing}):
        before = {*sys.modules}
        importlib.import_module(name)
        imported = {each: sys.modules[each] for each in {*sys.modules} - before}
    sys.modules.update(imported)  # which the patch would take out again
    return sys.modules[name]


def _bare(package: str, folder: Path) -> None:
    """A package of which nothing has been run."""
    bare = types.ModuleType(package)
    bare.__path__ = [str(folder)]
    sys.modules[package] = bare


class Batch(NamedTuple):
    """Labelled items, each of which is an anchor and a candidate.

    Attributes:
        embeddings: ``[N, d]``.
        labels: ``[N]`` int64.
        ties: whether scores may be equal, so that a gradient depends on which of them is taken.
    """

    embeddings: Tensor
    labels: Tensor
    ties: bool = False

    @property
    def pairs(self) -> DensePairs:
        """Equal labels are positive, an item with itself is neither."""
        same = self.labels[:, None] == self.labels
        return DensePairs(same & ~torch.eye(len(same), dtype=torch.bool), ~same)

    @property
    def whole(self) -> bool:
        """Whether every anchor has a positive and a negative."""
        sizes = torch.bincount(self.labels)
        return len(sizes[sizes > 0]) > 1 and bool((sizes[sizes > 0] > 1).all())


def _labels(kind: str, generator: torch.Generator) -> Tensor:
    size = int(torch.randint(9, 25, (), generator=generator))
    fixed = {
        "pairs": torch.arange(size // 2).repeat(2),
        "unequal classes": torch.tensor([0] * 9 + [1] * 4 + [2] * 2 + [3]),
        "one class": torch.zeros(size, dtype=torch.int64),
        "all different": torch.arange(size),
        "two items": torch.tensor([0, 1]),
    }
    if kind in fixed:
        return fixed[kind]
    return torch.randint(size // 2 if kind == "many classes" else 3, (size,), generator=generator)


KINDS = (
    "few classes",
    "many classes",
    "pairs",
    "unequal classes",
    "one class",
    "all different",
    "two items",
    "duplicates",
    "ties",
    "nearly one point",
    "large norms",
    "small norms",
    "wide",
)
DTYPES = (torch.float64, torch.float32)


def batch(kind: str, seed: int, dtype: torch.dtype = torch.float64) -> Batch:
    """A random batch of one of :data:`KINDS`."""
    generator = torch.Generator().manual_seed(1000 * seed + KINDS.index(kind))
    labels = _labels(kind, generator)
    dimension = 48 if kind == "wide" else int(torch.randint(2, 9, (), generator=generator))
    vectors = torch.randn(len(labels), dimension, generator=generator, dtype=torch.float64)
    if kind == "duplicates":  # of one class and of another
        vectors[1], vectors[2] = vectors[0], vectors[-1]
        labels = labels.clone()
        labels[1], labels[2] = labels[0], (labels[-1] + 1) % 3
    elif kind == "ties":
        vectors = torch.randint(1, 3, vectors.shape, generator=generator).double()
    elif kind == "nearly one point":
        vectors = vectors[:1] + 0.01 * vectors
    elif kind in ("large norms", "small norms"):
        vectors *= 100.0 if kind == "large norms" else 0.01
    return Batch(vectors.to(dtype), labels, ties=kind in ("ties", "duplicates"))


def agree(
    peer: str,
    subject: str,
    ours: Scalar,
    theirs: Scalar,
    inputs: Sequence[Tensor],
    *,
    gradient: bool = True,
    rtol: float | None = None,
) -> None:
    """Assert that two functions of the same tensors have one value, and one gradient to each tensor.

    In float64 both agree to 1e-9, in float32 to 1e-3 of the largest entry, unless ``rtol`` says otherwise.
    """
    dtype = inputs[0].dtype
    rtol = rtol or (1e-9 if dtype == torch.float64 else 1e-3)
    results = []
    for function in (ours, theirs):
        leaves = [tensor.detach().clone().requires_grad_(gradient) for tensor in inputs]
        value = function(*leaves)
        gradients: Sequence[Tensor | None] = ()
        if gradient and value.requires_grad:
            gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        elif gradient:
            gradients = [None] * len(leaves)
        filled = [
            torch.zeros_like(leaf) if each is None else each
            for leaf, each in zip(leaves, gradients, strict=False)
        ]
        results.append((value.detach(), *filled))
    for mine, other in zip(*results, strict=True):
        assert mine.isfinite().all(), f"ours is not finite: {mine}"
        size = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(mine, other.to(mine.dtype), rtol=rtol, atol=rtol * size)
        count(peer, subject)
