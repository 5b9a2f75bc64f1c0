"""Maps: what they keep, that they can be compared, and vectors of which there is little to see."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from sklearn.decomposition import PCA
from torch.nn import functional as F

from lit_metric.report.projection import project

METHODS = [
    "pca",
    pytest.param(
        "pacmap",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("pacmap") is None, reason="pacmap is not installed"
        ),
    ),
]


def groups(seed: int, spread: float = 0.2) -> torch.Tensor:
    """120 vectors in four groups, one after the other."""
    draw = np.random.default_rng(seed)
    centers = np.eye(6)[np.arange(120) // 30]
    return torch.from_numpy(centers + spread * draw.normal(size=(120, 6))).float()


@pytest.mark.parametrize("method", METHODS)
def test_maps_lie_in_a_square_and_depend_on_the_seed_alone(method: str) -> None:
    first, second, words = project(groups(0), groups(1), method, seed=4)
    assert first is not None
    assert second is not None
    assert {"pca": "PCA", "pacmap": "PaCMAP"}[method] == words
    both = np.concatenate([first, second])
    assert both.dtype == np.float32
    assert both.min() >= 0
    assert both.max() <= 1
    assert np.ptp(both, axis=0).max() == pytest.approx(1, abs=1e-6)
    again = project(groups(0), groups(1), method, seed=4)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])


@pytest.mark.parametrize("method", METHODS)
def test_groups_stay_together(method: str) -> None:
    _, after, _ = project(None, groups(2, spread=0.1), method)
    assert after is not None
    distances = np.linalg.norm(after[:, None] - after[None], axis=2) + 9 * np.eye(120)
    same = distances.argmin(axis=1) // 30 == np.arange(120) // 30
    assert same.mean() > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_a_rotation_of_all_vectors_moves_no_item(method: str) -> None:
    turn = torch.linalg.qr(torch.from_numpy(np.random.default_rng(5).normal(size=(6, 6)))).Q.float()
    before, after, _ = project(groups(3), groups(3) @ turn, method)
    assert before is not None
    assert after is not None
    moved = np.linalg.norm(before - after, axis=1)
    assert np.median(moved) < (1e-3 if method == "pca" else 0.1)


def test_pca_is_that_of_sklearn() -> None:
    _, after, _ = project(None, groups(6), "pca")
    unit = F.normalize(groups(6), dim=1).double().numpy()
    assert procrustes(PCA(2).fit_transform(unit), after)[2] < 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 60])
@pytest.mark.parametrize("kind", ["constant", "zero", "two places"])
def test_little_to_see_is_no_error(method: str, count: int, kind: str) -> None:
    vectors = {"constant": torch.ones(count, 3), "zero": torch.zeros(count, 3)}.get(kind)
    if vectors is None:
        vectors = torch.eye(3)[torch.arange(count) % 2]
    for before, after, _ in (project(vectors, vectors, method), project(None, vectors, method)):
        assert before is None or before.shape == (count, 2)
        assert after is not None
        assert after.shape == (count, 2)
        assert ((after >= 0) & (after <= 1)).all()
        if kind != "two places":
            np.testing.assert_allclose(after, 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_many_duplicates_are_no_error(method: str) -> None:
    vectors = torch.cat([groups(7), groups(7)[:1].expand(200, -1)])
    _, after, _ = project(None, vectors, method)
    assert after is not None
    assert np.isfinite(after).all()


def test_one_component_is_a_line() -> None:
    _, after, _ = project(None, torch.tensor([[1.0], [-2.0], [3.0]]), "pca")
    assert after is not None
    np.testing.assert_allclose(after[:, 1], 0.5)
    assert sorted(after[:, 0].tolist()) == pytest.approx([0, 1, 1])


def test_items_without_vectors_have_no_place() -> None:
    before, after = groups(8), groups(9)
    before[3], after[5] = torch.nan, torch.nan
    first, second, _ = project(before, after, "pca")
    assert first is not None
    assert second is not None
    assert np.isnan(first).all(axis=1).nonzero()[0].tolist() == [3]
    assert np.isnan(second).all(axis=1).nonzero()[0].tolist() == [5]


def test_words_say_why_it_is_pca(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.report.projection.find_spec", lambda name: object())
    assert project(None, torch.eye(3))[2] == "PCA (PaCMAP needs 50 items)"
    monkeypatch.setattr("lit_metric.report.projection.find_spec", lambda name: None)
    assert project(None, groups(0))[2] == "PCA (pacmap is not installed)"
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"lit-metric\[report\]\""):
        project(None, groups(0), "pacmap")


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 'auto', 'pacmap' or 'pca'"):
        project(None, None, "tsne")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 items before and 3 after"):
        project(torch.eye(2), torch.eye(3))
    assert project(None, None)[:2] == (None, None)
