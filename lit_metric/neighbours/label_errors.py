"""Labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.data.progress import stage
from lit_metric.data.ragged import Ragged
from lit_metric.index import ExactIndex
from lit_metric.metrics import knn_shares

LEAST = 0.001
"""Added to all shares of votes before their logarithms are taken."""
SHARE = 0.05
"""Share of wrong labels from which the estimate of the noise starts."""
STEPS = 20
"""Steps of the estimate of the noise, at most."""
ROWS = 1 << 22
"""Probabilities that are computed together."""


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """How suspicious the label of each item is, and why.

    Args:
        score: ``[n]`` natural logarithm of the odds that the given label is wrong, so above 0 where it is
            probably wrong: 2.2 is a probability of 0.9.
        suggested: ``[n]`` the most probable other label of each item.
        share: of wrong labels, as it was estimated, 0..1.
        neighbours: ``[n, k]`` places of the nearest items of other content, nearest first; -1 for none.
        cosines: ``[n, k]`` float32; -inf for none. Of the first space, if there are several.
    """

    score: NDArray[np.float64]
    suggested: list[Any]
    share: float
    neighbours: NDArray[np.int64]
    cosines: NDArray[np.float32]

    @property
    def suspects(self) -> NDArray[np.int64]:
        """Places of the items with a score above 0, the most suspicious first."""
        order = np.argsort(-self.score, kind="stable")
        return order[self.score[order] > 0]


def find_label_errors(
    vectors: NDArray[Any] | Sequence[NDArray[Any]],
    labels: Sequence[Hashable],
    contents: Sequence[Hashable] | None = None,
    k: int = 200,
    temperature: float = 0.07,
    ridge: float = 0.1,
    ridge_temperature: float = 0.13,
    smoothing: float = 1.0,
    progress: bool = False,
) -> LabelErrors:
    """Rank items by how much the other items speak against their labels.

    The evidence about an item depends neither on its own label nor on items of equal content. Two parts make
    it up:

    - The neighbours' vote: the share of each class among the ``k`` nearest items, weighted by
      ``exp(cosine / temperature)``. It knows a label that no item nearby has.
    - The linear classifier: ridge regression of the classes on the vectors, in closed form with each content
      left out (Allen, Technometrics 1974), and a softmax of its outputs. It knows neighbouring classes apart.

    The logarithms of both are added up, and averaged over the spaces. Their softmax is how probable each
    label is before the given one is known. How often each class is labelled as each other one is then
    estimated by expectation maximisation (Dawid and Skene, Applied Statistics 1979, with one annotator), and
    the score is the posterior. So a label that is often given to items of another class is suspicious where
    that class is possible, and a rare confusion only where the given class is hardly possible. The votes are
    those of SimiFeat (Zhu et al., ICML 2022); to estimate the noise from probabilities out of sample is
    confident learning (Northcutt et al., JAIR 2021).

    Args:
        vectors: ``[n, d]``, or several such arrays, such as those of the trained model and of its backbone.
        labels: ``n`` labels, one each.
        contents: ``n`` values, equal for items that are copies of each other. None: no item is a copy.
        k: neighbours that vote, at least 1.
        temperature: of the votes, above 0.
        ridge: added to the diagonal of the scatter matrix of unit vectors, above 0.
        ridge_temperature: of the softmax, above 0.
        smoothing: at least 0, how much the estimate of the noise is drawn towards noise that is the same
            between all classes.
        progress: whether to tell of long work.

    Raises:
        ValueError: when lengths differ, a number is out of range, a label is missing, or there are fewer than
            two classes.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> vectors = np.repeat(np.eye(2), 20, axis=0) + draw.normal(size=(40, 2)) * 0.1
        >>> labels = ["a"] * 20 + ["b"] * 20
        >>> labels[3] = "b"
        >>> found = find_label_errors(vectors, labels, k=10)
        >>> found.suspects.tolist(), found.suggested[3]
        ([3], 'a')
    """
    spaces = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    if k < 1 or smoothing < 0 or min(temperature, ridge, ridge_temperature) <= 0:
        raise ValueError("k must be at least 1, smoothing at least 0, and temperatures and ridge above 0")
    if any(label is None for label in labels):
        raise ValueError("an item has no label: leave such items out")
    lengths = {len(labels), *map(len, spaces), *([] if contents is None else [len(contents)])}
    if len(lengths) != 1:
        raise ValueError(
            f"vectors, labels and contents are of the lengths {sorted(lengths)}: give each item one of each"
        )
    classes = sorted({*labels}, key=str)
    if len(classes) < 2:
        raise ValueError("all items have the same label, so none can be wrong")
    place = {name: number for number, name in enumerate(classes)}
    given = torch.tensor([place[label] for label in labels])
    copies = numbered(range(len(given)) if contents is None else contents)
    with stage("comparing each item with the others", shown=progress):
        evidence, near = _evidence(
            spaces, given, len(classes), copies, k, temperature, ridge, ridge_temperature
        )
        shares = (evidence / len(spaces)).softmax(dim=1)
        score, suggested, share = _posterior(shares, given, smoothing)
    cosines, places = near[0]
    names = [classes[number] for number in suggested.tolist()]
    return LabelErrors(score.numpy(), names, share, places.numpy(), cosines.numpy())


def numbered(contents: Iterable[Hashable]) -> Tensor:
    """``[n]`` int64, equal for equal contents, counted from 0."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(each, len(numbers)) for each in contents], dtype=torch.int64)


def label_probabilities(
    spaces: Sequence[NDArray[Any]],
    given: Tensor,
    classes: int,
    copies: Tensor,
    k: int = 200,
    temperature: float = 0.07,
    ridge: float = 0.1,
    ridge_temperature: float = 0.13,
) -> Tensor:
    """How probable each label is for each item, as the items of other content have it.

    The evidence is that of :func:`find_label_errors`, a mean over the spaces; nothing is known of the noise.

    Args:
        spaces: ``[n, d]`` vectors each, such as those of the trained model and of its backbone.
        given: ``[n]`` int64 labels, ``0 .. classes - 1``.
        classes: how many there are.
        copies: ``[n]`` int64, equal for items of equal content.
        k, temperature, ridge, ridge_temperature: as there.

    Returns:
        ``[n, classes]`` float64; each row sums to 1.
    """
    evidence, _ = _evidence(spaces, given, classes, copies, k, temperature, ridge, ridge_temperature)
    return (evidence / len(spaces)).softmax(dim=1)


def _posterior(shares: Tensor, given: Tensor, smoothing: float) -> tuple[Tensor, Tensor, float]:
    """How probably each given label is wrong, by the noise that makes the given labels most probable.

    Args:
        shares: ``[n, classes]`` how probable each label is, before the given one is known.
        given: ``[n]`` int64 labels.
        smoothing: see :func:`find_label_errors`.

    Returns:
        ``[n]`` logarithms of the odds, ``[n]`` int64 most probable other labels, and the share of wrong ones.
    """
    classes, tiny = shares.shape[1], torch.finfo(torch.float64).tiny
    size = max(1, ROWS // classes)
    blocks = [slice(first, first + size) for first in range(0, len(given), size)]

    def joint(block: slice) -> Tensor:
        """``[b, classes]`` the probability that each label is right and the given one was written."""
        return shares[block] * noise.T[given[block]]

    noise, share = _same_noise(classes), SHARE
    for _ in range(STEPS):
        counts = torch.zeros(classes, classes, dtype=torch.float64)  # [given, right]
        for block in blocks:
            both = joint(block)
            counts.index_add_(0, given[block], both / both.sum(dim=1, keepdim=True).clamp(min=tiny))
        before = share
        noise, share = _noise_of(counts.T, smoothing)
        if abs(share - before) < 1e-4:
            break
    odds, suggested = [], []
    for block in blocks:
        both, labels = joint(block), given[block][:, None]
        others = both.scatter(1, labels, 0.0)
        own = both.gather(1, labels)[:, 0].clamp(min=tiny)
        odds.append(others.sum(dim=1).clamp(min=tiny).log() - own.log())
        suggested.append(others.scatter(1, labels, -1.0).argmax(dim=1))
    return torch.cat(odds), torch.cat(suggested), share


def _same_noise(classes: int) -> Tensor:
    """``[right, given]`` probabilities of labels, as if all confusions were equally frequent."""
    noise = torch.full((classes, classes), SHARE / (classes - 1), dtype=torch.float64)
    noise.fill_diagonal_(1 - SHARE)
    return noise


def _noise_of(counts: Tensor, smoothing: float) -> tuple[Tensor, float]:
    """``[right, given]`` probabilities of labels by their expected ``counts``, and the share of wrong ones.

    A confusion counts as the mean of what was found and ``smoothing`` times what would be found if all
    confusions were equally frequent.
    """
    classes = len(counts)
    items = counts.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    wrong = counts.clone().fill_diagonal_(0.0)
    share = float(wrong.sum() / items.sum())
    same = share * items / (classes - 1)
    noise = ((wrong + smoothing * same) / (1 + smoothing) / items).fill_diagonal_(0.0)
    rest = 1 - noise.sum(dim=1)
    noise.diagonal().copy_(rest)
    return noise.clamp(min=1e-12), share


def _evidence(
    spaces: Sequence[NDArray[Any]],
    given: Tensor,
    classes: int,
    copies: Tensor,
    k: int,
    temperature: float,
    ridge: float,
    ridge_temperature: float,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """``[n, classes]`` logarithms of both parts, added up over spaces, and the neighbours in each space."""
    evidence = torch.zeros(len(given), classes, dtype=torch.float64)
    near: list[tuple[Tensor, Tensor]] = []
    for space in spaces:
        unit = F.normalize(torch.from_numpy(np.ascontiguousarray(space, dtype=np.float32)), dim=1)
        near.append(_neighbours(unit, copies, min(k, len(given))))
        cosines, places = near[-1]
        voters = Ragged(given[places].view(-1), torch.arange(places.numel() + 1))  # one label each
        shares = knn_shares(voters, places.shape[1], classes, cosines, temperature)
        evidence += (shares.double() + LEAST).log()
        evidence += _left_out(unit, copies, given, classes, ridge) / ridge_temperature
    return evidence, near


def _neighbours(unit: Tensor, copies: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and places ``[n, k]`` of the items nearest to each of ``unit [n, d]``, without its copies."""
    index = ExactIndex()
    ids = torch.arange(len(unit))
    index.add(unit, ids)
    return index.search_by_id(
        ids, k, lambda rows, found, _: copies[ids[rows]][:, None] == copies[found][None]
    )


def _left_out(unit: Tensor, copies: Tensor, given: Tensor, classes: int, ridge: float) -> Tensor:
    """``[n, classes]`` outputs of ridge regression of the classes, each content left out of it.

    With ``A = Σ x xᵀ + ridge``, the outputs without the items of one content, ``m`` equal vectors x with
    labels Y, are ``(x A⁻¹ Xᵀ Y_all − h Y) / (1 − m h)``, where ``h = x A⁻¹ x`` and Y is the sum of the ``m``.
    """
    groups = int(copies.max()) + 1
    counts = torch.bincount(copies, minlength=groups).double()
    x = torch.cat([unit.double(), torch.ones(len(unit), 1, dtype=torch.float64)], dim=1)
    means = torch.zeros(groups, x.shape[1], dtype=torch.float64).index_add(0, copies, x) / counts[:, None]
    targets = torch.zeros(groups, classes, dtype=torch.float64)
    targets.index_put_((copies, given), torch.ones(len(given), dtype=torch.float64), accumulate=True)
    scatter = (means * counts[:, None]).T @ means + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(scatter, means.T).T  # [groups, d + 1]
    outputs = solved @ (means.T @ targets)
    own = (solved * means).sum(dim=1, keepdim=True)
    outputs = (outputs - own * targets) / (1 - counts[:, None] * own).clamp(min=1e-9)
    return outputs[copies]
