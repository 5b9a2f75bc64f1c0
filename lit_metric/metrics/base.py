"""The base of all metrics over embeddings: collecting them, over processes too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_metric.index import Similarity


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Make float32 the default type, whatever a trainer with ``precision: 64`` or ``bf16-true`` has set.

    Otherwise new numbers would be rounded, or would not match the type of the scores.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Relations(Protocol):
    """What metrics need of relations. Optional: ``targets``, ``excluded`` and ``to(device)``."""

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Whether each candidate id ``[C]`` is relevant to each anchor id ``[A]``: ``[A, C]`` bool."""


class OnCPU:
    """Relations without a ``to``: they get ids on the CPU, and their answers come to the ids' device."""

    def __init__(self, relations: Relations) -> None:
        self.relations = relations

    def __getattr__(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        question = getattr(self.relations, name)
        return lambda anchors, candidates: question(anchors.cpu(), candidates.cpu()).to(anchors.device)


class EmbeddingMetric(Metric):
    """Keeps embeddings under their global ids, in one pool or several.

    An id that is given twice counts once: samplers repeat items to pad the last batch of a rank. In several
    processes each gives its own share; `compute` gathers all, and every process computes the same.

    Args:
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Attributes:
        pools: the prefixes of the states' names.
        columns: the states of each pool, and the type of each.

    Raises:
        ValueError: the similarity is another.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    pools: tuple[str, ...] = ("",)
    columns: tuple[str, ...] = ("embeddings", "ids")

    def __init__(self, similarity: Similarity = "cosine", **kwargs: Any) -> None:
        # A rank without an update since the last compute would answer from its cache, while the others wait.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"similarity is {similarity!r}; use 'cosine' or 'dot'")
        self.similarity = similarity
        for pool in self.pools:
            for name in self.columns:
                self.add_state(f"{pool}{name}", default=[], dist_reduce_fx="cat")

    def _parts(self) -> list[Tensor]:
        return [part for pool in self.pools for part in getattr(self, f"{pool}embeddings")]

    def _collect(self, embeddings: Tensor, *others: Tensor, pool: str = "") -> None:
        """Add ``embeddings [n, d]`` (any float dtype) and the values ``[n]`` of the other columns.

        Raises:
            ValueError: shapes disagree, with each other or with earlier ones.
        """
        if embeddings.ndim != 2 or any(other.shape != embeddings.shape[:1] for other in others):
            got = " and ".join(str(list(other.shape)) for other in (embeddings, *others))
            raise ValueError(f"embeddings must be [n, d] and {' and '.join(self.columns[1:])} [n], got {got}")
        for earlier in self._parts():
            if earlier.shape[1] != embeddings.shape[1]:
                raise ValueError(
                    f"embeddings have dimension {embeddings.shape[1]}, earlier ones {earlier.shape[1]}"
                )
        getattr(self, f"{pool}embeddings").append(embeddings.detach().float())
        for name, other in zip(self.columns[1:], others, strict=True):
            getattr(self, f"{pool}{name}").append(other.detach().long())

    def _ids(self, pool: str) -> Tensor:
        return dim_zero_cat(getattr(self, f"{pool}ids"))

    def _items(self, pool: str = "") -> tuple[Tensor, ...]:
        """Distinct items in the order of their ids: vectors ready for products, ids, and the other columns.

        Raises:
            ValueError: an id is negative, or an embedding holds NaN or infinity.
        """
        if not len(getattr(self, f"{pool}ids")):
            return torch.empty(0, 0), *(torch.empty(0, dtype=torch.int64) for _ in self.columns[1:])
        ids, order = self._ids(pool).sort(stable=True)
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        ids, order = ids[first], order[first]
        if len(ids) and int(ids[0]) < 0:
            raise ValueError(f"ids must be >= 0, got {int(ids[0])}")
        vectors = dim_zero_cat(getattr(self, f"{pool}embeddings"))[order]
        finite = vectors.isfinite().all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"{int((~finite).sum())} of {len(ids)} embeddings hold NaN or infinity, the first is that of "
                f"item {int(ids[~finite][0])}; has the training diverged?"
            )
        others = (dim_zero_cat(getattr(self, f"{pool}{name}"))[order] for name in self.columns[2:])
        return F.normalize(vectors, dim=1) if self.similarity == "cosine" else vectors, ids, *others

    def _placed(self, relations: Any, device: torch.device) -> Any:
        """The relations, which then take ids on ``device``."""
        return relations.to(device) if hasattr(relations, "to") else OnCPU(relations)

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # A process without embeddings takes part with empty tensors of the right type and width; torchmetrics
        # would send a float vector for every state.
        given = [part.shape[1] for part in self._parts()]
        width = torch.tensor(given[0] if given else 0, device=self.device)
        width = torch.stack(dist_sync_fn(width, group=process_group or self.process_group)).max()
        for pool in self.pools:
            if not getattr(self, f"{pool}ids"):
                setattr(self, f"{pool}embeddings", [torch.empty(0, int(width), device=self.device)])
                for name in self.columns[1:]:
                    setattr(self, f"{pool}{name}", [torch.empty(0, dtype=torch.int64, device=self.device)])
        super()._sync_dist(dist_sync_fn, process_group)
