"""Labels that were trained on are judged by vectors that have not seen them."""

from __future__ import annotations

import numpy as np
import pytest

from lit_metric.neighbours import find_label_errors
from lit_metric.report.suspects import judged_labels

COUNT = 400


def world() -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Untrained and trained vectors of four classes, labels of which 40 are wrong, which, and what was seen.

    Trained vectors of seen items lie where their label does, right or wrong.
    """
    draw = np.random.default_rng(0)
    true = draw.integers(4, size=COUNT)
    labels = true.copy()
    wrong = np.zeros(COUNT, bool)
    wrong[draw.permutation(COUNT)[:40]] = True
    labels[wrong] = (labels[wrong] + draw.integers(1, 4, size=40)) % 4
    seen = np.arange(COUNT) < 300
    untrained = np.eye(8)[true] + 0.25 * draw.normal(size=(COUNT, 8))
    learned = np.where(seen, labels, true)
    trained = np.eye(8)[learned] + 0.2 * draw.normal(size=(COUNT, 8))
    return (
        untrained.astype(np.float32),
        trained.astype(np.float32),
        [str(each) for each in labels],
        wrong,
        seen,
    )


def test_seen_items_are_judged_by_untrained_vectors_alone() -> None:
    untrained, trained, labels, wrong, seen = world()
    contents = [*range(COUNT)]
    found, alone = judged_labels(trained, untrained, labels, contents, seen)
    assert alone
    both = find_label_errors([trained, untrained], labels, contents)
    first = find_label_errors([untrained], labels, contents)
    np.testing.assert_array_equal(found.score, np.where(seen, first.score, both.score))
    assert found.suggested == [
        one if here else two for one, two, here in zip(first.suggested, both.suggested, seen, strict=True)
    ]
    for name in ("neighbours", "cosines"):
        one, two = getattr(first, name), getattr(both, name)
        np.testing.assert_array_equal(getattr(found, name), np.where(seen[:, None], one, two))
    # Which is what finds them.
    assert ((found.score > 0) & wrong & seen).sum() > 2 * ((both.score > 0) & wrong & seen).sum()


def test_untrained_vectors_that_tell_no_classes_do_not_judge_alone() -> None:
    _, trained, labels, _, seen = world()
    noise = np.random.default_rng(1).normal(size=(COUNT, 8)).astype(np.float32)
    found, alone = judged_labels(trained, noise, labels, [*range(COUNT)], seen)
    assert not alone
    np.testing.assert_array_equal(found.score, find_label_errors([trained, noise], labels).score)


@pytest.mark.parametrize("all_seen", [True, False])
def test_without_others_to_compare_by_both_judge(all_seen: bool) -> None:
    untrained, trained, labels, _, _ = world()
    found, alone = judged_labels(trained, untrained, labels, [*range(COUNT)], np.full(COUNT, all_seen))
    assert not alone
    np.testing.assert_array_equal(found.score, find_label_errors([trained, untrained], labels).score)


def test_one_space_is_enough_and_none_is_not() -> None:
    untrained, _, labels, _, seen = world()
    for spaces in ((untrained, None), (None, untrained)):
        found, alone = judged_labels(*spaces, labels, [*range(COUNT)], seen)
        assert not alone
        np.testing.assert_array_equal(found.score, find_label_errors(untrained, labels).score)
    with pytest.raises(ValueError, match="there are no vectors"):
        judged_labels(None, None, labels, [*range(COUNT)], seen)
