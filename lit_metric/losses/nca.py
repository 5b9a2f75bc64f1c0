"""Neighbourhood components analysis: the softmax mass of an anchor's positives, taken together."""

from __future__ import annotations

from torch import Tensor

from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.scores import Distance, log_one_plus_ratio
from lit_metric.losses.temperature import TemperatureLoss


def nca(scores: Tensor, pairs: PairBlock, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``−log( Σ_p e^{l_p} / Σ_j e^{l_j} )``, p over an anchor's positives and j over positives and negatives,
    with l the scores times ``scale``.

    It is the negative logarithm of the probability that a neighbour sampled by its exponential is a positive.

    Source: Goldberger, Roweis, Hinton and Salakhutdinov, "Neighbourhood Components Analysis", NIPS 2004, the
    objective with the logarithm, the sum of log p_i; with a temperature, Frosst, Papernot and Hinton,
    "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss", ICML 2019, eq. 1.

    Args:
        scores: ``[r, C]``.
        pairs: masks ``[r, C]``. A weight multiplies its pair's exponential, in numerator and denominator.
        scale: above 0, one over the temperature.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> nca(torch.zeros(1, 3), pairs)[0].exp()
        tensor([1.5000])
    """
    return log_one_plus_ratio(scores, pairs.positive, pairs.negative, pairs.weight, scale), pairs.usable


class NCALoss(TemperatureLoss):
    """Neighbourhood components analysis, the soft nearest neighbour loss: −log Σ_p e^{s_p/τ} / (Σ_p e^{s_p/τ}
    + Σ_n e^{s_n/τ}), the mean over anchors.

    *Some* positives must be nearer than the negatives, while InfoNCE requires it of each: the nearer a
    positive already is, the larger its share of the pull. So a class may stay in several clusters, and a
    wrong label costs less. With one positive for each anchor the two are the same. A pair's weight multiplies
    its exponential.

    Logs ``nca`` and, if it is learned, the ``temperature``.

    Source: Goldberger et al., NIPS 2004; with a temperature, learned, Frosst et al., ICML 2019.

    Args:
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. Try 0.05 to 0.5 with ``cosine``.
        distance: any of the four; Euclidean distances enter with a minus sign. The sources take
            ``squared_euclidean``.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.
        learnable: learn the temperature from that start, as its logarithm, within those bounds.

    Example:
        >>> loss = NCALoss(temperature=0.5)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))
        tensor(0.5881)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
        learnable: bool = False,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`nca`."""
        if isinstance(self.temperature, Tensor):
            return {"nca": masked_mean(*nca(scores / self.temperature, pairs))}
        return {"nca": masked_mean(*nca(scores, pairs, 1 / self.temperature))}
