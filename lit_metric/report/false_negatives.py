"""Which mined negatives probably belong to their anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.index import Embeddings, ExactIndex
from lit_metric.mining.texts import text_of_items
from lit_metric.neighbours.duplicates import normalized
from lit_metric.neighbours.label_errors import label_probabilities, numbered
from lit_metric.report.chosen import labels_of

LIKELY = 0.8
"""Probability of the other's label from which a negative is likely to be false."""
VOTERS = 20
"""Nearest labelled items that vote where items have no label, or several."""
MAJORITY = 0.7
"""Share of the voters that must have the label."""
CELLS = 50_000_000
"""Items times labels whose probabilities are computed at most; of more items, some are drawn."""

START = "A kept candidate is called a likely false negative if "
TEXTS = (
    "its text equals that of the anchor or of one of its positives but for case, blanks and punctuation at "
    "the end"
)
END = " The share is that of the newest version's sampled anchors."
RULE = (
    f"{START}the label of the anchor has a probability of {LIKELY:.0%} or more for the candidate, or that of "
    "the candidate for the anchor; or if "
    + TEXTS
    + ". The probability is that of the list of suspected labels: "
    "by the nearest items and a linear classifier, the item itself left out. How far to trust the rule was "
    "measured on other data, Banking77 with 5% of the labels moved to the nearest class, and a small head "
    "trained on them: it found {found} of the truly false negatives, and {precision} of those that it named "
    "were false. Where classes overlap, as sections of Debian packages do, {overlapping} of those named were."
    + END
)
FOUND, PRECISION, OVERLAPPING = "62%", "56%", "20%"
"""See docs/decisions.md."""
VOTES = (
    f"{START}at least {MAJORITY:.0%} of its own {VOTERS} nearest labelled training items have a label of the "
    "anchor, or if as many of the anchor's have a label of the candidate (by the trained vectors, the item "
    "itself left out); or if " + TEXTS + "." + END
)
TEXTS_ONLY = (
    "There are no trained vectors of items with labels to judge by. "
    + START.replace(" if ", " only if ")
    + TEXTS
    + ", so most false negatives are not found."
    + END
)


def same_label(probabilities: Tensor, given: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    """How probable it is that an item has the label of the other, in the direction in which it is more so.

    Args:
        probabilities: ``[n, classes]`` of each label for each item.
        given: ``[n]`` int64 labels.
        anchors, candidates: ``[P]`` rows.

    Returns:
        ``[P]`` in 0 .. 1.

    Example:
        >>> shares = torch.tensor([[0.875, 0.125], [0.75, 0.25]])
        >>> same_label(shares, torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([1])).tolist()
        [0.75]
    """
    return torch.maximum(probabilities[candidates, given[anchors]], probabilities[anchors, given[candidates]])


class Judge:
    """Finds likely false negatives among the candidates of anchors.

    Args:
        data: of the run, after it has read.
        anchors: ids of the anchors.
        candidates: ids of their candidates.
        spaces: vectors of training items, the trained ones first; without any, only texts are compared.

    Attributes:
        labels: of all items.
        rule: in words.
    """

    def __init__(
        self, data: Any, anchors: set[int], candidates: set[int], spaces: Sequence[Embeddings]
    ) -> None:
        self.data, self.labels, self.rule = data, Labels(data), TEXTS_ONLY
        self._texts: dict[int, set[Any]] = {}
        self._rows: dict[int, int] = {}
        self._given = self._probabilities = torch.empty(0)
        self._votes: dict[int, dict[int, float]] = {}
        if not spaces or not self.labels.names:
            return
        trained = data.splits["train"].unique()
        for space in spaces:
            trained = trained[torch.isin(trained, space.ids)]
        counts = self.labels.counts[trained]
        asked = torch.tensor(sorted(anchors | candidates), dtype=torch.int64)
        asked = asked[torch.isin(asked, trained)]
        if not len(asked) or int((counts > 0).sum()) < 2:
            return
        if bool((counts <= 1).all()):
            self.rule = RULE.format(found=FOUND, precision=PRECISION, overlapping=OVERLAPPING)
            self._estimate(spaces, trained[counts == 1], asked)
        else:
            self.rule = VOTES
        self._vote(spaces[0], trained[counts > 0], asked)

    def _estimate(self, spaces: Sequence[Embeddings], items: Tensor, asked: Tensor) -> None:
        """How probable each label is for items of one label each."""
        most = max(CELLS // len(self.labels.names), len(asked))
        if len(items) > most:
            others = items[~torch.isin(items, asked)]
            drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
            items = torch.cat([items[torch.isin(items, asked)], others[drawn[: most - len(asked)]]])
        if len(items) < 2:
            return
        texts = text_of_items(self.data.items, self.data.vocabulary, items)
        self._given = torch.tensor([self.labels[item][0] for item in items.tolist()])
        vectors = [space.of(items).numpy() for space in spaces]
        copies = numbered(normalized(text) for text in texts)
        self._probabilities = label_probabilities(vectors, self._given, len(self.labels.names), copies)
        self._rows = {item: row for row, item in enumerate(items.tolist())}

    def _vote(self, vectors: Embeddings, voters: Tensor, asked: Tensor) -> None:
        """By item without a probability, the share of its nearest labelled items that have each label."""
        asked = torch.tensor([item for item in asked.tolist() if item not in self._rows], dtype=torch.int64)
        if not len(asked):
            return
        index = ExactIndex(device="cpu")
        index.add(vectors.of(voters), voters)
        _, near = index.search(
            vectors.of(asked), VOTERS, lambda rows, found, _: asked[rows][:, None] == found
        )
        for item, row in zip(asked.tolist(), near.tolist(), strict=True):
            counts: dict[int, float] = {}
            found = [other for other in row if other >= 0]
            for label in (label for other in found for label in self.labels[other]):
                counts[label] = counts.get(label, 0) + 1 / len(found)
            self._votes[item] = counts

    def reason(self, anchor: int, candidate: int, text: str) -> str:
        """By which part of the rule the candidate is likely a positive; "" if it isn't."""
        if normalized(text) in self._own_texts(anchor):
            return "its text is nearly that of the anchor or of a positive"
        for item, other, whose, of in (
            (candidate, anchor, "it", "the anchor's"),
            (anchor, candidate, "the anchor", "its"),
        ):
            labels = self.labels[other]
            if item in self._rows:
                own = self._probabilities[self._rows[item]]
                share = max((float(own[label]) for label in labels), default=0.0)
                if share >= LIKELY - 1e-9:
                    return f"{of} label has a probability of {share:.0%} for {whose}"
                continue
            votes = self._votes.get(item, {})
            share = max((votes.get(label, 0.0) for label in labels), default=0.0)
            if share >= MAJORITY - 1e-9:
                near = "its" if item == candidate else "the anchor's"
                return f"{share:.0%} of {near} nearest labelled items have {of} label"
        return ""

    def _own_texts(self, anchor: int) -> set[Any]:
        if anchor not in self._texts:
            own = torch.tensor([anchor])
            positives = self.data.relations.positives(own, self.data.splits["train"]).values
            ids = torch.cat([own, positives.cpu().long()])
            texts = text_of_items(self.data.items, self.data.vocabulary, ids)
            self._texts[anchor] = {normalized(text) for text in texts}
        return self._texts[anchor]


class Labels:
    """The labels of all items; ``labels[i]`` are the places of item i's among ``names``.

    Attributes:
        names: distinct labels.
        counts: ``[N]`` int64, how many labels each item has.
    """

    def __init__(self, data: Any) -> None:
        self.names, self._offsets, self._places = labels_of(data, torch.arange(len(data.items)))
        self.counts = torch.from_numpy(np.diff(self._offsets).astype(np.int64))

    def __getitem__(self, number: int) -> list[int]:
        own: list[int] = self._places[self._offsets[number] : self._offsets[number + 1]].tolist()
        return own
