"""The view of a data set that an evaluation uses."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, PairRelations, Relations

logger = logging.getLogger(__name__)

Against = Literal["self", "train", "both"]

VOTERS = 20
"""k-NN by 10 neighbours needs about twice as many items of a class to choose among."""

MEAN = "mean"
"""What an evaluation of several data sets calls the mean of their main metrics."""

HEADLINES = {
    "classes": ["map@r", "hit_rate@1", "hit_rate@10", "knn10_accuracy", "knn10_accuracy_macro"],
    "several classes": ["ndcg@10", "map@10", "hit_rate@1", "knn10_f1_micro", "knn10_f1_macro"],
    "pairs": ["mrr", "hit_rate@1", "hit_rate@10", "ndcg@10", "map@10"],
    "grades": ["ndcg@10", "mrr", "hit_rate@1", "map@10", "recall@10"],
    "scores": ["spearman", "pearson", "pair_ap", "mrr", "hit_rate@1"],
    "triplets": ["tot", "mrr", "hit_rate@1", "hit_rate@10", "ndcg@10"],
    "triples": ["filtered_mrr", "hits@1", "hits@3", "hits@10", "mrr"],
}
"""By what is known of items, the metrics that matter most, the main one first."""


def class_counts(relations: Relations, ids: Tensor | None) -> Tensor:
    """``[classes]`` int64, how many of the items ``ids`` (all if None) each class has.

    Raises:
        TypeError: when the relations have no classes.
    """
    if not isinstance(relations, LabelRelations | MultiLabelRelations):
        raise TypeError(f"{type(relations).__name__} have no classes to count")
    labels = relations.labels
    if isinstance(labels, Ragged):
        values = labels.values if ids is None else labels.select(ids).values
    else:
        values = labels if ids is None else labels[ids]
    return torch.bincount(values[values >= 0], minlength=len(relations.classes))


class EvaluationView:
    """A data set with the protocol of its evaluations.

    Args:
        dataset: what was read.
        against: by split, what labelled items are compared with, None for what suits their number; see
            :class:`~lit_metric.MetricDataModule`.
    """

    _dataset: Dataset | None = None
    against: dict[str, Against | None]

    def __init__(self, dataset: Dataset, against: dict[str, Against | None]) -> None:
        self._dataset = dataset
        self.against = against

    @property
    def dataset(self) -> Dataset:
        """What was read.

        Raises:
            DataError: when nothing has been read yet.
        """
        if self._dataset is None:
            raise DataError("nothing has been read yet: call read() first")
        return self._dataset

    @property
    def relations(self) -> Relations:
        """What belongs together."""
        return self.dataset.relations

    @property
    def splits(self) -> dict[str, Tensor]:
        """Int64 ids by the name of the split; none before anything is read."""
        return {} if self._dataset is None else self._dataset.splits

    @property
    def corpus(self) -> str:
        """Fingerprint of the training items and what is known of them, by which tables of negatives and
        checkpoints are recognised."""
        return self.dataset.digest("train")

    @property
    def class_counts(self) -> Tensor:
        """``[classes]`` int64, how many training items each class has; how many of all items where nothing is
        trained on.

        Raises:
            TypeError: when items have no labels.
        """
        return class_counts(self.relations, self.splits.get("train"))

    def rows_of(self, split: str, ids: Tensor) -> tuple[Tensor | None, int | None]:
        """The rows, from 0, in which items of a split stand in its source.

        Args:
            split: of the items.
            ids: ``[n]`` int64 global ids.

        Returns:
            ``[n]`` int64, or None where items are not rows; and how many rows the source has, or None where
            the split is not a source of its own.
        """
        rows = None if self.dataset.rows is None else self.dataset.rows[ids]
        if rows is None or (len(rows) and int(rows.min()) < 0):
            return None, None
        return rows, self.dataset.row_counts.get(split)

    def roles(self, split: str) -> dict[str, str]:
        """Which split plays which role when ``split`` is evaluated: ``queries``, and ``corpus`` if there is
        one. In a mixture, ``NAME/queries`` and ``NAME/corpus`` for each data set that has such a split.

        Raises:
            DataError: when there is no such split.
        """
        if split not in self.splits:
            raise DataError(f"there is no {split} split: give {split}=")
        if self.parts:
            return {
                f"{name}/{role}": f"{name}/{of_role}"
                for name, part in self.parts.items()
                if split in part.splits
                for role, of_role in part.roles(split).items()
            }
        if corpus := self.dataset.corpus_of(split):
            return {"queries": split, "corpus": corpus}
        return {"queries": split} | ({"corpus": "train"} if self.compared_with(split) != "self" else {})

    def headlines(self, split: str) -> list[str]:
        """The metrics of a split that matter most, at most five, the main one first.

        Of several data sets: their mean, then the main metric of each.
        """
        if self.parts:
            measured = {name: part for name, part in self.parts.items() if split in part.splits}
            return [MEAN, *(f"{name}/{part.headlines(split)[0]}" for name, part in measured.items())][:5]
        names = [*HEADLINES[self.kind(split)]]
        pairs = self.dataset.pairs.get(split)
        if pairs is not None and len(pairs.targets.unique()) != 2:
            names.remove("pair_ap")
        return names

    def kind(self, split: str) -> str:
        """What is known of the items of a split: a key of ``HEADLINES``."""
        relations = self.relations
        if split in self.dataset.triplets:
            return "triplets"
        if split in self.dataset.pairs:
            return "scores"
        if not isinstance(relations, PairRelations):
            return "several classes" if isinstance(getattr(relations, "labels", None), Ragged) else "classes"
        if relations.ignores:
            return "triples"
        anchors, candidates, grades = relations.judgements(self.splits[split])
        good = relations.positive_pairs(anchors, candidates)
        return "grades" if len(grades[good].unique()) > 1 else "pairs"

    @property
    def main_metric(self) -> str:
        """The name of the metric by which a model for these data is chosen, without ``val/``: of the
        validation split, or of the test split where there is no other."""
        return self.headline_metrics[0]

    @property
    def headline_metrics(self) -> list[str]:
        """At most five names of metrics that matter most for these data, :attr:`main_metric` first."""
        measured = [name for name in ("validation", "test", *self.splits) if name in self.splits]
        return self.headlines(measured[0])

    def compared_with(self, split: str) -> Against:
        """What labelled items of a split are compared with: what was chosen, else what suits their number.

        ``"self"`` where nearly all are of classes with ``VOTERS`` items of the split or more, or most are of
        classes without a training item; else the training items vote (``"both"``), and are searched too
        (``"train"``) where most items of the split are alone in their class.
        """
        labels = getattr(self.relations, "labels", None)
        if labels is None or "train" not in self.splits or split not in self.splits:
            return "self"
        if chosen := self.against.get(split):
            return chosen
        few, alone, strange = self._few(labels, split)
        if few <= 0.1 or strange > 0.5:
            return "self"
        return "train" if alone > 0.5 else "both"

    def _few(self, labels: Tensor | Ragged, split: str) -> tuple[float, float, float]:
        """The shares of a split's labels whose class has fewer than ``VOTERS`` items of it, only one, and no
        training item."""
        given, trained = (
            labels.select(ids).values if isinstance(labels, Ragged) else labels[ids]
            for ids in (self.splits[split], self.splits["train"])
        )
        given = given[given >= 0]
        if not len(given):
            return 0.0, 0.0, 0.0
        sizes = torch.bincount(given)[given]
        few, alone = (float((sizes < least).double().mean()) for least in (VOTERS, 2))
        return few, alone, float((~torch.isin(given, trained)).double().mean())

    def log_comparison(self, split: str) -> None:
        """Log the corpus of a split, if the user didn't choose it and it isn't the split itself."""
        how = self.compared_with(split)
        if self.against.get(split) or how == "self":
            return
        some, done = f"some classes have fewer than {VOTERS} {split} items", "vote in k-NN classification"
        if how == "train":
            some, done = f"most {split} items are alone in their class", "searched"
        logger.info(
            "%s, so the training items are encoded in every validation, and %s (data.validation_corpus: %s); "
            "set it to self to compare %s items with each other only",
            some,
            done,
            how,
            split,
        )

    @property
    def parts(self) -> dict[str, EvaluationView]:
        """The data sets of a mixture by name, each in ids of its own; none where there is one."""
        return {name: EvaluationView(part, self.against) for name, part in self.dataset.parts.items()}
