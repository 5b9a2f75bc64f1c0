"""Candidates from outside the batch: anchors are compared with them, and they get no gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from lit_metric.configurable import Configurable
from lit_metric.losses.base import Loss, LossContext
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.gather import mark_fixed
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.rare_events import RareEventMemoryLoss


class CandidateBank(Configurable, ABC):
    """Base of the sources of candidates from outside the batch.

    Vectors are raw, as the encoder returns them. A learner appends them to the candidates of all ranks and
    asks the relations about their ids. So each is a positive or a negative of an anchor, or neither, as if it
    were in the batch. The anchor gets a gradient from it; the vector itself gets none.

    A subclass implements :meth:`extend`; one that reads the data :meth:`setup`; one that changes during
    training also :meth:`update`, :meth:`state_dict`, :meth:`load_state_dict` and :meth:`clear`.
    """

    def setup(self, context: LossContext) -> None:
        """Prepare what depends on the data, such as the vectors of a corpus. A learner calls it before every
        fit, after :meth:`clear`."""

    @abstractmethod
    def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
        """More candidates for a batch. Every rank calls it, and all ranks must return the same.

        Args:
            anchors: ``[A, d]`` vectors of this rank's anchors, without gradient.
            ids: ``[C]`` int64 global ids of the batch's candidates, those of all ranks.
            task: the number of the batch's data set in a mixture, to which the returned items must belong.

        Returns:
            Vectors ``[M, d]`` and distinct int64 global ids ``[M]``. Items that are in ``ids`` are left out
            by :meth:`append`.
        """

    def update(self, candidates: Tensor, ids: Tensor, task: int = 0) -> None:
        """Learn of the candidates of a batch, those of all ranks in rank order, after :meth:`extend`.

        Args:
            candidates: ``[C, d]`` vectors, without gradient.
            ids: ``[C]`` int64 global ids; an item that two ranks have is there twice.
            task: the number of the batch's data set.
        """

    def append(
        self, anchors: Tensor, candidates: Tensor, ids: Tensor, task: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The candidates of a batch with those of :meth:`extend` behind them; then :meth:`update`.

        Args:
            anchors: ``[A, d]`` vectors of this rank's anchors.
            candidates: ``[C, d]`` gathered vectors, with gradient.
            ids: ``[C]`` int64 global ids.
            task: the number of the batch's data set.

        Returns:
            Vectors ``[C + m, d]`` and global ids ``[C + m]``.

        Raises:
            ValueError: if :meth:`extend` returns vectors and ids that don't fit, or an id twice.
        """
        vectors, more = self.extend(anchors.detach(), ids, task)
        if vectors.shape != (len(more), candidates.shape[1]):
            raise ValueError(
                f"{type(self).__name__}.extend returned vectors {list(vectors.shape)} for {len(more)} ids; "
                f"they must be [{len(more)}, {candidates.shape[1]}]"
            )
        if len(more.unique()) < len(more):
            raise ValueError(
                f"{type(self).__name__}.extend returned an id twice, and its pairs would count twice; "
                "return each once, also if two ranks gave it to update"
            )
        new = ~torch.isin(more, ids)
        vectors = vectors.detach()[new].to(candidates.dtype)
        self.update(candidates.detach(), ids, task)
        together = torch.cat([candidates, vectors])
        return mark_fixed(together, len(vectors)), torch.cat([ids, more[new]])

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state_dict` returned."""

    def clear(self) -> None:
        """Forget everything, before another fit."""


class CandidateMemory(CandidateBank):
    """Cross-batch memory: the vectors of the candidates that were trained on last.

    Each item is there once, with its latest vector. Of a mixture each data set has a memory of its own. What
    is remembered doesn't depend on the number of ranks: of one batch, lower ids are forgotten before higher.

    Source: Wang, Zhang, Huang and Scott, "Cross-Batch Memory for Embedding Learning", CVPR 2020 (arXiv
    1912.06798), algorithm 1.

    Args:
        size: the largest number of vectors, at least 1.

    Raises:
        ValueError: if ``size`` is below 1.

    Example:
        >>> memory = CandidateMemory(size=3)
        >>> for ids in ([0, 1], [2, 3], [1, 4]):
        ...     vectors = torch.tensor(ids)[:, None].float()
        ...     print(memory.append(vectors, vectors, torch.tensor(ids))[1].tolist())
        [0, 1]
        [2, 3, 0, 1]
        [1, 4, 2, 3]
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a memory holds at least 1 vector, not {size}")
        self.size = size
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}  # vectors and ids of each task, the oldest first

    def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
        """See :meth:`CandidateBank.extend`."""
        vectors, known = self._rows.get(task, (anchors[:0], ids[:0]))
        return vectors.to(anchors.device), known.to(ids.device)

    def update(self, candidates: Tensor, ids: Tensor, task: int = 0) -> None:
        """See :meth:`CandidateBank.update`."""
        vectors, known = self.extend(candidates, ids, task)
        # The order of a batch depends on how ranks share out mined negatives, that of its ids doesn't.
        order = ids.argsort(stable=True)
        vectors = torch.cat([vectors, candidates[order].to(vectors.dtype)])
        known = torch.cat([known, ids[order]])
        # The places of each id's last occurrence, in their order.
        distinct, number = known.unique(return_inverse=True)
        places = torch.arange(len(known), device=known.device)
        latest = places.new_zeros(len(distinct)).scatter_reduce(0, number, places, "amax")
        kept = latest.sort().values[-self.size :]
        self._rows[task] = vectors[kept], known[kept]

    def state_dict(self) -> dict[str, Tensor]:
        """See :meth:`CandidateBank.state_dict`."""
        state = {f"{task}.vectors": vectors for task, (vectors, _) in self._rows.items()}
        return state | {f"{task}.ids": ids for task, (_, ids) in self._rows.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`CandidateBank.load_state_dict`; of a larger memory the latest vectors are kept."""
        tasks = [name.removesuffix(".ids") for name in state if name.endswith(".ids")]
        self._rows = {
            int(task): (state[f"{task}.vectors"][-self.size :], state[f"{task}.ids"][-self.size :])
            for task in tasks
        }

    def clear(self) -> None:
        """See :meth:`CandidateBank.clear`."""
        self._rows = {}


def compares_candidates(loss: Loss) -> bool:
    """Whether a loss learns from candidates outside the batch.

    Losses with proxies, or with a memory of their own, ignore candidates. Losses that require scores ignore
    pairs whose score is unknown, as nearly all pairs of an anchor and an item of another batch are.
    """
    return any(
        not isinstance(each, ProxyLoss | RareEventMemoryLoss) and not each.requires_scores
        for each in loss.modules()
        if isinstance(each, Loss) and not isinstance(each, CombinedLoss)
    )
