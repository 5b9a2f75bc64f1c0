"""The LightningModule that trains one encoder by a metric loss."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor

from lit_metric.batching import MixturePlanner
from lit_metric.callbacks import CollapseAlarm, MiningCallback, WriteEmbeddings
from lit_metric.callbacks.checkpoints import check_monitors, without_validation
from lit_metric.callbacks.mining import batches_of_epoch
from lit_metric.data import Batch, LabelRelations, Relations, UnionRelations
from lit_metric.encoders import Encoder
from lit_metric.evaluation import encode_batch
from lit_metric.losses import (
    CandidateBank,
    CandidateMemory,
    CoSENTLoss,
    InfoNCELoss,
    Loss,
    LossContext,
    RelationPairs,
    gather_ids,
    gather_with_grad,
    sum_over_ranks,
)
from lit_metric.losses.memory import compares_candidates
from lit_metric.modules.evaluated import EvaluatedModule
from lit_metric.modules.schedule import Schedule, default_lr
from lit_metric.modules.tasks import TaskLosses, TaskMeans, check_scores, encode_items

log = logging.getLogger(__name__)


class MetricLearner(EvaluatedModule):
    """Trains an encoder so that neighbours are of the same kind.

    Anchors and candidates pass through the same encoder; under several processes candidates are gathered with
    gradient, so the averaged gradient is that of the union batch, for every loss.

    Args:
        encoder: what is trained.
        loss: between anchors and candidates; for a mixture of data sets, one for all or one for each by name.
            None: CoSENTLoss where pairs have scores, else InfoNCELoss with a temperature of 0.05.
        lr: peak learning rate of AdamW. None: 1e-2 for a StaticEncoder that is trained, else 5e-5.
        weight_decay: of matrices; vectors and biases have none.
        lr_scale: factors on ``lr`` by the name of a part, such as ``{"encoder.pooling": 20}``; see
            :func:`~lit_metric.modules.schedule.parameter_groups`.
        warmup: share of all steps in which the learning rate rises, in [0, 1).
        schedule: how it falls after that.
        ks: list lengths of recall and precision in evaluations.
        knn: numbers of voting neighbours in evaluations.
        knn_temperature: votes weigh ``exp(cosine / knn_temperature)``; None counts them.
        space: also measure alignment, uniformity, average precision of pairs, hubness and NMI in evaluations.
        memory: how many vectors of the latest batches are candidates of a batch, too, without gradient; 0 for
            none. Or a :class:`~lit_metric.losses.CandidateBank` of your own.
        layer_decay: factor on the learning rate from each layer of a backbone to the next below it, in
            (0, 1]; see :func:`~lit_metric.modules.schedule.layer_factors`.

    Raises:
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: Loss | dict[str, Loss] | None = None,
        lr: float | None = None,
        weight_decay: float = 0.01,
        lr_scale: dict[str, float] | None = None,
        warmup: float = 0.1,
        schedule: Schedule = "linear",
        ks: list[int] | None = None,
        knn: list[int] | None = None,
        knn_temperature: float | None = None,
        space: bool = False,
        memory: int | CandidateBank = 0,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__(ks, knn, knn_temperature, space)
        lr = default_lr(encoder) if lr is None else lr
        if lr <= 0 or weight_decay < 0 or not 0 <= warmup < 1:
            raise ValueError(
                f"lr={lr} must be > 0, weight_decay={weight_decay} >= 0, warmup={warmup} in [0, 1)"
            )
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay is {layer_decay}; it has to be above 0 and at most 1")
        self.encoder = encoder
        self.loss: Any = TaskLosses(loss) if isinstance(loss, dict) else loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.lr_scale = lr_scale or {}
        self.layer_decay = layer_decay
        self.warmup = warmup
        self.schedule: Schedule = schedule
        self.memory = memory
        self.bank: CandidateBank | None = None
        if memory != 0:  # a bank may be empty and have a length
            self.bank = CandidateMemory(memory) if isinstance(memory, int) else memory
        self._logged = TaskMeans()
        self._losses = torch.zeros(2)  # sum and number in this epoch
        if loss is not None:
            self.note_loss(loss)

    def forward(self, batch: Batch) -> Tensor:
        """``[I, d]`` raw vectors of the batch's items."""
        return self.encoder(batch.inputs) if len(batch.items) else self.encoder.nothing()

    def encode(self, items: list[str] | list[list[str]], **options: Any) -> Any:
        """See :meth:`~lit_metric.encoders.Encoder.encode`."""
        return self.encoder.encode(items, **options)

    def setup(self, stage: str) -> None:
        """Take the relations of the data, and set up the losses.

        Raises:
            TypeError: if the loss needs one class for each item and the data have none.
            TypeError, ValueError: if a checkpoint of this learner could not be loaded.
            ValueError: if the strategy keeps weights or checkpoints in pieces on several processes.
        """
        self.check_strategy()
        data = self.data
        if data.rows_to_encode is not None:  # nothing else is read
            return
        self.relations = data.relations
        self.labelled_relations: Relations | None = None
        if self.loss is None:
            self._choose_loss()
        if isinstance(self.loss, TaskLosses):
            self.loss.check(data.mixture)
        if stage == "fit":
            self._set_up_bank()
            self.check_saved(data.miner, data.refresh.mode == "inline")
            self.use_sparse_gradients()
            for task in range(max(1, len(data.mixture))):
                self._set_up_loss(task)
                self._check_scored(task)
            if "validation" not in data.splits:
                without_validation(self.trainer)
            elif self.trainer.limit_val_batches:
                check_monitors(self.trainer, self, self.evaluation("validation").names())

    def _choose_loss(self) -> None:
        """Take the loss that suits the data, or one for each data set where these differ."""
        data = self.data
        known = data.dataset.parts or {"": data.dataset}
        scored = {name: each.planned == "scores" for name, each in known.items()}
        chosen: dict[str, Loss] = {}
        for name, has_scores in scored.items():
            chosen[name] = CoSENTLoss() if has_scores else InfoNCELoss(0.05)
        self.loss = TaskLosses(chosen) if len({*scored.values()}) > 1 else next(iter(chosen.values()))
        self.note_loss(chosen if isinstance(self.loss, TaskLosses) else self.loss)
        if self.trainer.is_global_zero:
            names = dict.fromkeys(type(each).__name__ for each in chosen.values())
            log.info("The loss is %s, as none is given", " and ".join(names))

    def _set_up_loss(self, task: int) -> None:
        """Set up the loss of a data set; one that a mixture shares is set up once, and knows no classes."""
        loss, relations = self._loss_of(task), self._relations_of(task)[0]
        shared = bool(self.data.mixture) and not isinstance(self.loss, TaskLosses)
        if loss.requires_labels and not isinstance(relations, LabelRelations):
            raise TypeError(
                f"{type(loss).__name__} needs one class for each item, and there are "
                f"{type(relations).__name__}; take a loss between pairs, such as InfoNCELoss"
            )
        if loss.requires_labels and shared:
            raise TypeError(
                f"{type(loss).__name__} learns the classes of one data set, and data.mixture has "
                f"{len(self.data.mixture)}: give each its own loss"
            )
        if shared and task > 0:
            return
        part = [*self.data.parts.values()][task] if self.data.mixture else self.data
        counts = part.class_counts if isinstance(relations, LabelRelations) and not shared else None
        loss.setup(self._context(counts))

    def _context(self, class_counts: Tensor | None = None) -> LossContext:
        encode = partial(encode_items, data=self.data, device=self.trainer.strategy.root_device)
        corpus = None
        if not self.data.mixture:
            corpus = self.data.splits[self.data.dataset.corpus_of("train") or "train"]
        return LossContext(self.encoder.dimension, class_counts, self.relations, encode, corpus)

    def _set_up_bank(self) -> None:
        losses = [self._loss_of(task) for task in range(max(1, len(self.data.mixture)))]
        if self.bank is None:
            return
        if not any(map(compares_candidates, losses)):
            names = ", ".join(dict.fromkeys(type(loss).__name__ for loss in losses))
            raise ValueError(
                f"memory adds candidates of earlier batches, and {names} learns nothing from them: it needs "
                "proxies or scored pairs. Leave memory out, or take a loss between pairs such as InfoNCELoss"
            )
        self.bank.clear()
        self.bank.setup(self._context())

    def _check_scored(self, task: int) -> None:
        """See :func:`~lit_metric.modules.tasks.check_scores`."""
        planner, part = self.data.planner, [*self.data.parts.values()]
        if isinstance(planner, MixturePlanner):
            planner = planner.planners[task]
        ids = (part[task] if part else self.data).splits.get("train")
        if ids is not None and self.trainer.is_global_zero:
            check_scores(self._loss_of(task), planner, ids, self._relations_of(task)[0], self.data.seed)

    def _loss_of(self, task: int) -> Loss:
        loss: Loss = self.loss
        return self.loss[[*self.data.mixture][task]] if isinstance(self.loss, TaskLosses) else loss

    def _relations_of(self, task: int) -> tuple[Relations, int]:
        """The relations of a data set, and the first of its ids."""
        if isinstance(self.relations, UnionRelations):
            return self.relations.parts[task], int(self.relations.offsets[task])
        return self.relations, 0

    def on_fit_start(self) -> None:
        """Bring the relations to the device, and loaded modules out of evaluation mode."""
        trainer: Any = self.trainer
        steps = math.ceil(batches_of_epoch(trainer, self.data) / trainer.accumulate_grad_batches)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, steps)  # once in an epoch, at least
        self._start_training()

    def _start_training(self) -> None:
        if self.trainer.is_global_zero:
            # With AVX-512, only some processors multiply bfloat16 in hardware; that is not checked.
            slow = self.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
            if slow and str(self.trainer.precision).startswith("bf16"):
                log.warning(
                    "--trainer.precision %s on a processor without bfloat16 in hardware (no avx512_bf16 or "
                    "amx_bf16 in lscpu) takes several times as long as 32-true",
                    self.trainer.precision,
                )
            parameters = [*self.parameters()]
            trained = sum(each.numel() for each in parameters if each.requires_grad)
            whole = sum(each.numel() for each in parameters)
            log.info(
                "%s of %s parameters are trained, in %s steps", f"{trained:,}", f"{whole:,}", self._steps
            )
        self.train()
        self.relations = self.data.relations.to(self.device)
        self.labelled_relations = self.relations.labelled_only()

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks of every run: mining, the alarm on collapse, and a place for predictions.

        Raises:
            ValueError: if a callback searches for a batch size, or for a learning rate while negatives are
                mined.
        """
        given = {type(callback) for callback in getattr(self.trainer, "callbacks", [])}
        for callback in getattr(self.trainer, "callbacks", []):
            if isinstance(callback, BatchSizeFinder):
                raise ValueError(
                    "a batch size can't be searched for, because data.planner makes the batches: set "
                    "classes and per_class of PKPlanner, or batch_size of the others"
                )
            if isinstance(callback, LearningRateFinder) and self.data.miner is not None:
                raise ValueError(
                    "a learning rate is searched for before negatives are mined: search without data.miner, "
                    "then train with it"
                )
        return [kind() for kind in (MiningCallback, CollapseAlarm, WriteEmbeddings) if kind not in given]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the step: checkpoints hold no random state, and a resumed run must not differ."""
        # Where gradients are accumulated, several batches have one step, so the batch counts, too.
        entropy = [self.data.seed & 0xFFFFFFFFFFFFFFFF, self.global_step, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss of this rank's anchors against the candidates of all ranks.

        A subclass may override each of its four steps: :meth:`forward`, :meth:`candidates`, :meth:`pairs` and
        :meth:`objective`.
        """
        if self.labelled_relations is None:  # a search for the learning rate comes before on_fit_start
            self._start_training()
        vectors = self(batch)
        candidates, ids = self.candidates(batch, vectors)
        loss = self.objective(batch, vectors[batch.anchors], candidates, self.pairs(batch, ids))
        texts = sum_over_ranks(torch.tensor(len(batch.tokens), device=self.device))
        return {"loss": loss, "vectors": vectors.detach(), "texts": texts}

    def candidates(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What the anchors of a batch are compared with, the same on all ranks.

        Args:
            batch: this rank's.
            vectors: ``[I, d]`` raw, of the items of the batch.

        Returns:
            ``[C, d]`` raw vectors and ``[C]`` int64 global ids: of the candidates of all ranks with gradient,
            then of those from outside the batch.
        """
        gathered, ids = gather_with_grad(vectors[batch.candidates]), gather_ids(batch.candidate_ids)
        if self.bank is None or not compares_candidates(self._loss_of(batch.task)):
            return gathered, ids
        return self.bank.append(vectors[batch.anchors], gathered, ids, batch.task)

    def pairs(self, batch: Batch, candidate_ids: Tensor) -> RelationPairs:
        """What belongs together among the anchors and candidates; with classes if the loss requires them."""
        labels: tuple[Tensor | None, Tensor | None] = None, None
        relations, start = self._relations_of(batch.task)
        if self._loss_of(batch.task).requires_labels and isinstance(relations, LabelRelations):
            labels = relations.labels[batch.anchor_ids - start], relations.labels[candidate_ids - start]
        known = self.labelled_relations, batch.mined_negatives
        return RelationPairs(self.relations, batch.anchor_ids, candidate_ids, *known, *labels)

    def objective(self, batch: Batch, anchors: Tensor, candidates: Tensor, pairs: RelationPairs) -> Tensor:
        """The loss, to be minimised; it is logged with its parts."""
        task = batch.task
        parts = self._loss_of(task).on_pairs(anchors, candidates, pairs)
        loss = parts.pop("loss")
        several = self.trainer.world_size > 1
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=several, batch_size=1)
        value = loss.detach().float()
        self._losses = self._losses.to(self.device) + torch.stack([value, torch.ones_like(value)])
        names = [*self.data.mixture]
        prefix = f"train/{names[task]}" if names else "train"
        named = {f"{prefix}/{name}": value for name, value in parts.items()}
        if names:
            named[f"{prefix}/loss"] = loss.detach()
            self._logged.add(named)
        # Of a mixture, callbacks see the latest values, and loggers get the means.
        self.log_dict(named, logger=not names, sync_dist=several, batch_size=1)
        if isinstance(self.loss, TaskLosses):
            rest = self.loss.untouched(names[task])
            loss = loss if rest is None else loss + rest
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the means of each data set of a mixture under its name."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = every and self.global_step % every == 0
        if self._logged and (due or self.trainer.is_last_batch):
            means = {"epoch": self.current_epoch, **self._logged.means(self.device)}
            for logger in self.loggers:
                logger.log_metrics(means, step=self.global_step - 1)

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch.

        Lightning would compute its own mean when the first rank's progress bar reads it, while other ranks
        are elsewhere.
        """
        total, count = sum_over_ranks(self._losses.to(self.device)).tolist()
        self._losses = torch.zeros(2)
        if count:
            self.log("train/loss_epoch", total / count, batch_size=1)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step, then let losses update their buffers."""
        super().optimizer_step(*arguments, **options)
        for loss in self.loss.modules():
            if isinstance(loss, Loss):
                loss.after_step()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """``ids [n]`` and ``embeddings [n, d]``, of length 1 if the encoder normalises."""
        vectors, ids = encode_batch(self.encoder, batch)
        if self.encoder.normalize:
            vectors = torch.nn.functional.normalize(vectors.float(), dim=1)
        return {"ids": ids, "embeddings": vectors.float()}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches move themselves."""
        if isinstance(batch, Batch):
            return batch.to(device, non_blocking=True)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)
