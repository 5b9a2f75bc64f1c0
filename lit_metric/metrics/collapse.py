"""How widely embeddings spread, and the alarm when they collapse while a model trains.

The functions compute in float64, from ``embeddings [n, d]`` of any float type.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric


class CollapseMonitor(Metric):
    """Spread of all embeddings since the last reset, without keeping them: O(d²) memory.

    `compute` returns float32 scalars over unit vectors: ``effective_rank`` (1..d), ``mean_pairwise_cosine``
    (-1..1, near 1 when all point the same way), ``pairwise_spread`` (``√(1 - mean pairwise cosine)``, 0 at a
    point, 1 around the origin); and ``mean_norm`` of the vectors before scaling. See `effective_rank`,
    `mean_pairwise_cosine` and `pairwise_spread`. States are sums, so processes add up.

    The batch-hard triplet loss collapses a model more easily the larger the batch and the smaller the
    dimension (arXiv 2210.11173). A loss that stays at its margin, or at ln 2 for a soft margin, shows the
    same: see `plateau_reason`.

    Args:
        dimension: d of the embeddings.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: ``dimension`` is below 1.

    Example:
        >>> monitor = CollapseMonitor(dimension=3)
        >>> monitor.update(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
        >>> {name: value.item() for name, value in monitor.compute().items()}
        {'effective_rank': 3.0, 'mean_pairwise_cosine': 0.0, 'pairwise_spread': 1.0, 'mean_norm': 2.0}
        >>> monitor.reason() is None
        True
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    gram: Tensor
    total: Tensor
    square: Tensor
    norm: Tensor
    count: Tensor

    def __init__(self, dimension: int, **kwargs: Any) -> None:
        # As in EmbeddingMetric: no rank may answer from its cache while the others wait for it.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        self.dimension = dimension
        # float64, or rounding in the sums would look like singular values of their own.
        shapes = {"gram": (dimension, dimension), "total": (dimension,), "square": (), "norm": ()}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self._reach = dimension

    def update(self, embeddings: Tensor) -> None:
        """Add ``embeddings [n, dimension]``, of any float dtype and length.

        Raises:
            ValueError: the shape is another.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimension:
            raise ValueError(f"embeddings must be [n, {self.dimension}], got {list(embeddings.shape)}")
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = embeddings.detach().double()
            unit = F.normalize(vectors, dim=1)
            self.gram += unit.T @ unit
            self.total += unit.sum(dim=0)
            self.square += unit.square().sum()
            self.norm += vectors.norm(dim=1).sum()
            self.count += len(vectors)

    def compute(self) -> dict[str, Tensor]:
        """All values by name; NaN where there are fewer than two embeddings, or one is not finite."""
        n = self.count
        # Fewer embeddings than dimensions cannot have a higher rank than their number.
        self._reach = min(self.dimension, int(n))
        cosine = (self.total.square().sum() - self.square) / (n * (n - 1))
        finite = bool(self.gram.isfinite().all())
        values = {
            "effective_rank": effective_rank_of_gram(self.gram) if finite else cosine * torch.nan,
            "mean_pairwise_cosine": cosine,
            "pairwise_spread": (1 - cosine).clamp(min=0).sqrt(),
            "mean_norm": self.norm / n,
        }
        return {name: value.float() for name, value in values.items()}

    def reason(self, min_rank_share: float = 0.02, min_spread: float = 0.05) -> str | None:
        """Why the embeddings count as collapsed, or ``None``; thresholds as in `collapse_reason`.

        In several processes all of them must call this, as it calls `compute`.
        """
        values = self.compute()
        return collapse_reason(
            float(values["effective_rank"]),
            float(values["pairwise_spread"]),
            self._reach,
            min_rank_share,
            min_spread,
        )


def effective_rank(embeddings: Tensor) -> Tensor:
    """``exp(-Σ p_i log p_i)`` with ``p = σ / Σσ``, σ the singular values (Roy and Vetterli 2007, "The
    effective rank: a measure of effective dimensionality").

    The number of directions that the embeddings use: between 1 (all on one line through the origin) and
    ``min(n, d)`` (all singular values equal). Nothing is centred, as in the paper.

    Args:
        embeddings: ``[n, d]``.

    Returns:
        Scalar float64 in ``1..min(n, d)``; 0 where all are zero or there are none.

    Raises:
        ValueError: ``embeddings`` is not a matrix.

    Example:
        >>> effective_rank(torch.eye(4)).item(), effective_rank(torch.ones(8, 4)).item()
        (4.0..., 1.0...)
    """
    z = _as_float64(embeddings)
    return effective_rank_of_gram(z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T)


def effective_rank_of_gram(gram: Tensor) -> Tensor:
    """`effective_rank` from ``Σ_i z_i z_iᵀ [d, d]`` in float64, whose eigenvalues are the squared singular
    values.

    Example:
        >>> effective_rank_of_gram(torch.diag(torch.tensor([4.0, 4.0, 0.0]).double())).item()
        2.0
    """
    # Below this the eigenvalues of a rank-deficient matrix are rounding noise, and their roots would count.
    eigenvalues = torch.linalg.eigvalsh(gram)
    if not len(eigenvalues):
        return gram.new_zeros(())
    noise = eigenvalues[-1] * len(eigenvalues) * torch.finfo(torch.float64).eps
    singular_values = eigenvalues.where(eigenvalues > noise, 0.0).sqrt()
    total = singular_values.sum()
    if total <= 0:
        return total
    return torch.special.entr(singular_values / total).sum().exp()


def mean_pairwise_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows, in -1..1; NaN of fewer than two.

    Near 0 for directions spread evenly, 1 when all point the same way. O(nd), no pair is formed. A zero
    vector has cosine 0 with all others.

    Args:
        embeddings: ``[n, d]``.

    Example:
        >>> mean_pairwise_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])).item()
        0.3333...
    """
    unit = F.normalize(_as_float64(embeddings), dim=1)
    n = len(unit)
    if n < 2:
        return unit.new_tensor(torch.nan)
    return (unit.sum(dim=0).square().sum() - unit.square().sum()) / (n * (n - 1))


def pairwise_spread(embeddings: Tensor) -> Tensor:
    """Root mean square distance of two different rows, relative to √2 times their root mean square norm.

    Free of scale: 0 when all are one point, 1 when they are uncorrelated around the origin. For unit
    vectors it is ``√(1 - mean pairwise cosine)``. O(nd), no pair is formed.

    Args:
        embeddings: ``[n, d]``.

    Returns:
        Scalar float64 in ``0..√(n / (n - 1))``; 0 where all are zero; NaN of fewer than two.

    Example:
        >>> pairwise_spread(torch.eye(2)).item(), pairwise_spread(torch.ones(5, 3)).item()
        (1.0, 0.0)
    """
    z = _as_float64(embeddings)
    n = len(z)
    if n < 2:
        return z.new_tensor(torch.nan)
    square_norm = z.square().sum(dim=1).mean()
    # Around the mean, since a difference of large sums would drown a small spread.
    variance = (z - z.mean(dim=0)).square().sum(dim=1).sum() / (n - 1)
    return (variance / square_norm).sqrt().nan_to_num(0.0)


def collapse_reason(
    effective_rank: float,
    pairwise_spread: float,
    dimension: int,
    min_rank_share: float = 0.02,
    min_spread: float = 0.05,
) -> str | None:
    """Why embeddings count as collapsed, or ``None`` if they do not.

    Collapsed means that they shrank to a point (the spread is below ``min_spread``; 0.05 is a mean pairwise
    cosine above 0.9975) or onto few directions (the effective rank is below ``min_rank_share`` of the
    dimension, or below 1.5 where that is more). The defaults are rules of thumb, far from a healthy encoder.

    Args:
        effective_rank: as from `effective_rank`.
        pairwise_spread: as from `pairwise_spread`, or ``√(1 - mean pairwise cosine)``.
        dimension: of the embeddings; with fewer rows than that, the number of rows.
        min_rank_share: 0..1.
        min_spread: 0..1.

    Example:
        >>> collapse_reason(180.0, 0.8, dimension=384)
        >>> collapse_reason(3.0, 0.8, dimension=384)
        'effective rank 3.0 is below 7.7 (of 384 dimensions): the embeddings use few directions'
    """
    if not (math.isfinite(pairwise_spread) and math.isfinite(effective_rank)):
        return "the spread is not a number: there are fewer than two embeddings, or some are not finite"
    if pairwise_spread < min_spread:
        return (
            f"pairwise spread {pairwise_spread:.3g} is below {min_spread}: the embeddings are nearly "
            "one point"
        )
    least = max(1.5, min_rank_share * dimension)
    if dimension > 1 and effective_rank < least:
        return (
            f"effective rank {effective_rank:.1f} is below {least:.1f} (of {dimension} dimensions): the "
            "embeddings use few directions"
        )
    return None


def plateau_reason(
    losses: Tensor, plateau: float, tolerance: float = 0.02, min_steps: int = 10
) -> str | None:
    """Why the losses of some steps count as stuck at a plateau, or ``None`` if they do not.

    They are stuck if none of them is further than ``tolerance`` from it. A loss that falls through this value
    stays so near for a few steps only, and batches differ by more.

    Args:
        losses: ``[steps]``, of steps one after another.
        plateau: the loss if all embeddings are one point, above 0: the margin of a hinge, log 2 of a soft
            margin.
        tolerance: as a share of ``plateau``, 0..1.
        min_steps: fewer losses say nothing.

    Example:
        >>> plateau_reason(torch.full((50,), 0.2), plateau=0.2)
        'the loss has stayed at 0.2 for 50 steps, its value if all embeddings are one point'
        >>> plateau_reason(torch.linspace(0.3, 0.1, 50), plateau=0.2)
    """
    if len(losses) < min_steps or not bool(((losses - plateau).abs() <= tolerance * plateau).all()):
        return None
    return (
        f"the loss has stayed at {plateau:.3g} for {len(losses)} steps, its value if all embeddings are "
        "one point"
    )


def _as_float64(embeddings: Tensor) -> Tensor:
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be [n, d], got {list(embeddings.shape)}")
    embeddings = embeddings.detach()
    return (embeddings.cpu() if embeddings.device.type == "mps" else embeddings).double()
