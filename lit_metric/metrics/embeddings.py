"""What the metrics over all embeddings of an evaluation share: collecting them, over processes too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_metric.index import Similarity


@contextmanager
def float32_by_default() -> Iterator[None]:
    """What is made without a type is float32, whatever a trainer with ``precision: 64`` or ``bf16-true`` has
    made the default: numbers would be rounded, or not go together with the vectors' scores."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class EmbeddingMetric(Metric):
    """Keeps embeddings under their global ids, in one pool or several.

    An id given twice, as samplers do that pad the last batch of a rank, counts once. In several processes
    each gives its own share; `compute` gathers all, and every process computes the same.

    Args:
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Attributes:
        pools: what the names of the states start with.

    Raises:
        ValueError: the similarity is another.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    pools: tuple[str, ...] = ("",)

    embeddings: list[Tensor]
    ids: list[Tensor]

    def __init__(self, similarity: Similarity = "cosine", **kwargs: Any) -> None:
        # A rank that was given nothing since the last compute would answer from its cache, while the others
        # wait for it.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"similarity is {similarity!r}; use 'cosine' or 'dot'")
        self.similarity = similarity
        for pool in self.pools:
            for name in ("embeddings", "ids"):
                self.add_state(f"{pool}{name}", default=[], dist_reduce_fx="cat")

    def _given(self) -> list[Tensor]:
        return [part for pool in self.pools for part in getattr(self, f"{pool}embeddings")]

    def _collect(self, embeddings: Tensor, ids: Tensor, pool: str = "") -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``.

        Raises:
            ValueError: shapes disagree, with each other or with what was given before.
        """
        if embeddings.ndim != 2 or ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings must be [n, d] and ids [n], got {list(embeddings.shape)} and {list(ids.shape)}"
            )
        for earlier in self._given():
            if earlier.shape[1] != embeddings.shape[1]:
                raise ValueError(
                    f"embeddings have dimension {embeddings.shape[1]}, earlier ones {earlier.shape[1]}"
                )
        getattr(self, f"{pool}embeddings").append(embeddings.detach().float())
        getattr(self, f"{pool}ids").append(ids.detach().long())

    def _items(self, pool: str = "") -> tuple[Tensor, Tensor]:
        """Distinct items in the order of their ids: vectors ready to be multiplied, and ids.

        Raises:
            ValueError: an id is negative, or an embedding holds NaN or infinity.
        """
        if not len(getattr(self, f"{pool}ids")):
            return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        ids, order = dim_zero_cat(getattr(self, f"{pool}ids")).sort(stable=True)
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        ids = ids[first]
        if len(ids) and int(ids[0]) < 0:
            raise ValueError(f"ids must be >= 0, got {int(ids[0])}")
        vectors = dim_zero_cat(getattr(self, f"{pool}embeddings"))[order[first]]
        finite = vectors.isfinite().all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"{int((~finite).sum())} of {len(ids)} embeddings hold NaN or infinity, the first is that of "
                f"item {int(ids[~finite][0])}; has the training diverged?"
            )
        return F.normalize(vectors, dim=1) if self.similarity == "cosine" else vectors, ids

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # A process that was given nothing takes part with empty tensors of the right type and width;
        # torchmetrics would send a float vector for both.
        given = [part.shape[1] for part in self._given()]
        width = torch.tensor(given[0] if given else 0, device=self.device)
        width = torch.stack(dist_sync_fn(width, group=process_group or self.process_group)).max()
        for pool in self.pools:
            if not getattr(self, f"{pool}ids"):
                setattr(self, f"{pool}ids", [torch.empty(0, dtype=torch.int64, device=self.device)])
                setattr(self, f"{pool}embeddings", [torch.empty(0, int(width), device=self.device)])
        super()._sync_dist(dist_sync_fn, process_group)
