"""A second, frozen model that says which candidates are positives after all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.mining.candidates import Candidates, PositiveScores, Reference, check_reference
from lit_metric.mining.filters import NegativeFilter
from lit_metric.mining.hashing import hashed
from lit_metric.mining.texts import ReadsTexts
from lit_metric.mining.vectors import Vectors

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations

_PAIRS = 1 << 16
_BLOCK = 512


class Guide(ABC):
    """Says how alike two items are; it is not trained."""

    def prepare(self, ids: Tensor) -> None:  # noqa: B027
        """Get ready for questions about the items ``ids [M]``; most need not."""

    @abstractmethod
    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[P]`` float32 for the pairs of ``anchors [P]`` and ``candidates [P]``, the higher the more
        alike."""


class EncoderGuide(ReadsTexts, Guide):
    """The cosine of the vectors of a frozen encoder, which are computed once in a run and kept in memory.

    Args:
        encoder: hub id or folder, as :class:`~lit_metric.encoders.TextEncoder` takes it.
        device: where it encodes.
        texts: file of the items' texts; the data module gives its own.
    """

    def __init__(self, encoder: str, device: str = "cpu", texts: str | None = None) -> None:
        self.encoder = encoder
        self.device = device
        self.texts = texts
        self._encoded: str | None = None
        self._ids = torch.empty(0, dtype=torch.int64)
        self._vectors = torch.empty(0, 0)

    def prepare(self, ids: Tensor) -> None:
        """See :class:`Guide`."""
        wanted = ids.sort().values
        if self._encoded == self.texts and torch.equal(wanted, self._ids):
            return
        from lit_metric.encoders import TextEncoder

        with torch.random.fork_rng():
            encoder = TextEncoder(self.encoder, freeze=True).to(self.device)
        vectors = torch.from_numpy(encoder.encode(self.texts_of(wanted)))
        self._encoded, self._ids = self.texts, wanted
        self._vectors = torch.nn.functional.normalize(vectors, dim=1)

    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """See :class:`Guide`."""
        rows = [torch.searchsorted(self._ids, ids) for ids in (anchors, candidates)]
        pairs = zip(*(part.split(_PAIRS) for part in rows), strict=True)
        scores = [(self._vectors[one] * self._vectors[other]).sum(dim=1) for one, other in pairs]
        return torch.cat([torch.empty(0), *scores])


class CrossEncoderGuide(ReadsTexts, Guide):
    """The score of a cross-encoder, which reads both texts at once; by sentence-transformers.

    Much surer than vectors and much slower, as each pair passes through the model: with 50 candidates for
    each of 10,000 anchors, half a million pairs for every mining, and as many again for what is proposed and
    dropped before. Put it behind the cheap filters.

    Args:
        model: hub id or folder of a cross-encoder with one score.
        batch_size: pairs scored together.
        device: where; sentence-transformers' choice if None.
        texts: file of the items' texts; the data module gives its own.
    """

    def __init__(
        self, model: str, batch_size: int = 32, device: str | None = None, texts: str | None = None
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = device
        self.texts = texts
        self._encoder: Any = None

    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """See :class:`Guide`.

        Raises:
            ValueError: if the model gives more than one score for a pair.
        """
        if not len(anchors):
            return torch.empty(0)
        if self._encoder is None:
            from sentence_transformers import CrossEncoder

            self._encoder = CrossEncoder(self.model, device=self.device)
        pairs = list(zip(self.texts_of(anchors), self.texts_of(candidates), strict=True))
        scores = self._encoder.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
        if scores.ndim != 1:
            raise ValueError(
                f"{self.model} gives {scores.shape[1]} scores for a pair: take a cross-encoder with one label"
            )
        return torch.from_numpy(np.asarray(scores, dtype=np.float32))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_encoder": None}


class GuideFilter(NegativeFilter):
    """Keeps the candidates that a guide finds less like the anchor than its positives: g⁻ < g⁺ − ``margin``.

    An anchor without positives keeps all. The encoder in training mistakes for negatives what it has not
    learned yet, and for positives what it has learned wrongly; the guide has not followed it.

    Source: GISTEmbed (Solatorio, arXiv 2402.16829), for one positive and within the batch, as
    :class:`~lit_metric.losses.GuidedLoss` does.

    Args:
        guide: an :class:`EncoderGuide` or a :class:`CrossEncoderGuide`.
        margin: on the guide's scale; below 0 a candidate may be that much more alike than the positive.
        reference: which positive g⁺ is, where there are several: ``"best"``, ``"worst"`` or ``"mean"``.
        positives: so many of an anchor's positives are scored at most, the same ones each time.

    Raises:
        ValueError: if there are to be no positives, or the reference is none.
    """

    def __init__(
        self, guide: Guide, margin: float = 0.0, reference: Reference = "mean", positives: int = 8
    ) -> None:
        check_reference(reference)
        if positives < 1:
            raise ValueError(f"positives={positives} must be at least 1")
        self.guide = guide
        self.margin = margin
        self.reference: Reference = reference
        self.positives = positives
        self._among: tuple[Tensor, Relations] | None = None

    def prepare(self, vectors: Vectors, ids: Tensor, relations: Relations) -> None:
        """See :class:`~lit_metric.mining.NegativeFilter`."""
        self.guide.prepare(ids)
        self._among = ids, relations

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`~lit_metric.mining.NegativeFilter`."""
        present = candidates.present
        anchors = candidates.anchors[:, None].expand_as(present)[present]
        scores = torch.full(present.shape, -torch.inf)
        scores[present] = self.guide.score(anchors, candidates.ids[present])
        positives = self.positive_scores(candidates.anchors).of(self.reference)
        # A missing positive (NaN) drops nothing.
        return ~(scores >= (positives - self.margin)[:, None])

    def positive_scores(self, anchors: Tensor) -> PositiveScores:
        """``[A]`` each: how alike the guide finds each of ``anchors [A]`` and its positives.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._among is None:
            raise RuntimeError("keep() before prepare(): whose positives?")
        ids, relations = self._among
        owners, others = [], []
        for rows in torch.arange(len(anchors)).split(_BLOCK):
            found = relations.positives(anchors[rows], ids)
            lengths, places = found.lengths[found.segment_ids], found.positions
            # So many in a row, from a place that depends on the anchor alone.
            start = torch.from_numpy((hashed(anchors[rows].numpy()) >> np.uint64(1)).astype(np.int64))
            taken = (places - start[found.segment_ids]) % lengths < self.positives
            owners.append(rows[found.segment_ids[taken]])
            others.append(found.values[taken])
        rows, positives = torch.cat(owners), torch.cat(others)
        scores = self.guide.score(anchors[rows], positives)
        none = torch.full((len(anchors),), torch.nan)
        numbers = {
            name: none.scatter_reduce(0, rows, scores, how, include_self=False)
            for name, how in (("best", "amax"), ("worst", "amin"), ("mean", "mean"))
        }
        return PositiveScores(**numbers)
