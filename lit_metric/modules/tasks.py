"""The losses of a run: one for each data set of a mixture, their means, and what they need of the data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from lit_metric.batching import BatchPlanner, ScoredPairPlanner
from lit_metric.data import DataError, LabelRelations, PairRelations, Relations
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import frozen_encoder
from lit_metric.losses import CombinedLoss, DistillationKLLoss, Loss, MarginMSELoss, sum_over_ranks
from lit_metric.losses.gather import gather_ids, rank, world_size
from lit_metric.mining.texts import roles_of_items, text_of_items

log = logging.getLogger(__name__)

CHECKED_BATCHES = 10


class TaskLosses(nn.Module):
    """Losses by the name of the data set whose batches they are for.

    Args:
        losses: at least one.

    Raises:
        ValueError: when there is none.
    """

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("loss: an empty mapping; name a loss for each data set of data.mixture")
        self.losses = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        for name, loss in losses.items():
            key = name.replace(".", "_")  # torch takes no dots, and none of its own methods' names
            while hasattr(self.losses, key) or (key != name and key in losses):
                key += "_"
            self._keys[name] = key
            self.losses[key] = loss

    def __getitem__(self, name: str) -> Loss:
        return cast(Loss, self.losses[self._keys[name]])

    def check(self, names: Iterable[str]) -> None:
        """Check that there is one loss for each of the data sets ``names``.

        Raises:
            ValueError: if a loss is missing, or is for no data set.
        """
        names = list(names)
        if sorted(names) != sorted(self._keys):
            raise ValueError(
                f"model.loss has losses for {', '.join(map(repr, self._keys))}, but data.mixture has "
                f"{', '.join(map(repr, names)) or 'no data sets'}: name one for each"
            )

    def untouched(self, name: str) -> Tensor | None:
        """0, computed from all parameters of the losses other than that of ``name``; None if they have none.

        Added to the loss, it gives each of them a gradient of 0. Distributed training needs a gradient for
        every parameter at every step.
        """
        others = [
            parameter.sum()
            for other in self._keys
            if other != name
            for parameter in self[other].parameters()
            if parameter.requires_grad
        ]
        return 0.0 * sum(others[1:], others[0]) if others else None


class TaskMeans:
    """Means of the values of each data set since the last call of :meth:`means`.

    Lightning logs the values of every n-th step, which may always be of the same data set, and repeats them
    until there are newer ones.

    Example:
        >>> logged = TaskMeans()
        >>> for value in (1.0, 3.0):
        ...     logged.add({"train/cards/loss": torch.tensor(value)})
        >>> logged.means(torch.device("cpu")), bool(logged)
        ({'train/cards/loss': 2.0}, False)
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the scalars of a batch, whose names hold that of its data set."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def means(self, device: torch.device) -> dict[str, float]:
        """The mean of each value over the batches and all ranks, by name; then start again.

        All ranks have batches of the same data sets, and must call this together.
        """
        sums = torch.stack([torch.stack(values).mean().to(device) for values in self._values.values()])
        means = sum_over_ranks(sums) / sum_over_ranks(torch.ones_like(sums))
        names = [*self._values]
        self._values = {}
        return dict(zip(names, means.tolist(), strict=True))


def check_scores(loss: Loss, planner: BatchPlanner, ids: Tensor, relations: Relations, seed: int) -> None:
    """Check that a loss of scores has scores to compare.

    Warns if half of the anchors or more have a single scored candidate in their batch, from which a loss that
    compares an anchor's candidates can't learn.

    Args:
        loss: any.
        planner: of its batches.
        ids: int64 ids of the items to train on.
        relations: of these ids.
        seed: of the plans.

    Raises:
        DataError: if there are no scores or all are equal, or if no anchor has two scored candidates to
            compare; gives the remedy.
    """
    named = (each for each in loss.modules() if isinstance(each, Loss) and not isinstance(each, CombinedLoss))
    name = next((type(each).__name__ for each in named if each.requires_scores), "")
    if name and isinstance(relations, LabelRelations | PairRelations):
        scores = relations.judgements(ids)[2] if isinstance(relations, PairRelations) else ids[:0]
        if len(scores.unique()) < 2:
            raise DataError(
                f"{name} learns from differences between scores, and these data have none: take "
                "loss=InfoNCELoss(), or name the column of scores, score= of Pairs"
            )
    compares = isinstance(loss, MarginMSELoss | DistillationKLLoss) and isinstance(planner, ScoredPairPlanner)
    if not compares or not isinstance(relations, PairRelations):
        return
    name = type(loss).__name__
    counts = relations.judgements(ids)[0].unique(return_counts=True)[1]
    if not bool((counts > 1).any()):
        raise DataError(
            f"{name} compares the scored candidates of an anchor, and none of the {len(counts)} anchors has "
            "more than one: give several rows for each, or take a loss of single scores, such as CoSENTLoss"
        )
    plan = planner.plan(ids, relations, seed, 0)
    checked = range(min(len(plan), CHECKED_BATCHES))
    known = [~relations.targets(plan.anchors[batch], plan.candidates[batch]).isnan() for batch in checked]
    every = sum(map(len, known))
    alone = sum(int((block.sum(dim=1) < 2).sum()) for block in known)
    if 2 * alone >= every:
        log.warning(
            "%s compares the scored candidates of an anchor, and %d of the %d anchors in the first %d "
            "batches have only one there, from which it can't learn: set together to true in "
            "ScoredPairPlanner",
            name,
            alone,
            every,
            len(checked),
        )


def encode_items(
    encoder: str, ids: Tensor | None = None, *, data: MetricDataModule, device: torch.device
) -> Tensor:
    """``[N, g]`` float32 vectors of all items, by their global id, or of ``ids [N]``, on ``device``.

    Every rank must call it: each encodes its share of the distinct texts, and all get the same vectors.

    Args:
        encoder: hub id or folder of the guide, which has its own tokenizer.
        ids: global ids of items; None for all.
        data: after its ``setup``.
        device: where to encode.
    """
    guide = frozen_encoder(encoder, device)
    if ids is None:
        ids = torch.arange(len(data.items))
    named = [function(data.items, data.vocabulary, ids) for function in (text_of_items, roles_of_items)]
    inputs = [*zip(*named, strict=True)]  # a text and its role, which may have a prompt
    distinct = list(dict.fromkeys(inputs))
    shares = [distinct[first :: world_size()] for first in range(world_size())]
    texts, roles = ([each[part] for each in shares[rank()]] for part in (0, 1))
    vectors = gather_ids(torch.from_numpy(guide.encode(texts, role=roles)).to(device))
    rows = {each: row for row, each in enumerate(each for share in shares for each in share)}
    return vectors[torch.tensor([rows[each] for each in inputs], device=device)]
