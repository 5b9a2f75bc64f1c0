"""Scores against plain Python, and at the edges of floating point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_metric.losses.gather import mark_fixed
from lit_metric.losses.scores import (
    DISTANCES,
    Distance,
    log_sum_beside,
    log_sum_exp,
    prepare,
    restore_near,
    safe_sqrt,
    similarity,
    softplus,
    true_places,
    unit,
)

A, C = [[1.0, 2.0, 2.0], [0.0, -3.0, 4.0]], [[2.0, 0.0, 0.0], [1.0, 2.0, 2.0], [-1.0, 1.0, 0.5]]


def by_hand(a: list[float], c: list[float], distance: Distance) -> float:
    dot = sum(x * y for x, y in zip(a, c, strict=True))
    if distance == "dot":
        return dot
    if distance == "cosine":
        return dot / math.hypot(*a) / math.hypot(*c)
    return -(math.dist(a, c) ** (1 if distance == "euclidean" else 2))


def score(anchors: Tensor, candidates: Tensor, distance: Distance, normalize: bool = False) -> Tensor:
    return similarity(*prepare(anchors, candidates, distance, normalize), distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_scores_are_those_computed_by_hand(distance: Distance) -> None:
    scores = score(torch.tensor(A, dtype=torch.float64), torch.tensor(C, dtype=torch.float64), distance)
    expected = torch.tensor([[by_hand(a, c, distance) for c in C] for a in A], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-7 if distance == "euclidean" else 1e-14)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_scores(distance: Distance) -> None:
    anchors, candidates = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    assert torch.autograd.gradcheck(
        lambda a, c: score(a, c, distance, distance != "dot"), (anchors, candidates)
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
def test_coinciding_vectors_are_at_distance_zero_with_no_gradient(
    distance: Distance, normalize: bool
) -> None:
    anchors = torch.full((2, 3), 0.7, requires_grad=True)
    candidates = torch.full((4, 3), 0.7, requires_grad=True)
    scores = score(anchors, candidates, distance, normalize)
    scores.sum().backward()
    assert not scores.any()
    assert not anchors.grad.any()
    assert not candidates.grad.any()


def test_euclidean_distances_survive_a_large_common_offset() -> None:
    # In float32, |a|² + |c|² − 2a·c around 1e8 would have no correct digit of these distances.
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(20, 8, generator=generator)
    vectors = spread + 1000 * torch.randn(8, generator=generator)
    exact = torch.cdist(vectors.double(), vectors.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances = -score(vectors, vectors, "euclidean").double()
    away = ~torch.eye(20, dtype=torch.bool)
    torch.testing.assert_close(distances[away], exact[away], rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_unit_vectors_at_any_scale(scale: float) -> None:
    vectors = (scale * torch.tensor([[3.0, -4.0]])).requires_grad_()
    units = unit(vectors)
    units[0, 0].backward()
    torch.testing.assert_close(units, torch.tensor([[0.6, -0.8]]))
    # d(x / |x|) / dx = (1 − u uᵀ) / |x|
    torch.testing.assert_close(vectors.grad * scale, torch.tensor([[0.64, 0.48]]) / 5)


@pytest.mark.parametrize("tiny", [0.0, 1e-42])
def test_a_vector_without_direction_stays_zero_without_gradient(tiny: float) -> None:
    vectors = torch.full((2, 3), tiny, requires_grad=True)
    units = unit(vectors)
    units.sum().backward()
    assert not units.any()
    assert not vectors.grad.any()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_scores_are_single_precision_at_least(
    distance: Distance, given: torch.dtype, expected: torch.dtype
) -> None:
    anchors, candidates = torch.tensor(A, dtype=given), torch.tensor(C, dtype=given)
    scores = score(anchors, candidates, distance)
    assert scores.dtype == expected
    torch.testing.assert_close(scores, score(anchors.to(expected), candidates.to(expected), distance))


def test_safe_sqrt() -> None:
    squares = torch.tensor([0.0, 4.0], requires_grad=True)
    roots = safe_sqrt(squares)
    roots.sum().backward()
    assert roots.tolist() == [0, 2]
    assert squares.grad.tolist() == [0, 0.25]


def test_softplus_is_exact_at_any_magnitude() -> None:
    x = torch.tensor([-1000.0, -30.0, 0.0, 25.0, 1000.0], dtype=torch.float64)
    expected = torch.logaddexp(x, torch.zeros_like(x))
    torch.testing.assert_close(softplus(x), expected, rtol=1e-15, atol=0)
    assert softplus(torch.tensor(-torch.inf)) == 0


@pytest.mark.parametrize("dimension", [2, 16, 384])
def test_equal_vectors_are_at_distance_zero(dimension: int) -> None:
    # |a|² + |c|² − 2a·c leaves some 1e-7 of them, whose root is 3e-4 and more.
    generator = torch.Generator().manual_seed(0)
    vectors = unit(torch.randn(20, dimension, generator=generator))
    assert not score(vectors, vectors.clone(), "euclidean").diagonal().any()


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
def test_distances_of_near_vectors_and_their_gradients(distance: Distance, apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(30, 64, generator=generator)
    second = first + apart * torch.randn(30, 64, generator=generator)
    results = []
    for dtype in (torch.float64, torch.float32):
        a, c = first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_()
        scores = score(a, c, distance).diagonal()
        scores.sum().backward()
        results.append([each.detach().double() for each in (scores, a.grad, c.grad)])
    exact = -((first.double() - second.double()).norm(dim=1) ** (1 if distance == "euclidean" else 2))
    # To move the origin rounds the vectors, too.
    torch.testing.assert_close(results[1][0], exact, rtol=1e-5 + 2e-8 / apart, atol=0)
    # The gradient is a difference of the vectors themselves, rounded as they are.
    lost = 2e-6 / apart if distance == "euclidean" else 2e-5
    for got, right in zip(results[1][1:], results[0][1:], strict=True):
        assert float((got - right).abs().max()) <= lost


def test_all_vectors_near_each_other_take_no_more_memory() -> None:
    vectors = torch.randn(1, 5).repeat(40, 1)
    seen: list[int] = []

    def differences(places: Tensor) -> Tensor:
        found = vectors[places // 40] - vectors[places % 40]
        seen.append(found.numel())
        return found

    squares = torch.full((40, 40), 1e-9)
    near = restore_near(squares, 2 * (torch.full((40,), 0.5),), differences)
    assert near.tolist() == [*range(40 * 40)]
    assert not squares.any()
    assert max(seen) <= squares.numel()
    assert sum(seen) == 5 * squares.numel()


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_side_in_double_precision_makes_both_so(distance: Distance) -> None:
    anchors, candidates = torch.tensor(A), torch.tensor(C)
    expected = score(anchors.double(), candidates.double(), distance)
    assert torch.equal(score(anchors.double(), candidates, distance), expected)
    assert torch.equal(score(anchors, candidates.double(), distance), expected)


def test_a_sum_of_exponentials_beside_its_largest_term() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.rand(4, 6, generator=generator) > 0.4
    mask[2] = False
    weight = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    total, largest = log_sum_beside(scores, mask, weight)
    for row in range(4):
        terms = [
            w * math.exp(s)
            for s, w, held in zip(scores[row].tolist(), weight[row].tolist(), mask[row].tolist(), strict=True)
            if held
        ]
        expected = (math.log(sum(terms)), math.log(max(terms))) if terms else (0.0, 0.0)
        assert ((total + largest)[row].item(), largest[row].item()) == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: log_sum_exp(s, mask, weight), (scores,))
    assert not torch.autograd.grad(total.sum(), scores)[0][~mask].any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_tensor_on_both_sides_has_the_gradient_of_two(distance: Distance) -> None:
    given = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pull = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = given.clone().requires_grad_()
    first, second = (given.clone().requires_grad_() for _ in range(2))
    (score(one, one, distance) * pull).sum().backward()
    (score(first, second, distance) * pull).sum().backward()
    torch.testing.assert_close(one.grad, first.grad + second.grad)


def test_the_gradient_can_be_taken_twice_from_one_forward_pass() -> None:
    vectors = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = log_sum_exp(score(vectors, vectors, "euclidean", True), ~torch.eye(4, dtype=torch.bool)).sum()
    [once] = torch.autograd.grad(value, vectors, retain_graph=True)
    [again] = torch.autograd.grad(value, vectors)
    assert torch.equal(once, again)


@pytest.mark.parametrize("distance", DISTANCES)
def test_fixed_candidates_get_no_gradient_and_the_others_theirs(distance: Distance) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = ((5, 4), (9, 4), (5, 9))
    given, other, slope = (torch.randn(*each, generator=generator, dtype=torch.float64) for each in shapes)
    gradients = []
    for fixed in (0, 3):
        anchors, candidates = given.clone().requires_grad_(), other.clone().requires_grad_()
        scores = similarity(anchors, mark_fixed(candidates, fixed), distance)
        (scores * slope).sum().backward()
        gradients.append((scores.detach(), anchors.grad, candidates.grad))
    (scores, of_anchors, of_candidates), found = gradients
    torch.testing.assert_close(found[:2], (scores, of_anchors), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2][:6], of_candidates[:6], rtol=1e-12, atol=1e-12)
    assert of_candidates[6:].all()
    assert not found[2][6:].any()


@pytest.mark.parametrize("shape", [(5, 16), (3, 7), (0, 8), (8, 0)])
def test_places_of_what_is_true(shape: tuple[int, int]) -> None:
    given = torch.rand(*shape, generator=torch.Generator().manual_seed(5)) < 0.2
    for mask in (given, given.T, given[1:], given.flatten()[3:][None]):
        found = true_places(mask)
        assert found.tolist() == [at for at, each in enumerate(mask.flatten().tolist()) if each]
