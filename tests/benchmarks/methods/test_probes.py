"""What probes find of given vectors, beside loops and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from benchmarks.methods import probes
from lit_metric.data import LabelRelations, PairRelations
from lit_metric.losses import InfoNCELoss, NormRatioLoss, SumLoss
from lit_metric.metrics import few_shot_accuracy


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
    met = set()
    for seed in range(8):
        sides = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).view(3, 4)
        groups = ["swap_att", "swap_obj", "swap_att", "swap_att"]
        triplets = SimpleNamespace(anchors=sides[0], positives=sides[1], negatives=sides[2], groups=groups)
        data: Any = SimpleNamespace(dataset=SimpleNamespace(triplets={"validation": triplets}))
        names = ["tot", "tot_swap_att", "tot_swap_obj", "tot_replace_obj", "spearman"]
        found = probes.swapped(None, data, "validation", names)  # type: ignore[arg-type]
        expected = []
        for row in range(4):
            one, other, wrong = (vectors[side[row]] for side in sides)
            nearer = cosine(one, other) > cosine(one, wrong), cosine(one, other) > cosine(other, wrong)
            met.add(nearer)
            expected.append(float(all(nearer)))
        assert found["tot"] == expected
        assert found["tot_swap_obj"] == [None, expected[1], None, None]
        assert found["tot_swap_att"] == [expected[0], None, *expected[2:]]
        assert found.keys() == {"tot", "tot_swap_att", "tot_swap_obj"}  # nothing of the test is looked at
    assert len(met) == 4  # either other may be the nearer one


def test_subsets_count_by_their_triplets_over_all_splits(
    vectors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "encode_split", lambda encoder, data, ids: [(vectors[ids], ids)])
    draw, splits, right = torch.Generator().manual_seed(0), {}, {}
    for split, groups in (("train", ["a", "b", "a", "b", "b"]), ("validation", ["a"]), ("test", ["b"] * 3)):
        sides = torch.stack([torch.randperm(12, generator=draw)[:3] for _ in groups], dim=1)
        splits[split] = SimpleNamespace(
            anchors=sides[0], positives=sides[1], negatives=sides[2], groups=groups
        )
        for group, (one, other, wrong) in zip(groups, vectors[sides.T], strict=True):
            match = cosine(one, other) > max(cosine(one, wrong), cosine(other, wrong))
            for name in ("tot", f"tot_{group}"):
                right.setdefault(name, []).append(match)
    data: Any = SimpleNamespace(dataset=SimpleNamespace(triplets=splits))
    model: Any = SimpleNamespace(encoder=None)
    found = probes.by_subset(model, data, "test", ["tot", "tot_a", "tot_b"])
    assert found == pytest.approx({name: sum(each) / len(each) for name, each in right.items()}, abs=1e-6)
    assert 0 < found["tot"] < 1


def test_the_spread_is_that_of_pairs_of_different_items_and_norms_are_raw(vectors: Tensor) -> None:
    data: Any = SimpleNamespace(splits={"test": torch.arange(3, 10)})
    found = probes.collapse(None, data, "test", ["spread"])  # type: ignore[arg-type]
    cosines = [cosine(vectors[one], vectors[other]) for one in range(3, 10) for other in range(3, one)]
    assert found["spread"] == pytest.approx((1 - sum(cosines) / len(cosines)) ** 0.5, abs=1e-6)
    found = probes.norms(None, data, "test", ["norm", "norm_ratio"])  # type: ignore[arg-type]
    lengths = np.linalg.norm(vectors[3:10].numpy(), axis=1)
    low, high = np.percentile(lengths, [1, 99])
    assert found == pytest.approx({"norm": lengths.mean(), "norm_ratio": high / low}, rel=1e-5)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_bins_are_of_sizes_in_training_and_the_head_knows_its_own_classes(
    vectors: Tensor, split: str
) -> None:
    """Class 1 has no training item, so the head has no proxy for it. Before the test, neighbours vote."""
    labels = torch.tensor([0, 2, 3, 0, 2, 3, 0, 2, 3, 0, 2, 3])
    voters, ids = torch.tensor([0, 1]), torch.arange(2, 12)
    proxies = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    data: Any = SimpleNamespace(
        relations=LabelRelations(labels, list("abcd"), torch.arange(12)),
        class_counts=torch.tensor([20, 0, 21, 200]),
        splits={"train": voters, split: ids},
    )
    model: Any = SimpleNamespace(loss=SimpleNamespace(proxies=proxies))
    found = probes.head_and_votes(model, data, split, [])
    right = []
    for item in ids.tolist():
        if split == "test":
            answer = [0, 2, 3][int((proxies @ vectors[item]).argmax())]
        else:
            answer = 0  # of two voters with a vote each, the lower class
        right.append(float(answer == labels[item]))
    assert found["all"] == right
    for name, label in (("tail", 0), ("medium", 2), ("head", 3)):
        own = [value if labels[item] == label else None for item, value in zip(ids, right, strict=True)]
        assert found[name] == own
    means = [np.mean([r for i, r in zip(ids, right, strict=True) if labels[i] == c]) for c in (0, 2, 3)]
    assert found["macro"] == pytest.approx(np.mean(means))


def test_episodes_have_the_shots_of_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 6
    given = torch.randn(60, 4, generator=draw) + torch.randn(6, 4, generator=draw)[labels]
    monkeypatch.setattr(probes, "encoded", lambda model, data, ids: given[ids])
    monkeypatch.setattr(probes, "usual", lambda model, data, split, names: dict.fromkeys(names, 0.5))
    ids = torch.randperm(60, generator=draw)
    data: Any = SimpleNamespace(
        relations=LabelRelations(labels, list("abcdef"), torch.arange(60)), splits={"test": ids}
    )
    found = probes.few_shot(None, data, "test", ["few_shot_1", "few_shot_5", "map@r"])  # type: ignore[arg-type]
    assert found.keys() == {"few_shot_1", "few_shot_5", "map@r"}
    for shots in (1, 5):
        assert found[f"few_shot_{shots}"] == few_shot_accuracy(given[ids], labels[ids], 5, shots).tolist()


def test_pairs_of_one_class_among_all_pairs(vectors: Tensor) -> None:
    labels = torch.arange(12) % 4
    data: Any = SimpleNamespace(
        relations=LabelRelations(labels, list("abcd"), torch.arange(12)), splits={"test": torch.arange(2, 12)}
    )
    found = probes.pair_ap(None, data, "test", ["pair_ap"])  # type: ignore[arg-type]
    pairs = [(one, other) for one in range(2, 12) for other in range(2, one)]
    same = [bool(labels[one] == labels[other]) for one, other in pairs]
    scores = [cosine(vectors[one], vectors[other]) for one, other in pairs]
    assert found["pair_ap"] == pytest.approx(average_precision_score(same, scores), abs=1e-6)
