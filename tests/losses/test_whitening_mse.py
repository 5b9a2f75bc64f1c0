from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, WhiteningMSELoss
from lit_metric.losses.whitening_mse import whiten
from tests.losses.cases import labelled_batch, random_weights


def naive_whitening(vectors: Tensor, epsilon: float = 0.0) -> np.ndarray:
    """By NumPy, through the inverse of the Cholesky factor."""
    values = vectors.double().numpy()
    covariance = np.cov(values, rowvar=False)  # divided by n − 1
    factor = np.linalg.cholesky((1 - epsilon) * covariance + epsilon * np.eye(values.shape[1]))
    return (np.linalg.inv(factor) @ (values - values.mean(0)).T).T


def correlated(count: int, dimension: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) @ mixing + 5


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_whitening_against_numpy(epsilon: float) -> None:
    vectors = correlated(20)
    found = whiten(vectors, epsilon)
    np.testing.assert_allclose(found.numpy(), naive_whitening(vectors, epsilon), atol=1e-10)
    if not epsilon:
        torch.testing.assert_close(torch.cov(found.T), torch.eye(3).double())
        torch.testing.assert_close(found.mean(0), torch.zeros(3).double())


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_against_a_naive_loop(epsilon: float) -> None:
    embeddings, _, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 3, 3, 4, 4], dimension=4)
    weight = random_weights(pairs) + 0.1
    white, terms = naive_whitening(embeddings, epsilon), []
    for row, column in pairs.positive.nonzero().tolist():
        a, p = (white[each] / np.linalg.norm(white[each]) for each in (row, column))
        terms.append(weight[row, column].item() * np.square(a - p).sum())  # which is 2 − 2 cos
    weighted = DensePairs(pairs.positive, pairs.negative, weight)
    found = WhiteningMSELoss(epsilon).on_pairs(embeddings, embeddings, weighted)
    assert found["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_anchors_and_candidates_are_whitened_apart() -> None:
    """As two views are: an offset or a scale of one side makes no difference."""
    anchors, candidates = correlated(12), correlated(12, seed=1)
    same = torch.eye(12, dtype=torch.bool)
    loss, pairs = WhiteningMSELoss(), DensePairs(same, ~same)
    plain = loss.on_pairs(anchors, candidates, pairs)["loss"]
    torch.testing.assert_close(loss.on_pairs(3 * anchors - 7, candidates, pairs)["loss"], plain)
    assert loss.on_pairs(anchors, 2 * anchors + 1, pairs)["loss"].item() == pytest.approx(0, abs=1e-9)


def test_parts_of_a_batch_are_whitened_alone() -> None:
    vectors = correlated(23)
    loss = WhiteningMSELoss(sub_batch=7)
    found = loss._whitened(vectors, torch.Generator().manual_seed(3))
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    expected = torch.empty_like(vectors)
    for part in np.array_split(order.numpy(), 3):  # of 8, 8 and 7
        expected[part] = torch.from_numpy(naive_whitening(vectors[part]))
    torch.testing.assert_close(found, expected)
    same = torch.eye(23, dtype=torch.bool)
    assert loss.on_pairs(vectors, vectors, DensePairs(same, ~same))["loss"].isfinite()


def test_both_sides_of_a_pair_are_whitened_within_the_same_part() -> None:
    """As the two views of an image are in the source. By two covariances, equal vectors would differ."""
    vectors, same = correlated(24), torch.eye(24, dtype=torch.bool)
    loss, pairs = WhiteningMSELoss(sub_batch=8), DensePairs(same, ~same)
    assert loss.on_pairs(vectors, vectors.clone(), pairs)["loss"].item() == pytest.approx(0, abs=1e-9)
    assert loss.on_pairs(vectors, 2 * vectors + 1, pairs)["loss"].item() == pytest.approx(0, abs=1e-9)
    assert loss.on_pairs(vectors, vectors.roll(1, 0), pairs)["loss"].item() > 0.1


def trained(whitening: bool) -> Tensor:
    """Singular values of vectors after training on positives alone, as shares of the largest."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(60, 8), torch.arange(60) % 12
    inputs += 2 * torch.randn(12, 8)[labels]
    same = (labels[:, None] == labels) & ~torch.eye(60, dtype=torch.bool)
    pairs = DensePairs(same, torch.zeros_like(same))
    encoder = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    loss, optimizer = WhiteningMSELoss(whiten=whitening), torch.optim.Adam(encoder.parameters(), 0.01)
    for _ in range(200):
        vectors = encoder(inputs)
        optimizer.zero_grad()
        loss.on_pairs(vectors, vectors, pairs)["loss"].backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(encoder(inputs).detach(), dim=1)
    return torch.linalg.svdvals(unit) / torch.linalg.svdvals(unit)[0]


def test_without_whitening_vectors_collapse_and_with_it_they_do_not() -> None:
    collapsed, spread = trained(whitening=False), trained(whitening=True)
    assert collapsed.min() < 0.05
    assert spread.min() > 5 * collapsed.min()


def test_batches_that_cannot_be_whitened_are_refused_with_a_remedy() -> None:
    vectors, same = correlated(7, 4), torch.eye(7, dtype=torch.bool)
    pairs = DensePairs(same, ~same)
    with pytest.raises(ValueError, match=r"whitens 7 vectors of 4 components .* needs 8: take larger"):
        WhiteningMSELoss().on_pairs(vectors, vectors, pairs)
    assert WhiteningMSELoss(epsilon=0.1).on_pairs(vectors, vectors, pairs)["loss"].isfinite()
    with pytest.raises(ValueError, match=r"whitens 5 vectors of 4 components at a time"):
        WhiteningMSELoss(sub_batch=5).on_pairs(vectors, vectors, pairs)
    flat = torch.cat([correlated(10, 2), torch.zeros(10, 1)], dim=1)
    same = torch.eye(10, dtype=torch.bool)
    with pytest.raises(ValueError, match="vectors of a batch lie in fewer than 3 directions"):
        WhiteningMSELoss().on_pairs(flat, flat, DensePairs(same, ~same))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 1.0}, "epsilon must be at least 0 and below 1"),
        ({"sub_batch": 1}, "sub_batch must be at least 2"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhiteningMSELoss(**arguments)
