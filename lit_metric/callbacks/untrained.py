"""Keeps what a page shows of the encoder before and after a fit, and what else would be computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from lit_metric.index import Embeddings
from lit_metric.loggers import run_folder

UNTRAINED = "untrained.safetensors"
MOST = 100_000
"""Vectors that are kept in memory before training, and after it; none of a larger split."""


class KeepUntrained(Callback):
    """Keeps what a page needs of a fit.

    It writes the weights of the untrained encoder into the run folder, as ``untrained.safetensors``. A
    resumed run keeps those that its first part wrote. In memory it keeps the vectors that
    :class:`~lit_metric.callbacks.RunReport` measures, so that the page needn't encode these items again.

    Attributes:
        folder: of the run, once the fit has started; None where nothing may be written.
        vectors: ``"before"`` and ``"after"``, of the items that this rank encoded. A split of more than
            100,000 items is left out.
    """

    folder: Path | None = None

    def __init__(self) -> None:
        self.vectors: dict[str, Embeddings] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights."""
        self.folder = run_folder(trainer)
        if self.folder is None or not trainer.is_global_zero or trainer.ckpt_path is not None:
            return
        encoder: Any = pl_module.encoder
        self.folder.mkdir(parents=True, exist_ok=True)
        # Copies, as safetensors refuses tensors that share memory.
        weights = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
        save_file(weights, self.folder / UNTRAINED)

    def measuring(self, when: str) -> tuple[Callable[[Tensor, Tensor], None], Callable[[], None]]:
        """Two functions: one takes the vectors and ids of each batch, the other keeps them all as those of
        ``when``."""
        parts: list[tuple[Tensor, Tensor]] = []
        count = 0

        def seen(vectors: Tensor, ids: Tensor) -> None:
            nonlocal count
            count += len(ids)
            if count <= MOST:
                parts.append((vectors.detach().float().cpu(), ids.cpu()))
            else:
                parts.clear()

        def keep() -> None:
            self.vectors.pop(when, None)
            if parts and count <= MOST:
                vectors, ids = (torch.cat(each) for each in zip(*parts, strict=True))
                ids, order = ids.sort(stable=True)
                first = torch.ones(len(ids), dtype=torch.bool)
                first[1:] = ids.diff() > 0  # an item may have two roles
                self.vectors[when] = Embeddings(ids[first], vectors[order[first]])

        return seen, keep
