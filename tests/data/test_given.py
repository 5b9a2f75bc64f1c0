from __future__ import annotations

import pytest
import torch

from lit_metric.data import DataError, GivenPairs, GivenTriplets

TWO, THREE = torch.tensor([4, 1]), torch.tensor([1, 2, 7])


def test_what_has_to_be_encoded() -> None:
    assert GivenPairs(TWO, torch.tensor([1, 9]), torch.ones(2)).ids.tolist() == [1, 4, 9]
    triplets = GivenTriplets(TWO, torch.tensor([1, 9]), torch.tensor([0, 4]), ["swap", "add"])
    assert (len(triplets), triplets.ids.tolist()) == (2, [0, 1, 4, 9])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GivenPairs(TWO, THREE, torch.ones(2)),
            r"columns of pairs .* anchors \[2\], candidates \[3\], targets \[2\]",
        ),
        (lambda: GivenPairs(TWO, TWO, torch.ones(2, 1)), r"targets \[2, 1\]"),
        (
            lambda: GivenPairs(TWO, TWO, torch.tensor([1.0, torch.nan])),
            "the target of pair 1 is not a finite number",
        ),
        (lambda: GivenTriplets(TWO, TWO, THREE), r"columns of triplets .* negatives \[3\]"),
        (lambda: GivenTriplets(TWO, TWO, TWO, ["a"]), "1 groups were given for 2 triplets"),
    ],
)
def test_columns_that_do_not_fit_are_refused(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()  # type: ignore[operator]
