"""The one DataModule: from files to batches, for training, evaluation and mining."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lit_metric.batching import (
    BatchPlanner,
    ChunkDataset,
    MixturePart,
    PlanDataset,
    PlanFiles,
    PlanSampler,
    RowDataset,
    chunks,
    mixture_planner,
    resume_position,
    suitable_planner,
)
from lit_metric.batching.mixture import Strategy
from lit_metric.data import (
    Batch,
    Collator,
    CsvOptions,
    DataError,
    Dataset,
    Labels,
    Problems,
    ReadOptions,
    Supervision,
    Tokenizer,
    default_cache_dir,
    tokenize,
)
from lit_metric.data.dataset import check_names, union
from lit_metric.data.evaluated import Against, EvaluationView
from lit_metric.data.formats import AUTO
from lit_metric.data.formats.listed_rows import CorrectedLabels, ExcludedRows
from lit_metric.data.progress import stage, without_garbage_collection
from lit_metric.data.readers import Source
from lit_metric.data.rows_to_encode import RowsToEncode
from lit_metric.data.shards import SHARD_ROWS
from lit_metric.data.sources import given, read_dataset, without_predict
from lit_metric.data.tokens import count_truncated
from lit_metric.encoders.tokenizer import log_truncation
from lit_metric.loggers import list_problems
from lit_metric.mining import Miner, TableNegatives, give_texts, open_vectors
from lit_metric.refresh import MiningTask, Refresh, Refresher, TrainingRun, start_refresher
from lit_metric.renamed import refuse_old_names

log = logging.getLogger(__name__)


class MetricDataModule(EvaluationView, LightningDataModule):
    """Items and what is known about them, the batches to train on, and the splits to evaluate.

    The items of all splits share one space of global ids. Texts are tokenised in ``setup``, which has the
    tokenizer of the module's encoder.

    Args:
        train: a file, pattern, saved data set, hub id, DataFrame, Arrow table, ``datasets.Dataset``, list of
            dicts, dict of lists, or a list of files; see :func:`~lit_metric.data.read_table`. ``supervision``
            describes the rows.
        validation: the same for validation; a share of ``train`` is held out if None.
        test: the same for the test, or None.
        predict: items that ``lit-metric predict`` encodes; those of ``test`` if None. They need no labels.
        supervision: what is known about items, and in which columns it stands; guessed from the names of the
            columns if None. See :class:`~lit_metric.data.Labels`, ``Pairs``, ``Judgements``, ``Triples``.
        text: the column or columns of texts. This argument, ``tags``, ``tag_separator``, ``label``, ``key``
            and ``normalize_labels`` are those of ``Labels``.
        tags: the column of tags.
        tag_separator: between the tags of a string.
        label: the column of class labels.
        key: a column of names to show to people.
        split: a column of ``train`` that says which split each row belongs to: ``train``, ``validation`` or
            ``test``; there are no other sources then. ``"auto"``: a column ``split``, if it holds nothing
            else. None: there is no such column.
        normalize_labels: make one class of labels that differ only in case, blanks or Unicode form.
        bad_rows: refuse data with bad rows (``"error"``), or leave the rows out (``"skip"``), and list them
            in ``rejected.parquet`` in the run's folder.
        exclude: rows of labelled items to leave out; see
            :class:`~lit_metric.data.formats.listed_rows.ExcludedRows`.
        corrections: rows that have another label than their file says; see
            :class:`~lit_metric.data.formats.listed_rows.CorrectedLabels`.
        csv: how CSV files are written, such as ``CsvOptions(separator=";", encoding="cp1252")``; other
            options are found in each file.
        validation_share: the share of each class, or of the anchors, that is held out for validation, in
            [0, 1). With 0 all are trained on: nothing stops early, and the last weights are kept.
        planner: makes the batches. If None, 16 classes with 4 members each for items with labels (or all
            classes, if there are fewer), and 64 pairs for pairs.
        mixture: several data sets by name, in place of the sources, ``supervision`` and ``planner``. Each
            batch comes from one of them; each is evaluated under its name.
        strategy: of a mixture: batches in proportion to the sizes of the data sets, in turn, or by weights;
            see :class:`~lit_metric.batching.MixturePlanner`.
        miner: where hard negatives come from; none are added if None.
        refresh: when they are mined again, and by which process.
        validation_corpus: validation items search each other (``"self"``), the training items (``"train"``),
            or the former for retrieval and the latter for classification (``"both"``). None: ``"self"`` where
            classes have 20 validation items or more, else ``"both"``, or ``"train"`` where most have one.
        test_corpus: the same for test items.
        num_workers: processes that build training batches.
        prefetch_factor: batches that each worker builds ahead.
        max_tokens: tokens per batch in evaluation and mining.
        cache_dir: of token ids, and of texts beyond 64 MB; see :func:`~lit_metric.data.default_cache_dir`.
        seed: of plans, splits and draws. None: that of ``seed_everything``, or 0.

    Raises:
        DataError: when options contradict each other.
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        train: Source | None = None,
        validation: Source | None = None,
        test: Source | None = None,
        predict: Source | None = None,
        supervision: Supervision | None = None,
        text: str | list[str] | None = None,
        tags: str | None = None,
        tag_separator: str | None = None,
        label: str | None = None,
        key: str | None = None,
        split: str | None = AUTO,
        normalize_labels: bool = False,
        bad_rows: Literal["error", "skip"] = "error",
        exclude: Source | None = None,
        corrections: Source | None = None,
        csv: CsvOptions | None = None,
        validation_share: float = 0.1,
        planner: BatchPlanner | None = None,
        mixture: dict[str, MixturePart] | None = None,
        strategy: Strategy = "proportional",
        miner: Miner | None = None,
        refresh: Refresh | None = None,
        validation_corpus: Against | None = None,
        test_corpus: Against = "both",
        num_workers: int = 0,
        prefetch_factor: int = 2,
        max_tokens: int = 16384,
        cache_dir: str | None = None,
        seed: int | None = None,
    ) -> None:
        LightningDataModule.__init__(self)
        if not 0 <= validation_share < 1:
            raise ValueError(f"validation_share must be at least 0 and below 1, not {validation_share}")
        if bad_rows not in ("error", "skip"):
            raise ValueError(f"bad_rows must be 'error' or 'skip', not {bad_rows!r}")
        if num_workers < 0 or prefetch_factor < 1:
            raise ValueError(
                f"num_workers={num_workers} must be >= 0, prefetch_factor={prefetch_factor} >= 1"
            )
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict}
        short: dict[str, Any] = {"text": text, "tags": tags, "tag_separator": tag_separator, "label": label}
        short |= {"key": key, "normalize_labels": normalize_labels}
        given = [f"{name}=" for name, value in short.items() if value] + ["split="] * (split != AUTO)
        if given and supervision is not None:
            names = ", ".join(given)
            raise DataError(f"{names} and supervision= were both given; name columns in the latter")
        if any(short.values()):
            supervision = Labels(**short, split=split)
        alone = [planner, supervision, *self.sources.values()]
        if mixture and (split != AUTO or any(each is not None for each in alone)):
            raise DataError(
                "mixture= names several data sets, so name sources, columns and planners there, "
                "and only there"
            )
        check_names(mixture or {})
        self.refresh = refresh or Refresh()
        self.mixture = mixture or {}
        self.refresh.check_planners([planner, *(part.planner for part in self.mixture.values())], miner)
        self.strategy: Strategy = strategy
        self.supervision = supervision
        self.split = split
        self.problems = Problems(bad_rows == "skip", "leave them out with bad_rows='skip'")
        self.csv, self.exclude, self.corrections = csv, exclude, corrections
        self.validation_share = validation_share
        self._planner = planner
        self.miner = miner
        self.against: dict[str, Against | None] = {"validation": validation_corpus, "test": test_corpus}
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.max_tokens = max_tokens
        self.cache_dir = cache_dir
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.refresher: Refresher | None = None
        self.rows_to_encode: RowsToEncode | None = None
        self.predict_loader = self._predict_loader  # WriteEmbeddings takes another

    def read(self, predict: bool = True) -> None:
        """Read and check all sources, once; ``predict=False`` leaves out that of ``predict`` beside others.

        Raises:
            DataError: when something in them can't be used; nothing has been trained by then.
        """
        if self.splits:
            return
        alone = self.against["validation"] != "train"
        excluded = ExcludedRows(self.exclude, self.csv)
        corrected = CorrectedLabels(self.corrections, self.csv)

        def read_one(sources: dict[str, Source], supervision: Supervision | None) -> Dataset:
            sources = sources if predict else without_predict(sources)
            options = self.problems, self.validation_share, self.seed, alone, self.csv, self.cache_dir
            reading = ReadOptions(*options, excluded=excluded, corrected=corrected)
            return read_dataset(sources, supervision, self.split, reading, self.against)

        with without_garbage_collection(), stage("reading the data"):
            parts = {name: read_one(*each) for name, each in self._data_sets.items()}
            dataset = union(parts, self.cache_dir) if self.mixture else parts[""]
        excluded.check()
        corrected.check()
        if len(self.problems):
            log.warning("%d bad rows are left out", len(self.problems))
        self.items, self.vocabulary, self._dataset = dataset.items, dataset.vocabulary, dataset

    @property
    def _data_sets(self) -> dict[str, tuple[dict[str, Source], Supervision | None]]:
        """By name, empty if there is only one: the sources by split, and what is known about items."""
        if not self.mixture:
            return {"": (given(self.sources), self.supervision)}
        return {
            name: (given({split: getattr(part, split) for split in self.sources}), part.supervision)
            for name, part in self.mixture.items()
        }

    @property
    def planner(self) -> BatchPlanner:
        """The given planner, or one that suits the data."""
        if self._planner is None:
            self.read()
            if self.mixture:
                self._planner = mixture_planner(self.mixture, self.dataset.parts, self.strategy)
            else:
                self._planner = suitable_planner(self.dataset)
        return self._planner

    def setup(self, stage: str) -> None:
        """Read the sources, and tokenise with the tokenizer of the trainer's module."""
        if self.trainer is None:
            raise RuntimeError("setup needs a trainer; without one, call read() and prepare(tokenizer)")
        if stage == "predict" and "predict" not in self.splits:
            self.rows_to_encode = RowsToEncode.open(self._data_sets.values(), self.split, self.csv)
            if self.rows_to_encode is None and any("predict" in each for each, _ in self._data_sets.values()):
                self._dataset = None  # what was read for training lacks these rows
        encoder: Any = self.trainer.lightning_module.encoder
        self._tokenizer = encoder.tokenizer
        if self.rows_to_encode is None:
            self.read(predict=stage == "predict")
            list_problems(self.trainer, self.problems, anew=stage == "fit")
            self.prepare(encoder.tokenizer, progress=self.trainer.is_global_zero)
        self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size

    def prepare(self, tokenizer: Tokenizer, progress: bool = True) -> None:
        """Tokenise the vocabulary, once for each tokenizer and dataset."""
        self.read()
        tokens = tokenize(self.vocabulary, tokenizer, self.cache_dir, progress)
        if progress:
            log_truncation(count_truncated(self.vocabulary, tokens, tokenizer))
        self.collator = Collator(self.items, tokens)
        if self.miner is not None:
            folder = default_cache_dir() if self.cache_dir is None else Path(self.cache_dir)
            give_texts(self.miner, self.items, self.vocabulary, folder)
        self.rank, self.world_size = 0, 1

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run must match."""
        return {"corpus": self.corpus} if "train" in self.splits else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume with other training data.

        Raises:
            DataError: when the checkpoint's run was trained on something else.
        """
        trainer = self.trainer
        fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        theirs = state_dict.get("corpus")
        if fitting and theirs and theirs != self.corpus:
            raise DataError(
                f"the checkpoint is of a run on other training data (fingerprint {theirs[:8]} there, "
                f"{self.corpus[:8]} here): resume with the files and columns of that run, or start a new one "
                "without ckpt_path"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Planned batches of every epoch, all ranks together; known before there is a loader."""
        return self.planner.length(self.splits["train"], self.relations, self.seed)

    def mining_task(self, tables: Path, tokenizer: str) -> MiningTask:
        """What is mined, into the folder ``tables``, by an encoder whose tokenizer has that fingerprint."""
        assert self.miner is not None
        ids = anchors = self.splits["train"].sort().values
        among: tuple[Tensor | None, Tensor | None] = (None, None)  # all training items are both
        if (name := self.dataset.corpus_of("train")) is not None:
            among = anchors, self.splits[name]
            ids = torch.cat(among).unique()
        return MiningTask(
            self.miner,
            self.items,
            self.collator.tokens,
            self.relations,
            ids,
            *among,
            tables=tables,
            fingerprint=self.corpus,
            tokenizer=hashlib.sha256(tokenizer.encode()).hexdigest()[:32],
            seed=self.seed,
            max_tokens=self.max_tokens,
            publish_vectors=self.planner.uses_vectors,
        )

    def start_refresher(self, run: TrainingRun, state: dict[str, Any]) -> Refresher:
        """Start the refresher of the table of negatives, on all ranks; ``state`` is that of a checkpoint."""
        task = self.mining_task(run.folder / "negatives", run.encoder.tokenizer.fingerprint)
        ahead = self.num_workers * self.prefetch_factor + 1
        self.refresher = start_refresher(self.refresh, task, run, ahead, state)
        return self.refresher

    def train_dataloader(self) -> DataLoader[Batch]:
        """Planned batches; see :mod:`lit_metric.batching.loader`."""
        if "train" not in self.splits:
            raise DataError("there is nothing to train on: give train=")
        negatives = vectors = None
        versions: dict[str, Any] = {}
        if self.miner is not None:
            if (refresher := self.refresher) is None:
                raise RuntimeError("a miner needs MiningCallback, which MetricLearner brings along")
            number = refresher.timetable.batch
            versions["before_fn"] = lambda epoch, step: refresher.before_batch(number(epoch, step))
            versions["version_fn"] = lambda epoch, step: refresher.version(number(epoch, step))
            tables = refresher.task.tables
            if self.miner.negatives:
                known = self.relations.labelled_only()  # random negatives pass no filter
                negatives = TableNegatives(tables, self.miner.draw, self.miner.negatives, known, self.corpus)
            if self.planner.uses_vectors:
                vectors = partial(open_vectors, tables, corpus=self.corpus)
        dataset = PlanDataset(
            self.planner,
            self.splits["train"],
            self.relations,
            self.collator,
            self.seed,
            self.rank,
            self.world_size,
            negatives,
            vectors,
            PlanFiles.of_run(self.trainer) if self.num_workers or self.world_size > 1 else None,
        )
        sampler = PlanSampler(len(dataset), position_fn=lambda: resume_position(self.trainer), **versions)
        workers: dict[str, Any] = {"num_workers": self.num_workers, "pin_memory": torch.cuda.is_available()}
        if self.num_workers:
            workers |= {"persistent_workers": True, "prefetch_factor": self.prefetch_factor}
        return DataLoader(dataset, sampler=sampler, batch_size=None, **workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The validation items, then the corpus that they search, if any; training works without them."""
        if "validation" not in self.splits and self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            return []
        return [self.encoding_loader(self.splits[name]) for name in self.roles("validation").values()]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """The test items, then the corpus that they search, if any."""
        return [self.encoding_loader(self.splits[name]) for name in self.roles("test").values()]

    @property
    def predict_split(self) -> str:
        """The split that ``lit-metric predict`` encodes: ``predict``, else ``test``, else any other."""
        return next(name for name in ("predict", "test", "train", *self.splits) if name in self.splits)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The rows of ``predict=``, read as they are needed; else the items of :attr:`predict_split`."""
        return self.predict_loader()

    def _predict_loader(self) -> DataLoader[Batch]:
        if (rows := self.rows_to_encode) is None:
            return self.encoding_loader(self.splits[self.predict_split])
        rows.survey(SHARD_ROWS, self.problems)
        blocks = range(len(rows.kept))[self.rank :: self.world_size]
        dataset = RowDataset(rows, blocks, self._tokenizer, self.max_tokens, self.rank == 0)
        return DataLoader(dataset, batch_size=None)

    def encoding_loader(self, ids: Tensor) -> DataLoader[Batch]:
        """Batches that hold each of the items ``ids`` once, for encoding."""
        parts = chunks(self.items, self.collator.tokens, ids, self.max_tokens)
        if len(parts) < self.world_size:  # each rank needs a batch, and none should idle
            parts = [share for part in parts for share in part.tensor_split(self.world_size) if len(share)]
        return DataLoader(ChunkDataset(self.collator, parts), batch_size=None)

    def texts_of(self, item: int) -> list[str]:
        """The texts of the item with a global id."""
        return [self.vocabulary.texts[text] for text in self.items.texts[item].tolist()]


refuse_old_names(__name__)
