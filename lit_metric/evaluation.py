"""What an evaluation measures, and evaluation outside of Lightning's loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from lit_metric.data import Batch
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.metrics import NeighbourMetrics

Role = Literal["queries", "corpus"]


class Evaluation(nn.Module):
    """The metrics of one split under its protocol; see ``validate_against`` of the data module.

    With ``"both"``, retrieval (``recall@k``, ``map@r``, ...) is leave-one-out among the queries, and
    classification (``knn10_accuracy``, ...) has the training items vote.

    Args:
        data: after its ``setup``.
        split: whose items are the queries.
        ks: list lengths of recall and precision.
        knn: numbers of voting neighbours.
        temperature: of the votes; see :class:`~lit_metric.metrics.NeighbourMetrics`.
    """

    def __init__(
        self,
        data: MetricDataModule,
        split: str,
        ks: tuple[int, ...] = (1, 5, 10),
        knn: tuple[int, ...] = (1, 10),
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        against = data.against[split]
        self.roles: list[Role] = ["queries", "corpus"] if len(data.roles(split)) == 2 else ["queries"]

        def metrics(classify: bool) -> NeighbourMetrics:
            labels = data.relations.labels if classify else None
            counts = data.class_counts if classify else None
            return NeighbourMetrics(
                data.relations,
                labels,
                ks,
                knn if classify else (),
                temperature=temperature,
                class_counts=counts,
            )

        self.among_queries = (
            None if against == "train" and "corpus" in self.roles else metrics(len(self.roles) == 1)
        )
        self.in_corpus = metrics(True) if "corpus" in self.roles else None

    def update(self, embeddings: Tensor, ids: Tensor, role: Role) -> None:
        """Add ``embeddings [n, d]`` of the items ``ids [n]``."""
        if self.among_queries is not None and role == "queries":
            self.among_queries.update(embeddings, ids)
        if self.in_corpus is not None:
            self.in_corpus.update(embeddings, ids, corpus=role == "corpus")

    def compute(self) -> dict[str, float]:
        """All values, over all processes; then start anew."""
        results: dict[str, float] = {}
        for metrics in (self.in_corpus, self.among_queries):
            if metrics is None:
                continue
            values = {name: float(value) for name, value in metrics.compute().items()}
            metrics.reset()
            if metrics is self.in_corpus and self.among_queries is not None:
                values = {name: value for name, value in values.items() if name.startswith("knn")}
            results |= values
        return results


def encode_split(
    encoder: Encoder, data: MetricDataModule, ids: Tensor, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of the items ``ids``, in evaluation mode: ``([n, d] vectors, [n] ids)`` per batch."""
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            for number, batch in enumerate(data.chunk_loader(ids)):
                if number % world_size == rank:
                    yield encode_batch(encoder, batch.to(encoder.device))
    finally:
        encoder.train(training)


def encode_batch(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """``[A, d]`` raw vectors of a batch's anchors, and their ids ``[A]``."""
    vectors = encoder(**batch.inputs)
    return vectors[batch.anchors], batch.anchor_ids


def evaluate(
    encoder: Encoder,
    data: MetricDataModule,
    split: str,
    evaluation: Evaluation,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float]:
    """Encode what the evaluation of ``split`` needs and measure it; all ranks together, if several."""
    evaluation.to(encoder.device)
    for role, name in data.roles(split).items():
        for vectors, ids in encode_split(encoder, data, data.splits[name], rank, world_size):
            evaluation.update(vectors, ids, role)  # type: ignore[arg-type]
    return evaluation.compute()
