"""Writes rankings as TREC's programs read them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import normalize

from lit_metric.data import DataError
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.evaluation import Evaluation, encode_split, evaluation_of
from lit_metric.loggers import run_folder
from lit_metric.store import replacing

log = logging.getLogger(__name__)

BLOCK = 256


class WriteTrecRun(Callback):
    """Writes ``SPLIT.run`` and ``SPLIT.qrels`` into the run folder after ``test`` or ``validate``.

    ``trec_eval``, ``ir-measures`` and ``ranx`` read both: a line of the run is ``QUERY Q0 DOCUMENT RANK SCORE
    NAME``, one of the judgements ``QUERY 0 DOCUMENT GRADE``. The ranking is that of our retrieval measures:
    exact, by cosine, without the query itself, among the other queries of the split or in its corpus.
    Items are called by their keys if these are distinct and without blanks, else by their numbers.

    The split is encoded once more for it, by one process. In the run of a mixture nothing is written.

    Args:
        depth: documents for each query, at least 1. Measures of the whole ranking, such as ``mrr``, agree
            with ours if it reaches to the last relevant document.
        name: of the run, in its last column.

    Raises:
        ValueError: when ``depth`` is below 1, or the name has blanks.
    """

    def __init__(self, depth: int = 1000, name: str = "lit-metric") -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}: a ranking has at least one document")
        if len(name.split()) != 1:
            raise ValueError(f"name={name!r} is one column of the file, so it has no blanks")
        self.depth = depth
        self.name = name

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``test.run``."""
        self._write(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``validation.run`` after ``validate``, but not during training."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "validation")

    def _write(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        folder, data = run_folder(trainer), getattr(trainer, "datamodule", None)
        if not isinstance(data, MetricDataModule) or folder is None or not trainer.is_global_zero:
            return
        if data.parts:
            log.warning("No %s.run is written for a mixture: test one data set at a time", split)
            return
        encoder: Any = pl_module.encoder
        with trainer.precision_plugin.forward_context():
            write_trec(folder, encoder, data, split, self.depth, self.name)


def write_trec(
    folder: Path,
    encoder: Encoder,
    data: MetricDataModule,
    split: str,
    depth: int = 1000,
    name: str = "lit-metric",
) -> tuple[Path, Path]:
    """Write the ranking of each query of a split, and what is relevant to it; see :class:`WriteTrecRun`.

    Args:
        folder: where ``SPLIT.run`` and ``SPLIT.qrels`` go.
        encoder, data: what is evaluated; after ``data.prepare``.
        split: whose items are the queries.
        depth: documents for each query.
        name: of the run.

    Returns:
        The two paths.

    Raises:
        DataError: for a mixture.
    """
    evaluation = evaluation_of(data, split)
    if not isinstance(evaluation, Evaluation):
        raise DataError("a run of TREC is of one data set, not of a mixture")
    queries, roles = data.splits[split].sort().values, data.roles(split)
    corpus = queries if evaluation.among_queries is not None else data.splits[roles["corpus"]].sort().values
    ids = torch.cat([queries, corpus]).unique()
    vectors = torch.empty(len(ids), encoder.dimension)
    for part, found in encode_split(encoder, data, ids, shown=f"encoding for {split}.run"):
        vectors[torch.searchsorted(ids, found.cpu())] = normalize(part.float().cpu(), dim=1)
    names = _names(data.items.keys, ids)
    paths = folder / f"{split}.run", folder / f"{split}.qrels"
    with (
        replacing(paths[0]) as run,
        replacing(paths[1]) as qrels,
        run.open("w", encoding="utf-8") as ranked,
        qrels.open("w", encoding="utf-8") as judged,
    ):
        for block in queries.split(BLOCK):
            rows = [torch.searchsorted(ids, each) for each in (block, corpus)]
            scores = vectors[rows[0]] @ vectors[rows[1]].T
            for line in _rankings(scores, block, corpus, names, depth):
                ranked.write(f"{line} {name}\n")
            judged.writelines(_judgements(data.relations, block, corpus, names))
    log.info("Wrote the rankings of %d queries to %s and %s", len(queries), *paths)
    return paths


def _names(keys: Sequence[str] | None, ids: Tensor) -> dict[int, str]:
    """What each item is called."""
    places = ids.tolist()
    if keys is not None:
        found = [keys[place] for place in places]
        if all(len(key.split()) == 1 and key == key.strip() for key in found) and len({*found}) == len(found):
            return dict(zip(places, found, strict=True))
    return {place: str(place) for place in places}


def _rankings(
    scores: Tensor, queries: Tensor, corpus: Tensor, names: dict[int, str], depth: int
) -> Iterator[str]:
    """The lines of a block of queries, without the name of the run.

    Programs sort by score, and break ties in their own ways: of equal scores the later ones are written as
    the next smaller float32.
    """
    scores = scores.masked_fill(queries[:, None] == corpus, -torch.inf)
    found, order = scores.sort(dim=1, descending=True, stable=True)  # ties in the order of ids
    for query, values, places in zip(queries.tolist(), found.numpy(), order.tolist(), strict=True):
        above = np.float32(np.inf)
        for rank, (value, place) in enumerate(zip(values[:depth], places, strict=False), 1):
            if value == -np.inf:
                break
            above = value if value < above else np.nextafter(above, np.float32(-np.inf))
            yield f"{names[query]} Q0 {names[int(corpus[place])]} {rank} {above!s}"


def _judgements(relations: Any, queries: Tensor, corpus: Tensor, names: dict[int, str]) -> Iterator[str]:
    """The lines of a block of queries: grades where there are such, else 1 for what belongs together."""
    relevant = relations.positive(queries, corpus)
    grades = relevant.float()
    if hasattr(relations, "targets"):
        known = relations.targets(queries, corpus)
        grades = torch.where(known.isnan(), grades, known.clamp(min=0))
        relevant = relevant | ~known.isnan()
    relevant = relevant & (queries[:, None] != corpus)
    for row, place in relevant.nonzero().tolist():
        grade = float(grades[row, place])
        shown = str(int(grade)) if grade.is_integer() else f"{grade:g}"
        yield f"{names[int(queries[row])]} 0 {names[int(corpus[place])]} {shown}\n"
