"""Validation and test of a learner."""

from __future__ import annotations

import logging
import math

from lightning.pytorch.trainer.states import TrainerFn

from lit_metric.callbacks.checkpoints import set_aside
from lit_metric.data import Batch
from lit_metric.evaluation import Evaluation, MixtureEvaluation, encode_batch, encode_roles, evaluation_of
from lit_metric.modules.checkpoint import CheckpointedModule

log = logging.getLogger(__name__)


class EvaluatedModule(CheckpointedModule):
    """A learner that evaluates its encoder on the items of validation and test.

    Args:
        ks, knn, knn_temperature, space: see :class:`~lit_metric.MetricLearner`.
    """

    def __init__(
        self,
        ks: list[int] | None = None,
        knn: list[int] | None = None,
        knn_temperature: float | None = None,
        space: bool = False,
    ) -> None:
        super().__init__()
        self.ks = tuple(ks or (1, 5, 10))
        self.knn = tuple(knn or (1, 10))
        self.knn_temperature = knn_temperature
        self.space = space
        self._evaluation: Evaluation | MixtureEvaluation | None = None
        self._roles: list[str] = []
        self._unmeasured: set[str] = set()

    def _start_evaluation(self, split: str) -> None:
        self._evaluation = self.evaluation(split).to(self.device)
        self._roles = [*self.data.roles(split)]

    def _cut(self, split: str) -> bool:
        """Whether the trainer may leave out items of an evaluation whose results count."""
        trainer = self.trainer
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        return not (trainer.sanity_checking or (isinstance(limit, float) and limit == 1.0))

    def evaluation(self, split: str) -> Evaluation | MixtureEvaluation:
        """The evaluation of a split, with this module's options."""
        options = {"ks": self.ks, "knn": self.knn, "knn_temperature": self.knn_temperature}
        return evaluation_of(self.data, split, **options, space=self.space)

    def _evaluate(self, batch: Batch, split: str, loader: int) -> None:
        assert self._evaluation is not None
        role = self._roles[loader]
        if not (role.endswith("corpus") and self._cut(split)):  # which is encoded as a whole at the end
            self._evaluation.update(*encode_batch(self.encoder, batch), role)

    def _finish_evaluation(self, prefix: str, split: str) -> None:
        assert self._evaluation is not None
        trainer, cut = self.trainer, self._cut(split)
        if cut:
            ranks = trainer.global_rank, trainer.world_size
            with trainer.precision_plugin.forward_context():
                encode_roles(self.encoder, self.data, split, self._evaluation, *ranks, searched_only=True)
        results = self._evaluation.compute(partial=cut or bool(trainer.sanity_checking))
        self._evaluation = None
        if not trainer.sanity_checking:
            self._log_unmeasured({f"{prefix}/{name}" for name in results if math.isnan(results[name])})
        # All ranks have the same results; sync_dist avoids a warning of Lightning.
        several = self.trainer.world_size > 1
        for name, value in results.items():
            shown = prefix == "val" and name == self.data.main_metric
            self.log(f"{prefix}/{name}", value, prog_bar=shown, sync_dist=several)

    def _log_unmeasured(self, names: set[str]) -> None:
        """Log once which metrics these data don't have, and stop callbacks from monitoring them."""
        if new := sorted(names - self._unmeasured):
            changed = set_aside(self.trainer, new) if self.trainer.state.fn == TrainerFn.FITTING else []
            if self.trainer.is_global_zero:
                changes = "".join(f"; {each}" for each in changed)
                log.warning("can't be measured on these items, and is NaN: %s%s", ", ".join(new), changes)
        self._unmeasured |= names

    def on_validation_epoch_start(self) -> None:
        """Start to collect."""
        self._start_evaluation("validation")

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the vectors of a batch."""
        self._evaluate(batch, "validation", dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Measure; logs ``val/NAME``."""
        self._finish_evaluation("val", "validation")

    def on_test_epoch_start(self) -> None:
        """Start to collect."""
        self._start_evaluation("test")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the vectors of a batch."""
        self._evaluate(batch, "test", dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Measure; logs ``test/NAME``."""
        self._finish_evaluation("test", "test")
