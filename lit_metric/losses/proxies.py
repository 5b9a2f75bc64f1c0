"""Learned proxies: vectors that stand for the classes, which anchors are compared with instead of each other.

Proxies are parameters, the same on every rank, while anchors are each rank's own. Where a loss is a mean over
anchors, each rank compares its anchors with all proxies; where it is a mean over proxies, each rank compares
its share of the proxies with the anchors of all ranks. Either way no term is computed twice, and the average
over ranks that DDP takes of the proxies' gradients is that of one process on the union batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_metric.losses.base import LossOutput, MetricLoss, nothing_of
from lit_metric.losses.pairs import PairBlock, Pairs
from lit_metric.losses.scores import Distance


class SameClass:
    """Equal classes are positive, different ones negative, and -1 is neither.

    Args:
        rows: ``[A]`` int64 classes.
        columns: ``[C]`` int64 classes.

    Example:
        >>> pairs = SameClass(torch.tensor([1, -1]), torch.tensor([0, 1, -1])).rows(0, 2)
        >>> pairs.positive.tolist(), pairs.negative.tolist()
        ([[False, True, False], [False, False, False]], [[True, False, False], [False, False, False]])
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.of_rows = rows
        self.of_columns = columns

    def rows(self, start: int, stop: int) -> PairBlock:
        """The masks of rows ``start:stop``."""
        of_rows, of_columns = self.of_rows[start:stop, None], self.of_columns[None]
        known, same = (of_rows >= 0) & (of_columns >= 0), of_rows == of_columns
        return PairBlock(known & same, known & ~same)

    def targets(self, start: int, stop: int) -> None:
        """There are only masks."""


class ProxyLoss(MetricLoss):
    """Base of the losses between anchors and learned proxies.

    There are proxies for the classes that occur in training, and for no others: a class that is only
    evaluated would be pushed away without ever being met. Anchors without a class, or of a class without
    proxies, don't count. Candidates and pairs are not looked at. Where embeddings are shorter than proxies
    (as in :class:`MatryoshkaLoss`), the first components of the proxies are taken.

    Proxies start as random vectors, are the parameter ``proxies`` (``loss.proxies`` in a learner) and stand
    in checkpoints. They are commonly trained at 10 to 100 times the rate of the encoder.

    Args:
        distance: see :class:`VectorLoss`.
        normalize: see :class:`VectorLoss`.
        block_rows: see :class:`VectorLoss`.
        per_class: how many proxies each class has; those of a class follow each other.
    """

    needs_classes = True
    proxies: nn.Parameter | None
    numbers: Tensor | None

    def __init__(self, distance: Distance, normalize: bool, block_rows: int, per_class: int = 1) -> None:
        super().__init__(distance, normalize, block_rows)
        if per_class < 1:
            raise ValueError(f"a class has at least 1 proxy, not {per_class}")
        self.per_class = per_class
        self.register_parameter("proxies", None)
        # Of each class, its place among those that have proxies; made anew from the data, hence not saved.
        self.register_buffer("numbers", None, persistent=False)

    def build(self, class_counts: Tensor, dimension: int) -> None:
        """See :meth:`Loss.build`.

        Raises:
            ValueError: if fewer than two classes occur, or the proxies that are there already don't fit.
        """
        occurs = class_counts > 0
        number = int(occurs.sum())
        if number < 2:
            raise ValueError(f"proxies need at least 2 classes in training, and there are {number}")
        self.numbers = torch.where(occurs, occurs.cumsum(0) - 1, -1)
        shape = (number * self.per_class, dimension)
        if self.proxies is None:
            self.allocate(shape)
        elif self.proxies.shape != shape:
            raise ValueError(
                f"the proxies are {list(self.proxies.shape)}, but this data and encoder need {list(shape)}; "
                "make a new loss"
            )

    def allocate(self, shape: tuple[int, ...]) -> None:
        """Create proxies of a shape ``[classes * per_class, dimension]``."""
        self.proxies = nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape), mode="fan_out"))

    def forward(
        self, anchors: Tensor, candidates: Tensor, pairs: Pairs, classes: Tensor | None = None
    ) -> LossOutput:
        """See :meth:`VectorLoss.forward`.

        Args:
            anchors: ``[A, d]`` raw embeddings, this rank's.
            candidates: not looked at, but reached by the gradient, which is 0.
            pairs: not looked at.
            classes: ``[A]`` int64 classes of the anchors, -1 for none.

        Raises:
            ValueError: if there are no classes or no proxies.
        """
        if classes is None or classes.shape != anchors.shape[:1]:
            given = "none" if classes is None else list(classes.shape)
            raise ValueError(
                f"{type(self).__name__} needs the classes [{len(anchors)}] of anchors, got {given}"
            )
        if self.proxies is None or self.numbers is None:
            raise ValueError("there are no proxies: call build(class_counts, dimension) first")
        proxies = self.proxies[:, : anchors.shape[1]]
        numbers = torch.where(classes < 0, -1, self.numbers[classes.clamp_min(0)])
        output = super().forward(*self.sides(anchors, proxies, numbers))
        output["loss"] = output["loss"] + nothing_of((anchors, candidates))
        return output

    def sides(self, anchors: Tensor, proxies: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """Whose rows are compared with whom: this rank's anchors with all proxies, unless overridden.

        Args:
            anchors: ``[A, d]``, this rank's.
            proxies: ``[P, d]``.
            numbers: ``[A]`` int64, the number of each anchor's class among those that have proxies, or -1.
        """
        return anchors, proxies, SameClass(numbers, self.numbers_of(proxies))

    def numbers_of(self, proxies: Tensor) -> Tensor:
        """``[P]`` the number of the class that each of ``proxies [P, d]`` belongs to."""
        return torch.arange(len(proxies), device=proxies.device) // self.per_class


def allocate_saved(loss: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Make room for the saved proxies of losses that have none yet, so that the state can be loaded.

    Args:
        loss: a loss, or a combination of them.
        state: a state dictionary.
        prefix: of the names of the loss's parameters there, with its dot.
    """
    for name, module in loss.named_modules(prefix=prefix.removesuffix(".")):
        saved = state.get(f"{name}.proxies" if name else "proxies")
        if isinstance(module, ProxyLoss) and module.proxies is None and saved is not None:
            module.allocate(tuple(saved.shape))
