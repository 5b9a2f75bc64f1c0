"""Embeddings read block by block, on the scale that an index searches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.index import Similarity


class Vectors:
    """The rows of an embedding matrix as float32, of unit length if the metric is cosine.

    Rows are converted as they are asked for, so a memory-mapped matrix stays on the disk.

    Args:
        embeddings: ``[M, d]`` floating-point tensor or array.
        metric: ``"cosine"`` or ``"dot"``.
        rows: ``[m]`` the rows to look at, in their order; None: all.

    Raises:
        ValueError: if it is not a matrix, or (when a row is read) has a value that is not finite.

    Example:
        >>> Vectors(torch.tensor([[3.0, 4.0]]), "cosine")[torch.tensor([0])].tolist()
        [[0.6..., 0.8...]]
    """

    def __init__(
        self, embeddings: Tensor | NDArray[Any], metric: Similarity, rows: Tensor | None = None
    ) -> None:
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings of shape {tuple(embeddings.shape)}: expected [items, dimensions]")
        self.embeddings = embeddings
        self.metric = metric
        self.rows = rows

    def __len__(self) -> int:
        return len(self.embeddings) if self.rows is None else len(self.rows)

    def subset(self, rows: Tensor) -> Vectors:
        """Those of ``rows [m]`` alone, which are numbered from 0 then. Nothing is copied."""
        return Vectors(self.embeddings, self.metric, rows if self.rows is None else self.rows[rows])

    def __getitem__(self, rows: Tensor) -> Tensor:
        rows = rows if self.rows is None else self.rows[rows]
        if isinstance(self.embeddings, Tensor):
            block = self.embeddings.detach()[rows.to(self.embeddings.device)].float()
        else:
            block = torch.from_numpy(np.asarray(self.embeddings[rows.numpy()], dtype=np.float32))
        finite = block.isfinite().all(dim=1)
        if not finite.all():
            bad = rows[~finite.cpu()]
            raise ValueError(
                f"{len(bad)} embeddings are not finite, the first in row {int(bad[0])}: "
                "training has diverged, or the encoder overflows in half precision"
            )
        return F.normalize(block, dim=1) if self.metric == "cosine" else block

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs ``(rows [b], vectors [b, d])`` of at most ``size`` rows, in order."""
        for rows in torch.arange(len(self)).split(size):
            yield rows, self[rows]
