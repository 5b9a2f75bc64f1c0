"""A memory of rare events: keys that are moved or overwritten after each step, and a hinge against them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_metric.losses.base import LossContext, LossOutput, MetricLoss, nothing_of
from lit_metric.losses.gather import gather_ids, shared_generator
from lit_metric.losses.pairs import LabelPairs, PairBlock, Pairs
from lit_metric.losses.parts import Parts, masked_mean, share
from lit_metric.losses.scores import unit


class RareEventMemoryLoss(MetricLoss):
    """[α + q·k_b − q·k_p]₊ of each anchor q, with k_p the nearest key of the memory that has the anchor's
    class, and k_b the nearest that has another one, all of unit length; a mean over anchors.

    The memory remembers a class after one example, and for a long time, since a key that is found right
    stays. After each step of the optimizer it takes in the anchors. If the nearest key to an anchor has its
    class, the key becomes the mean direction of both and is young again. Otherwise the anchor overwrites the
    oldest key. So frequent classes share few keys that move, and rare ones keep their own. It also classifies
    by :meth:`predict`. An anchor whose class has no key, or alone has keys, doesn't count.

    Logs ``rare_events``, ``active``, the share of anchors that break the margin, and ``remembered``, the
    share of keys that hold something.

    Source: Kaiser, Nachum, Roy and Bengio, "Learning to Remember Rare Events", ICLR 2017 (arXiv 1703.03129).
    Their code multiplies similarities by masks, so that the best of negative ones counts as 0; here it counts
    as it is. Their loss is smaller by α.

    Args:
        size: keys, at least 2; several for each class. The source takes 8,192 for Omniglot.
        margin: α, above 0. The source takes 0.1.
        age_noise: ages are compared with a random number up to this added or taken away, so that ranks of
            equal age don't decide. The source takes 8.
        block_rows: anchors compared with all keys at a time.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = RareEventMemoryLoss(size=4)
        >>> loss.setup(LossContext(dimension=2))
        >>> embeddings, labels = torch.eye(2), torch.tensor([5, 7])
        >>> loss(embeddings, labels=labels), loss.after_step()  # nothing is known yet
        (tensor(0.), None)
        >>> loss(torch.tensor([[0.6, 0.8]]), labels=torch.tensor([5]))  # 0.1 + 0.8 − 0.6
        tensor(0.3000)
        >>> loss.predict(torch.tensor([[0.6, 0.8]]))
        tensor([7])
    """

    requires_labels = True
    keys: Tensor
    values: Tensor
    ages: Tensor

    def __init__(
        self, size: int = 1024, margin: float = 0.1, age_noise: int = 8, block_rows: int = 1024
    ) -> None:
        super().__init__("dot", block_rows=block_rows)
        if size < 2:
            raise ValueError(f"size must be at least 2 keys, not {size}")
        if not 0 < margin < float("inf"):
            raise ValueError(f"margin must be above 0 and finite, not {margin}")
        if age_noise < 0:
            raise ValueError(f"age_noise must be at least 0, not {age_noise}")
        self.size, self.margin, self.age_noise = size, margin, age_noise
        self.register_buffer("keys", torch.zeros(size, 0))
        self.register_buffer("values", torch.full((size,), -1))
        self.register_buffer("ages", torch.zeros(size))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, context: LossContext) -> None:
        """See :meth:`Loss.setup`; a memory that was loaded stays.

        Raises:
            ValueError: if a memory of another dimension was loaded.
        """
        self._seen = []
        if not self.keys.shape[1]:
            self.keys = self.keys.new_zeros(self.size, context.dimension)
        elif self.keys.shape[1] != context.dimension:
            raise ValueError(
                f"the memory has keys of {self.keys.shape[1]} components, and the model's vectors have "
                f"{context.dimension}; make a new loss"
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *options: Any) -> None:
        """Load also into a loss that was never set up."""
        saved = state_dict.get(f"{prefix}keys")
        if saved is not None and not self.keys.shape[1]:
            self.keys = torch.zeros_like(saved, device=self.keys.device)
        super()._load_from_state_dict(state_dict, prefix, *options)

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`; of the pairs only ``anchor_labels`` count, -1 for no class.

        The gradient reaches the candidates and is 0.

        Raises:
            ValueError: if there are no labels, or :meth:`setup` was not called.
        """
        labels = pairs.anchor_labels
        if labels is None or labels.shape != anchors.shape[:1]:
            raise ValueError(
                f"RareEventMemoryLoss needs the classes of {len(anchors)} anchors; call "
                "loss(embeddings, labels=labels)"
            )
        if self.keys.shape[1] != anchors.shape[1]:
            raise ValueError(
                f"the memory has keys of {self.keys.shape[1]} components, and anchors have "
                f"{anchors.shape[1]}: call setup(LossContext(dimension)) first"
            )
        units = unit(anchors.to(torch.promote_types(anchors.dtype, torch.float32)))
        self._seen.append((gather_ids(units), gather_ids(labels)))
        # A copy, since keys change before the backward pass of a later batch where gradients are accumulated.
        keys = self.keys.to(units.dtype).clone()
        output = super().on_pairs(units, keys, LabelPairs(labels, self.values.clone()))
        output["loss"] = output["loss"] + nothing_of((anchors, candidates))
        output["remembered"] = (self.values >= 0).float().mean()
        return output

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`; the candidates are keys."""
        least, used = torch.finfo(scores.dtype).min / 4, pairs.usable
        right = torch.where(pairs.positive, scores, least).amax(dim=1)
        wrong = torch.where(pairs.negative, scores, least).amax(dim=1)
        losses = torch.where(used, (self.margin + wrong - right).relu(), 0.0)
        return {"rare_events": masked_mean(losses, used), "active": share(losses > 0, used)}

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the anchors of the step into the memory, one after the other, those of all ranks in rank
        order."""
        for units, labels in self._seen:
            generator = shared_generator()
            for query, label in zip(units.to(self.keys.dtype), labels.tolist(), strict=True):
                if label >= 0:
                    self._take_in(query, label, generator)
        self._seen = []

    def _take_in(self, query: Tensor, label: int, generator: torch.Generator) -> None:
        scores = (self.keys @ query).masked_fill(self.values < 0, -torch.inf)
        place = int(scores.argmax())
        self.ages += 1
        if int(self.values[place]) == label:
            self.keys[place] = unit(self.keys[place] + query)
        else:
            noise = torch.rand(self.size, generator=generator).to(self.ages.device)
            ages = (self.ages + self.age_noise * (2 * noise - 1)).masked_fill(self.values < 0, torch.inf)
            place = int(ages.argmax())
            self.keys[place], self.values[place] = query, label
        self.ages[place] = 0

    @torch.no_grad()
    def predict(self, embeddings: Tensor) -> Tensor:
        """``[n]`` int64, the class of the key that is nearest to each of ``embeddings [n, d]``; -1 while the
        memory is empty."""
        scores = unit(embeddings.to(self.keys.dtype)) @ self.keys.T
        return self.values[scores.masked_fill(self.values < 0, -torch.inf).argmax(dim=1)]
