"""How an evaluation's embeddings lie, against loops over pairs and scikit-learn."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.cluster import KMeans
from sklearn.metrics import average_precision_score, normalized_mutual_info_score
from torch import Tensor

from lit_metric.clusters import k_means, nearest_centres
from lit_metric.data import LabelRelations
from lit_metric.metrics import SpaceMetrics, alignment, uniformity
from lit_metric.metrics.space import PairScores
from tests.metrics.items import SameClass, clustered
from tests.mining.cases import blobs

module = importlib.import_module("lit_metric.metrics.space")


@pytest.mark.parametrize("elements", [2**24, 300])
def test_all_pairs_by_a_loop(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    embeddings, labels = clustered(60)
    metric = SpaceMetrics(SameClass(labels), k=4)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for ids in [*order.split(17), order[:5]]:  # An id given twice counts once.
        metric.update(embeddings[ids] * 3, ids)
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1).numpy()
    squared = [[float(((x - y) ** 2).sum()) for y in unit] for x in unit]
    pairs = [(one, other) for one in range(60) for other in range(60) if one != other]
    positives = [pair for pair in pairs if labels[pair[0]] == labels[pair[1]]]
    cosines = [unit[one] @ unit[other] for one, other in pairs]
    same = [bool(labels[one] == labels[other]) for one, other in pairs]
    counts = np.zeros(60)
    for one in range(60):
        near = sorted((other for other in range(60) if other != one), key=lambda other: squared[one][other])
        counts[near[:4]] += 1
    got = {name: value.item() for name, value in metric.compute().items()}
    assert got == pytest.approx(
        {
            "alignment": np.mean([squared[one][other] for one, other in positives]),
            "uniformity": math.log(np.mean([math.exp(-2 * squared[one][other]) for one, other in pairs])),
            "all_pairs_ap": average_precision_score(same, cosines),
            "hubness": skew(counts),
        },
        rel=1e-5,
    )


def test_nmi_of_clusters_is_that_of_scikit_learn() -> None:
    embeddings, labels = blobs(240, 6, spread=0.2)
    labels[labels == 5] = 4  # Two clusters are one class, and one class falls into two.
    labels[::9] = -1
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    known = labels >= 0
    best = KMeans(5, n_init=20, random_state=0).fit_predict(unit[known].numpy())
    expected = normalized_mutual_info_score(labels[known].numpy(), best)
    metric = SpaceMetrics(SameClass(labels), labels)
    metric.update(embeddings, torch.arange(240))
    found = metric.compute()["nmi"].item()
    assert found == pytest.approx(expected, abs=0.1)  # another k-means, another optimum
    clusters = nearest_centres(unit[known], k_means(unit[known], 5))[:, 0]
    exactly = normalized_mutual_info_score(labels[known].numpy(), clusters.numpy())
    assert found == pytest.approx(exactly, abs=1e-6)
    exact, truth = blobs(240, 6, spread=0.02)
    metric = SpaceMetrics(SameClass(truth), truth)
    metric.update(exact, torch.arange(240))
    assert metric.compute()["nmi"].item() == 1.0


def test_what_cannot_be_measured_is_not_a_number() -> None:
    labels = torch.tensor([-1])
    metric = SpaceMetrics(SameClass(labels), labels)
    with pytest.raises(ValueError, match="call update before compute"):
        metric.compute()
    metric.update(torch.ones(1, 3), torch.tensor([0]))
    values = metric.compute()
    assert {*values} == {"alignment", "uniformity", "all_pairs_ap", "nmi"}
    assert all(value.isnan() for value in values.values())
    with pytest.raises(ValueError, match="k must be at least 1"):
        SpaceMetrics(SameClass(labels), k=0)


def test_equal_cosines_are_one_threshold_as_in_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(-4, 5, (7, 30), generator=draw) / 4  # many ties, from -1 to 1
    positive = torch.rand(7, 30, generator=draw) < 0.3
    unknown = torch.rand(7, 30, generator=draw) < 0.2
    pairs = PairScores(torch.device("cpu"))
    for rows in torch.arange(7).split(3):
        pairs.add(scores[rows], positive[rows], unknown[rows])
    expected = average_precision_score(positive[~unknown].numpy(), scores[~unknown].numpy())
    assert pairs.average_precision().item() == pytest.approx(expected, rel=1e-12)


def test_unlabelled_items_and_equal_texts_are_in_no_pair() -> None:
    embeddings, labels = clustered(40)
    names = [None if row % 5 == 0 else str(int(label)) for row, label in enumerate(labels)]
    fingerprints = torch.arange(40)
    fingerprints[7] = fingerprints[3]
    relations = LabelRelations.from_names(names, fingerprints)
    metric = SpaceMetrics(relations)
    metric.update(embeddings, torch.arange(40))
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    same, cosines = [], []
    for one in range(40):
        for other in range(40):
            equal = fingerprints[one] == fingerprints[other] and names[one] != names[other]
            if one != other and names[one] and names[other] and not equal:
                same.append(names[one] == names[other])
                cosines.append(float(unit[one] @ unit[other]))
    assert 0 < sum(same) < len(same)
    expected = average_precision_score(same, cosines)
    assert metric.compute()["all_pairs_ap"].item() == pytest.approx(expected, rel=1e-4)


def test_pairs_of_one_kind_have_no_average_precision() -> None:
    for names in (["a", "a", "a"], ["a", "b", "c"]):
        metric = SpaceMetrics(LabelRelations.from_names(names, torch.arange(3)))
        metric.update(torch.eye(3), torch.arange(3))
        assert metric.compute()["all_pairs_ap"].isnan()


def unit(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_is_the_code_of_the_paper(alpha: float) -> None:
    x, y = unit(30), unit(30, seed=1)
    expected = (x - y).norm(p=2, dim=1).pow(alpha).mean()  # align_loss of Wang and Isola, appendix A
    assert alignment(x, y, alpha).item() == pytest.approx(float(expected), rel=1e-6)
    assert math.isnan(alignment(x[:0], y[:0]).item())


@pytest.mark.parametrize("elements", [2**24, 70])
def test_uniformity_is_the_code_of_the_paper(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    x = unit(33)
    expected = torch.pdist(x, p=2).pow(2).mul(-2.0).exp().mean().log()  # uniform_loss, likewise
    assert uniformity(x).item() == pytest.approx(float(expected), rel=1e-5)
    assert uniformity(unit(1).expand(9, -1)).item() == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(uniformity(x[:1]).item())
