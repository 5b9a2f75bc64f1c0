"""Learned proxies: vectors that represent the classes. Anchors are compared with them, not with each other.

Proxies are parameters, the same on every rank, while anchors are each rank's own. Where a loss is a mean over
anchors, each rank compares its anchors with all proxies; where it is a mean over proxies, each rank compares
its share of the proxies with the anchors of all ranks. Either way no term is computed twice, and the average
over ranks that DDP takes of the proxies' gradients is that of one process on the union batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_metric.losses.base import LossContext, LossOutput, MetricLoss, nothing_of
from lit_metric.losses.pairs import LabelPairs, Pairs
from lit_metric.losses.scores import Distance


class ProxyLoss(MetricLoss):
    """Base of the losses between anchors and learned proxies.

    There are proxies for the classes that occur in training, and for no others: a class that is only
    evaluated would be pushed away and never pulled. Anchors without a class, or of a class without proxies,
    don't count. Candidates and masks are ignored. For embeddings shorter than the proxies (as in
    :class:`MatryoshkaLoss`), the first components of the proxies are used.

    Proxies start as random vectors, are the parameter ``proxies`` (``loss.proxies`` in a learner) and are
    saved in checkpoints. They are commonly trained at 10 to 100 times the rate of the encoder. :meth:`setup`
    creates them, so call it before the optimizer is made; loading a state with proxies creates them, too.

    Args:
        distance: see :class:`VectorLoss`.
        normalize: see :class:`VectorLoss`.
        block_rows: see :class:`VectorLoss`.
        per_class: how many proxies each class has; those of a class follow each other.
    """

    requires_labels = True
    proxies: nn.Parameter | None
    numbers: Tensor | None

    def __init__(self, distance: Distance, normalize: bool, block_rows: int, per_class: int = 1) -> None:
        super().__init__(distance, normalize, block_rows)
        if per_class < 1:
            raise ValueError(f"a class has at least 1 proxy, not {per_class}")
        self.per_class = per_class
        self.register_parameter("proxies", None)
        # The number of each class among those that have proxies; computed from the data, hence not saved.
        self.register_buffer("numbers", None, persistent=False)

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`.

        Raises:
            ValueError: if there are no class counts, fewer than two classes occur, or existing proxies don't
                fit.
        """
        if context.class_counts is None:
            raise ValueError(f"{type(self).__name__} needs class_counts of the LossContext")
        occurs = context.class_counts > 0
        number = int(occurs.sum())
        if number < 2:
            raise ValueError(f"proxies need at least 2 classes in training, and there are {number}")
        self.numbers = torch.where(occurs, occurs.cumsum(0) - 1, -1)
        shape = (number * self.per_class, context.dimension)
        if self.proxies is None:
            self.proxies = nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape), mode="fan_out"))
        elif self.proxies.shape != shape:
            raise ValueError(
                f"the proxies are {list(self.proxies.shape)}, but this data and encoder need {list(shape)}; "
                "make a new loss"
            )

    def make_room(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Create proxies for those that ``state`` has under ``prefix``, unless there are some."""
        saved = state.get(f"{prefix}proxies")
        if self.proxies is None and saved is not None:
            self.proxies = nn.Parameter(torch.empty_like(saved))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *options: Any) -> None:
        """Load also into a loss that was never set up."""
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *options)

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`; of the pairs only ``anchor_labels`` count, -1 for no class.

        The gradient reaches the candidates and is 0.

        Raises:
            ValueError: if there are no labels or no proxies.
        """
        labels = pairs.anchor_labels
        if labels is None or labels.shape != anchors.shape[:1]:
            given = "none" if labels is None else list(labels.shape)
            raise ValueError(
                f"{type(self).__name__} needs the classes [{len(anchors)}] of anchors, got {given}; call "
                "loss(embeddings, labels=labels)"
            )
        if self.proxies is None or self.numbers is None:
            raise ValueError("there are no proxies: call setup(LossContext(dimension, class_counts)) first")
        proxies = self.proxies[:, : anchors.shape[1]]
        numbers = torch.where(labels < 0, -1, self.numbers[labels.clamp_min(0)])
        output = super().on_pairs(*self.sides(anchors, proxies, numbers))
        output["loss"] = output["loss"] + nothing_of((anchors, candidates))
        return output

    def sides(self, anchors: Tensor, proxies: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """The rows and columns of the scores: this rank's anchors and all proxies, unless overridden.

        Args:
            anchors: ``[A, d]``, this rank's.
            proxies: ``[P, d]``.
            numbers: ``[A]`` int64, the number of each anchor's class among those that have proxies, or -1.
        """
        return anchors, proxies, LabelPairs(numbers, self.numbers_of(proxies))

    def numbers_of(self, proxies: Tensor) -> Tensor:
        """``[P]`` the number of the class that each of ``proxies [P, d]`` belongs to."""
        return torch.arange(len(proxies), device=proxies.device) // self.per_class
