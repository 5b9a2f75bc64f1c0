"""What probes find of given vectors, beside loops and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from benchmarks.methods import probes
from lit_metric.data import PairRelations
from lit_metric.losses import InfoNCELoss, NormRatioLoss, SumLoss


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """``[12, 4]`` vectors of items, in place of what a model would encode; other figures are left out."""
    given = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(probes, "encoded", lambda model, data, ids: given[ids])
    monkeypatch.setattr(probes, "usual", lambda model, data, split, names: {})
    return given


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def test_average_precision_of_each_label(vectors: Tensor) -> None:
    queries, labels = [1, 3, 4, 5, 8], [2, 7, 9, 10]
    judged = {1: [2, 7], 3: [7], 4: [2], 5: [9], 8: [7, 9]}  # nobody has label 10
    pairs = torch.tensor([(query, label) for query, own in judged.items() for label in own])
    relations = PairRelations(pairs[:, 0], pairs[:, 1], None, torch.arange(12))
    data: Any = SimpleNamespace(
        relations=relations,
        items=range(12),
        splits={"test": torch.tensor(queries), "tags": torch.tensor(labels)},
        roles=lambda split: {"queries": split, "corpus": "tags"},
    )
    found = probes.of_labels(None, data, "test", ["macro_map"])["macro_map"]  # type: ignore[arg-type]
    expected = [
        average_precision_score(
            [label in judged[query] for query in queries],
            [cosine(vectors[query], vectors[label]) for query in queries],
        )
        for label in labels[:3]
    ]
    assert found == [*(pytest.approx(value, abs=1e-6) for value in expected), None]


@pytest.mark.parametrize("trained", [True, False])
def test_a_match_the_wrong_way_round_is_false_and_dropped_where_norms_were_trained(
    trained: bool, vectors: Tensor
) -> None:
    parts, wholes = [0, 2, 4, 6], [1, 3, 5, 7]
    relations = PairRelations(torch.tensor(parts), torch.tensor(wholes), None, torch.arange(12))
    data: Any = SimpleNamespace(relations=relations, splits={"test": torch.tensor(parts)})
    losses = {"match": InfoNCELoss(0.1), **({"direction": NormRatioLoss()} if trained else {})}
    model: Any = SimpleNamespace(loss=SumLoss(losses))
    found = probes.direction(model, data, "test", ["micro_ap", "direction_auc"])
    right, scores = [], []
    for part in parts:
        for whole in wholes:
            for query, reference, match in ((part, whole, whole == part + 1), (whole, part, False)):
                dropped = trained and vectors[query].norm() > vectors[reference].norm()
                right.append(match)
                scores.append(-1.0 if dropped else cosine(vectors[query], vectors[reference]))
    assert found["micro_ap"] == pytest.approx(average_precision_score(right, scores), abs=1e-6)
    ratios = [float(vectors[part + 1].norm() / vectors[part].norm()) for part in parts]
    both = [*ratios, *(1 / ratio for ratio in ratios)]
    pairs = [(one > other) + 0.5 * (one == other) for one in ratios for other in both[len(ratios) :]]
    assert found["direction_auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_a_triplet_is_right_if_its_match_is_nearer_than_both_others(vectors: Tensor) -> None:
    sides = torch.arange(12).view(3, 4)
    groups = ["swap_att", "swap_obj", "swap_att", "swap_att"]
    triplets = SimpleNamespace(anchors=sides[0], positives=sides[1], negatives=sides[2], groups=groups)
    data: Any = SimpleNamespace(dataset=SimpleNamespace(triplets={"validation": triplets}))
    names = ["tot", "tot_swap_att", "tot_swap_obj", "tot_replace_obj", "spearman"]
    found = probes.swapped(None, data, "validation", names)  # type: ignore[arg-type]
    expected = []
    for row in range(4):
        one, other, wrong = (vectors[side[row]] for side in sides)
        expected.append(float(cosine(one, other) > max(cosine(one, wrong), cosine(other, wrong))))
    assert len({*expected}) == 2
    assert found["tot"] == expected
    assert found["tot_swap_obj"] == [None, expected[1], None, None]
    assert found["tot_swap_att"] == [expected[0], None, *expected[2:]]
    assert found.keys() == {"tot", "tot_swap_att", "tot_swap_obj"}  # nothing of the test is looked at
