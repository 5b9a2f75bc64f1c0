"""A second, frozen model that finds candidates which are really positives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings
from lit_metric.mining.candidates import Candidates, PositiveScore, PositiveScores, check_positive_score
from lit_metric.mining.filters import NegativeFilter
from lit_metric.mining.hashing import hashed
from lit_metric.mining.texts import ReadsTexts

_BLOCK = 512


class Guide(ABC):
    """Scores how similar two items are. It is not trained."""

    def prepare(self, ids: Tensor) -> None:  # noqa: B027
        """Prepare for the items ``ids [M]``; most guides need not."""

    @abstractmethod
    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[P]`` float32 for the pairs of ``anchors [P]`` and ``candidates [P]``; higher is more similar."""


class EncoderGuide(ReadsTexts, Guide):
    """The cosine of the vectors of a frozen encoder, computed once in a run and held in memory.

    Args:
        encoder: hub id or folder, as :class:`~lit_metric.encoders.TextEncoder` takes it.
        device: where it encodes.
        texts: file of the items' texts; by default the file of the DataModule.
    """

    def __init__(self, encoder: str, device: str = "cpu", texts: str | None = None) -> None:
        self.encoder = encoder
        self.device = device
        self.texts = texts
        self._encoded: str | None = None
        self._vectors: Embeddings | None = None

    def prepare(self, ids: Tensor) -> None:
        """See :class:`Guide`."""
        wanted = ids.sort().values
        if (
            self._encoded == self.texts
            and self._vectors is not None
            and torch.equal(wanted, self._vectors.ids)
        ):
            return
        from lit_metric.encoders import frozen_encoder

        encoder = frozen_encoder(self.encoder, self.device)
        vectors = torch.from_numpy(encoder.encode(self.texts_of(wanted), role=self.roles_of(wanted)))
        self._encoded = self.texts
        self._vectors = Embeddings(wanted, torch.nn.functional.normalize(vectors, dim=1))

    def score(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """See :class:`Guide`.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._vectors is None:
            raise RuntimeError("call prepare() first: no item has been encoded")
        return self._vectors.pair_scores(anchors, candidates)


class CrossEncoderGuide(ReadsTexts, Guide):
    """The score of a cross-encoder, which reads both texts at once; by sentence-transformers.

    It is more reliable than vectors and much slower, as each pair passes through the model. With 50
    candidates for each of 10,000 anchors, every mining takes half a million pairs and more. Put it behind
    the cheap filters.

    Args:
        model: hub id or folder of a cross-encoder with one score.
        batch_size: pairs scored together.
        device: where it runs; None: sentence-transformers chooses.
        texts: file of the items' texts; by default the file of the DataModule.
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
    """Keeps g⁻ < g⁺ − ``margin``: what a guide finds less similar to the anchor than its positives.

    An anchor without positives keeps all candidates. The trained encoder mistakes items for negatives that it
    has not learned yet, and for positives that it has learned wrongly. The guide does not change with it.

    Source: GISTEmbed (Solatorio, arXiv 2402.16829), for one positive and within the batch, as
    :class:`~lit_metric.losses.GuidedLoss` does.

    Args:
        guide: an :class:`EncoderGuide` or a :class:`CrossEncoderGuide`.
        margin: on the guide's scale; below 0 a candidate may be more similar than the positive by that much.
        positive_score: which positive g⁺ is, if there are several: ``"best"``, ``"worst"`` or ``"mean"``.
        positives: at most this number of an anchor's positives are scored, the same ones each time.

    Raises:
        ValueError: if ``positives`` is below 1, or ``positive_score`` is unknown.
    """

    def __init__(
        self, guide: Guide, margin: float = 0.0, positive_score: PositiveScore = "mean", positives: int = 8
    ) -> None:
        check_positive_score(positive_score)
        if positives < 1:
            raise ValueError(f"positives={positives} must be at least 1")
        self.guide = guide
        self.margin = margin
        self.positive_score: PositiveScore = positive_score
        self.positives = positives
        self._among: tuple[Tensor, Relations] | None = None

    def prepare(self, embeddings: Embeddings, relations: Relations) -> None:
        """See :class:`~lit_metric.mining.NegativeFilter`."""
        self.guide.prepare(embeddings.ids)
        self._among = embeddings.ids, relations

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`~lit_metric.mining.NegativeFilter`."""
        present = candidates.present
        anchors = candidates.anchors[:, None].expand_as(present)[present]
        scores = torch.full(present.shape, -torch.inf)
        scores[present] = self.guide.score(anchors, candidates.ids[present])
        positives = self.positive_scores(candidates.anchors).of(self.positive_score)
        # A missing positive (NaN) drops nothing.
        return ~(scores >= (positives - self.margin)[:, None])

    def positive_scores(self, anchors: Tensor) -> PositiveScores:
        """``[A]`` each: the guide's scores of each of ``anchors [A]`` with its positives.

        Raises:
            RuntimeError: before :meth:`prepare`.
        """
        if self._among is None:
            raise RuntimeError("call prepare() first: the positives of the anchors are unknown")
        ids, relations = self._among
        owners, others = [], []
        for rows in torch.arange(len(anchors)).split(_BLOCK):
            found = relations.positives(anchors[rows], ids)
            lengths, places = found.lengths[found.segment_ids], found.positions
            # Consecutive positives from a place that depends on the anchor alone.
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
