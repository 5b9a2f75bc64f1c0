from __future__ import annotations

import math

import pytest
import torch

from lit_metric.metrics import direction_auc, directional_scores


def test_a_match_whose_query_is_longer_is_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, references = torch.randn(2, 30, 4, generator=generator)
    found = directional_scores(queries, references).tolist()
    for score, query, reference in zip(found, queries.tolist(), references.tolist(), strict=True):
        lengths = math.hypot(*query), math.hypot(*reference)
        inner = sum(a * b for a, b in zip(query, reference, strict=True))
        expected = -1.0 if lengths[0] / lengths[1] > 1 else inner / lengths[0] / lengths[1]
        assert score == pytest.approx(expected, abs=1e-6)
    assert -1 in found
    assert max(found) > -1


def test_a_larger_ratio_may_be_kept() -> None:
    query, reference = torch.tensor([[1.5, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert directional_scores(query, reference, most=1.5).item() == 1
    assert directional_scores(query, reference, most=1.4).item() == -1


def test_the_area_against_a_count_of_ordered_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    parts, wholes = torch.randn(2, 25, 4, generator=generator)
    wholes *= 1.4
    right = [math.hypot(*w) / math.hypot(*p) for p, w in zip(parts.tolist(), wholes.tolist(), strict=True)]
    wins = [(one > 1 / other) + 0.5 * (one == 1 / other) for one in right for other in right]
    assert direction_auc(parts, wholes) == pytest.approx(sum(wins) / len(wins), abs=1e-6)
    assert direction_auc(wholes, parts) == pytest.approx(1 - sum(wins) / len(wins), abs=1e-6)


def test_norms_that_mean_nothing_are_chance_and_right_ones_are_one() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(2, 50, 4, generator=generator).double(), dim=-1)
    assert direction_auc(*torch.ones_like(unit)) == 0.5
    assert direction_auc(unit[0], 1.5 * unit[1]) == 1
    assert direction_auc(torch.zeros(1, 2), torch.ones(1, 2)) == 1
    assert direction_auc(torch.zeros(1, 2), torch.zeros(1, 2)) == 0.5


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[2, 4\]"):
        direction_auc(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="at least one pair"):
        direction_auc(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="most must be above 0, not 0"):
        directional_scores(torch.ones(1, 1), torch.ones(1, 1), most=0)
