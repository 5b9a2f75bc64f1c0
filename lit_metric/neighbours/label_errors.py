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


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """How suspicious the label of each item is, and why.

    Args:
        score: ``[n]`` in -1..1, the probability of the best other label less that of the given one, so above
            0 where the other one has more in its favour. Its size depends on the number of classes.
        suggested: ``[n]`` the best other label of each item.
        log_odds: ``[n]`` natural logarithm of how many times as probable the suggested label is as the given
            one, before ``flatten``. Its size doesn't depend on the number of classes.
        neighbours: ``[n, k]`` places of the nearest items of other content, nearest first; -1 for none.
        cosines: ``[n, k]`` float32; -inf for none. Of the first space, if there are several.
    """

    score: NDArray[np.float64]
    suggested: list[Any]
    log_odds: NDArray[np.float64]
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
    flatten: float = 10.0,
    progress: bool = False,
) -> LabelErrors:
    """Rank items by how much the other items speak against their labels.

    The score of an item depends neither on its own label nor on items of equal content. Two parts make it up:

    - The neighbours' vote: the share of each class among the ``k`` nearest items, weighted by
      ``exp(cosine / temperature)``. It knows a label that no item nearby has.
    - The linear classifier: ridge regression of the classes on the vectors, in closed form with each content
      left out (Allen, Technometrics 1974), and a softmax of its outputs. It knows neighbouring classes apart.

    The logarithms of both are added up, for each class, and the probabilities of the score are the softmax of
    their means over all spaces, divided by ``flatten``. This joins the k-NN votes of SimiFeat (Zhu et al.,
    ICML 2022) with the out-of-sample margins of confident learning (Northcutt et al., JAIR 2021).

    Args:
        vectors: ``[n, d]``, or several such arrays, such as those of the trained model and of its backbone.
        labels: ``n`` labels, one each.
        contents: ``n`` values, equal for items that are copies of each other. None: no item is a copy.
        k: neighbours that vote, at least 1.
        temperature: of the votes, above 0.
        ridge: added to the diagonal of the scatter matrix of unit vectors, above 0.
        ridge_temperature: of the softmax, above 0.
        flatten: above 0; with little of it, many suspects are nearly certain, and their order is lost.
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
    if k < 1 or min(temperature, ridge, ridge_temperature, flatten) <= 0:
        raise ValueError("k must be at least 1, and temperatures, ridge and flatten above 0")
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
    shares = (evidence / (len(spaces) * flatten)).softmax(dim=1)
    own = shares.gather(1, given[:, None])[:, 0]
    best, suggested = shares.scatter(1, given[:, None], -1.0).max(dim=1)
    log_odds = (best.log() - own.log()) * flatten
    cosines, places = near[0]
    names = [classes[number] for number in suggested.tolist()]
    return LabelErrors((best - own).numpy(), names, log_odds.numpy(), places.numpy(), cosines.numpy())


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

    The evidence is that of :func:`find_label_errors`, without ``flatten``; a mean over the spaces.

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
