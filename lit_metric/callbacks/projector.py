"""Vectors of evaluated items for TensorBoard's projector."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_metric.datamodule import MetricDataModule
from lit_metric.evaluation import encode_split

log = logging.getLogger(__name__)

SHOWN = 200
"""Characters of a text that the projector shows."""


class EmbeddingProjector(Callback):
    """Gives TensorBoard's projector the vectors of validation items, with text and label of each.

    They are written when training ends, of the weights that are in the module then, and before training, so
    that the two can be compared. TensorBoard shows them under the tab Projector. Without a logger of
    TensorBoard nothing is written. The items are encoded once more for it, by one process.

    Args:
        items: at most; the first of the split.
        split: whose items are shown.

    Raises:
        ValueError: when ``items`` is below 1.
    """

    def __init__(self, items: int = 2000, split: str = "validation") -> None:
        if items < 1:
            raise ValueError(f"items={items}: at least one item is needed")
        self.items = items
        self.split = split

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the vectors of the untrained encoder."""
        self._write(trainer, pl_module, "before")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those of the trained one."""
        self._write(trainer, pl_module, "after")

    def _write(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        data = getattr(trainer, "datamodule", None)
        logger = next((each for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)
        if not isinstance(data, MetricDataModule) or logger is None or not trainer.is_global_zero:
            return
        if self.split not in data.splits:
            log.warning("EmbeddingProjector shows nothing, as there is no %s split", self.split)
            return
        ids = data.splits[self.split].sort().values[: self.items]
        encoder: Any = pl_module.encoder
        vectors = torch.empty(len(ids), encoder.dimension)
        with trainer.precision_plugin.forward_context():
            for part, found in encode_split(encoder, data, ids):
                vectors[torch.searchsorted(ids, found.cpu())] = part.float().cpu()
        header, rows = self._described(data, ids)
        logger.experiment.add_embedding(
            vectors, rows, metadata_header=header, tag=f"{self.split}_{when}", global_step=trainer.global_step
        )

    @staticmethod
    def _described(data: MetricDataModule, ids: Tensor) -> tuple[list[str], list[list[str]]]:
        """What the projector says of each item."""
        known = data.vocabulary.texts
        texts = [", ".join(known[text] for text in row) for row in data.items.texts.select(ids).tolist()]
        columns = {"text": [" ".join(text.split())[:SHOWN] for text in texts]}
        labels, classes = getattr(data.relations, "labels", None), getattr(data.relations, "classes", None)
        if labels is not None and classes is not None:
            own = labels.select(ids).tolist() if not isinstance(labels, Tensor) else labels[ids].tolist()
            named = [each if isinstance(each, list) else [each] for each in own]
            columns["label"] = [
                " ".join(", ".join(classes[label] for label in row if label >= 0).split()) for row in named
            ]
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]
