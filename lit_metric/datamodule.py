"""The one DataModule: from files to batches, for training, evaluation and mining."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_metric.batching import (
    BatchPlanner,
    ChunkDataset,
    PKPlanner,
    PlanDataset,
    PlanSampler,
    chunks,
    resume_epoch,
    resume_position,
)
from lit_metric.data import (
    Batch,
    Collator,
    DataError,
    Items,
    LabelledItems,
    LabelRelations,
    Tokenizer,
    concatenate,
    labelled_items,
    read_table,
    tokenize,
)
from lit_metric.mining import Miner

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
Against = Literal["self", "train", "both"]
Source = str | list[str]


class MetricDataModule(LightningDataModule):
    """Items with a class label each, the batches to train on, and the splits to evaluate.

    All items of all splits stand in one space of global ids. Tokenisation waits for ``setup``, as it needs
    the tokenizer of the module's encoder.

    Args:
        train: file, pattern, list of them, saved data set or hub id; see
            :func:`~lit_metric.data.read_table`.
        validation: likewise; split off ``train`` if None.
        test: likewise, or None.
        predict: items to encode by ``lit-metric predict``; those of ``test`` if None. Needs no labels.
        text: the column of texts; guessed if neither it nor ``tags`` is given.
        tags: the column of tags, lists or strings.
        tag_separator: what stands between tags in a string.
        label: the column of class labels; guessed if None.
        key: a column of names to show to people.
        split: a column of ``train`` that says which split each row belongs to: ``train``, ``validation`` or
            ``test``; there are no other sources then.
        validation_share: the share of each class that is split off for validation, in (0, 1).
        planner: who meets whom in a batch; 16 classes with 4 members each if None.
        miner: where hard negatives come from; none are added if None.
        validate_against: validation items search each other (``"self"``), the training items (``"train"``),
            or the former for retrieval and the latter for classification (``"both"``).
        test_against: the same for test items.
        num_workers: processes that build training batches.
        prefetch_factor: batches that each worker builds ahead.
        max_tokens: tokens per batch in evaluation and mining.
        cache_dir: where token ids are kept; see :func:`~lit_metric.data.default_cache_dir`.
        seed: of plans, splits and draws; that of ``seed_everything`` if None, else 0.

    Raises:
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        train: Source | None = None,
        validation: Source | None = None,
        test: Source | None = None,
        predict: Source | None = None,
        text: str | None = None,
        tags: str | None = None,
        tag_separator: str | None = None,
        label: str | None = None,
        key: str | None = None,
        split: str | None = None,
        validation_share: float = 0.1,
        planner: BatchPlanner | None = None,
        miner: Miner | None = None,
        validate_against: Against = "self",
        test_against: Against = "both",
        num_workers: int = 0,
        prefetch_factor: int = 2,
        max_tokens: int = 16384,
        cache_dir: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be between 0 and 1, not {validation_share}")
        if num_workers < 0 or prefetch_factor < 1:
            raise ValueError(
                f"num_workers={num_workers} must be >= 0, prefetch_factor={prefetch_factor} >= 1"
            )
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.columns = {
            "text": text,
            "tags": tags,
            "tag_separator": tag_separator,
            "label": label,
            "key": key,
        }
        self.split = split
        self.validation_share = validation_share
        self.planner = planner or PKPlanner()
        self.miner = miner
        self.against: dict[str, Against] = {"validation": validate_against, "test": test_against}
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.max_tokens = max_tokens
        self.cache_dir = cache_dir
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.splits: dict[str, Tensor] = {}
        self.tables: Path | None = None
        self.version_for: Callable[[int], int] = _no_table

    def read(self) -> None:
        """Read and check all sources; done once, and by ``setup`` if it was not done before.

        Raises:
            DataError: when something in them can't be used; nothing has been trained by then.
        """
        if self.splits:
            return
        parts = self._read_splits()
        if not parts:
            raise DataError("no data: give data.train (and data.test), each a file, folder or hub id")
        if len({part.kind for part in parts.values()}) > 1:
            kinds = ", ".join(f"{name}: {part.kind}" for name, part in parts.items())
            raise DataError(f"items must be texts in all splits or sets in all splits, not {kinds}")
        rows, self.splits = concatenate({name: part.rows for name, part in parts.items()})
        labels = [label for part in parts.values() for label in part.labels]
        keys = None
        if all(part.keys is not None for part in parts.values()):
            keys = [key for part in parts.values() for key in part.keys or []]
        kind = next(iter(parts.values())).kind
        self.items, self.vocabulary = Items.encode(rows, kind, keys)
        self.relations = LabelRelations.from_names(labels, self.items.fingerprints)
        if "train" in self.splits and "validation" not in self.splits:
            self._split_validation()
        self._check_classes()
        self._check_validation()

    def _read_splits(self) -> dict[str, LabelledItems]:
        sources = {name: source for name, source in self.sources.items() if source}
        columns: dict[str, Any] = dict(self.columns)
        if self.split is None:
            return {
                name: labelled_items(read_table(source), labelled=name != "predict", **columns)
                for name, source in sources.items()
            }
        if sources.keys() != {"train"}:
            raise DataError(
                f"data.split={self.split!r} says that a column of data.train names the splits, so give "
                f"data.train and no other source; got {', '.join(sources) or 'none'}"
            )
        table = read_table(sources["train"])
        return labelled_items(table, **columns).by(table, self.split, SPLITS)

    def _split_validation(self) -> None:
        """Move a share of each class, at least one of those with two, from training to validation."""
        ids = self.splits["train"]
        random = np.random.default_rng(self.seed)
        order = ids[torch.from_numpy(random.permutation(len(ids)))]
        labels = self.relations.labels[order]
        order = order[labels.argsort(stable=True)]
        sizes = self.relations.labels[order].unique_consecutive(return_counts=True)[1]
        take = (sizes * self.validation_share).round().clamp(min=1).minimum(sizes // 2)
        place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        chosen = place < take.repeat_interleave(sizes)
        self.splits["validation"] = order[chosen].sort().values
        self.splits["train"] = order[~chosen].sort().values

    def _check_classes(self) -> None:
        if "train" not in self.splits:
            return
        counts = self.class_counts
        if not bool((counts >= 2).any()):
            raise DataError(
                f"no class of the training items has two members ({len(self.splits['train'])} items, "
                f"{int((counts > 0).sum())} classes), so nothing belongs together; is data.label the right "
                "column?"
            )
        if single := int((counts == 1).sum()):
            log.info("%d classes have one training item: they serve as negatives and neighbours only", single)

    def _check_validation(self) -> None:
        if "validation" not in self.splits or self.against["validation"] == "train":
            return
        labels = self.relations.labels[self.splits["validation"]]
        if len(labels) and int(torch.bincount(labels[labels >= 0], minlength=1).max()) < 2:
            log.warning(
                "no validation item has another of its class beside it, so retrieval metrics are NaN: "
                "raise data.validation_share, or set data.validate_against to train"
            )

    @property
    def class_counts(self) -> Tensor:
        """``[classes]`` int64, how many training items each class has."""
        labels = (
            self.relations.labels[self.splits["train"]] if "train" in self.splits else self.relations.labels
        )
        return torch.bincount(labels[labels >= 0], minlength=len(self.relations.classes))

    @property
    def corpus(self) -> str:
        """Fingerprint of the training items and their labels, by which tables of negatives are recognised."""
        ids = self.splits["train"]
        content = torch.stack([ids, self.relations.labels[ids], self.items.fingerprints[ids]])
        return hashlib.sha256(content.numpy().tobytes()).hexdigest()[:32]

    def setup(self, stage: str) -> None:
        """Read the sources, and tokenise with the tokenizer of the trainer's module."""
        self.read()
        if self.trainer is None:
            raise RuntimeError(
                "setup needs a trainer; for use without one, call read() and prepare(tokenizer)"
            )
        encoder: Any = self.trainer.lightning_module.encoder
        self.prepare(encoder.tokenizer, progress=self.trainer.is_global_zero)
        self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size

    def prepare(self, tokenizer: Tokenizer, progress: bool = True) -> None:
        """Tokenise the vocabulary, once for each tokenizer and content."""
        self.read()
        tokens = tokenize(self.vocabulary, tokenizer, self.cache_dir, progress)
        self.collator = Collator(self.items, tokens)
        self.rank, self.world_size = 0, 1

    @property
    def batches_per_epoch(self) -> int:
        """Planned batches of every epoch, all ranks together; known before there is a loader."""
        return len(self.planner.plan(self.splits["train"], self.relations, self.seed, 0))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Planned batches; see :mod:`lit_metric.batching.loader`."""
        if "train" not in self.splits:
            raise DataError("there is nothing to train on: give data.train")
        negatives = None
        if self.miner is not None:
            if self.tables is None:
                raise RuntimeError("a miner needs MiningCallback, which MetricLearner brings along")
            negatives = self.miner.source(self.tables, self.relations, self.corpus)
        dataset = PlanDataset(
            self.planner,
            self.splits["train"],
            self.relations,
            self.collator,
            self.seed,
            self.rank,
            self.world_size,
            negatives,
        )
        sampler = PlanSampler(
            len(dataset),
            epoch_fn=lambda: resume_epoch(self.trainer),
            start_fn=lambda: resume_position(self.trainer),
            version_fn=lambda epoch, step: self.version_for(epoch),
        )
        workers: dict[str, Any] = {}
        if self.num_workers:
            workers = {"persistent_workers": True, "prefetch_factor": self.prefetch_factor}
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            **workers,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The validation items, then the corpus that they search, if any."""
        return [self.encoding_loader(name) for name in self.roles("validation").values()]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """The test items, then the corpus that they search, if any."""
        return [self.encoding_loader(name) for name in self.roles("test").values()]

    @property
    def predict_split(self) -> str:
        """Whose items ``lit-metric predict`` encodes: those of ``predict``, else ``test``, else any other."""
        return next(name for name in ("predict", "test", *self.splits) if name in self.splits)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The items of :attr:`predict_split`."""
        return self.encoding_loader(self.predict_split)

    def roles(self, split: str) -> dict[str, str]:
        """Which split plays which role when ``split`` is evaluated: ``queries``, and ``corpus`` if there is
        one.

        Raises:
            DataError: when there is no such split.
        """
        if split not in self.splits:
            raise DataError(f"there is no {split} split: give data.{split}")
        searched = {"corpus": "train"} if self.against[split] != "self" and "train" in self.splits else {}
        return {"queries": split, **searched}

    def encoding_loader(self, split: str) -> DataLoader[Batch]:
        """Batches that hold each item of a split once, for encoding."""
        return self.chunk_loader(self.splits[split])

    def chunk_loader(self, ids: Tensor) -> DataLoader[Batch]:
        """Batches that hold each of the items ``ids`` once, for encoding."""
        parts = chunks(self.items, self.collator.tokens, ids, self.max_tokens)
        if len(parts) < self.world_size:  # each rank needs a batch, and none should idle
            parts = [share for part in parts for share in part.tensor_split(self.world_size) if len(share)]
        return DataLoader(ChunkDataset(self.collator, parts), batch_size=None)

    def texts_of(self, item: int) -> list[str]:
        """The texts of the item with a global id."""
        return [self.vocabulary.texts[text] for text in self.items.texts[item].tolist()]


def _no_table(epoch: int) -> int:
    return 0
