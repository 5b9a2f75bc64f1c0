"""Vectors by item id: rows, blocks, scores of pairs and subsets, in memory and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_metric.index import Embeddings

IDS = torch.tensor([9, 2, 5])
VALUES = torch.tensor([[3.0, 4.0], [0.0, 2.0], [5.0, 12.0]])


def test_vectors_are_read_by_id_in_the_order_of_the_request() -> None:
    embeddings = Embeddings(IDS, VALUES)
    assert embeddings.rows(torch.tensor([5, 9, 5])).tolist() == [2, 0, 2]
    assert embeddings.of(torch.tensor([5, 9, 5])).tolist() == [[5, 12], [3, 4], [5, 12]]
    assert (len(embeddings), embeddings.dimension) == (3, 2)
    blocks = [(ids.tolist(), vectors.tolist()) for ids, vectors in embeddings.blocks(2)]
    assert blocks == [([9, 2], [[3, 4], [0, 2]]), ([5], [[5, 12]])]


def test_cosine_scales_to_unit_length_and_dot_does_not() -> None:
    embeddings = Embeddings(IDS, VALUES.double())
    firsts, seconds = torch.tensor([9, 2]), torch.tensor([5, 9])
    assert embeddings.pair_scores(firsts, seconds).tolist() == [63, 8]
    unit = embeddings.by("cosine")
    torch.testing.assert_close(unit.of(IDS), torch.tensor([[0.6, 0.8], [0, 1], [5 / 13, 12 / 13]]))
    torch.testing.assert_close(unit.pair_scores(firsts, seconds), torch.tensor([63 / 65, 0.8]))
    assert unit.pair_scores(firsts[:0], seconds[:0]).shape == (0,)


def test_subsets_keep_the_order_and_copy_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "values.npy", VALUES.half().numpy())
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    for values in (VALUES, mapped):
        subset = Embeddings(IDS, values, "cosine").subset(torch.tensor([5, 9]))
        assert subset.ids.tolist() == [9, 5]
        assert subset.values is values
        torch.testing.assert_close(subset.of(torch.tensor([5])), torch.tensor([[5 / 13, 12 / 13]]))
        assert subset.subset(torch.tensor([5])).rows(torch.tensor([5])).tolist() == [0]
        part = Embeddings(IDS, values).part(3, 10)
        assert part.ids.tolist() == [6, 2]
        assert part.of(torch.tensor([2, 6])).tolist() == [[5, 12], [3, 4]]


def test_what_has_no_vector_is_named() -> None:
    with pytest.raises(KeyError, match="1 of the 2 requested items have no vector, the first is item 4"):
        Embeddings(IDS, VALUES).of(torch.tensor([5, 4]))
    with pytest.raises(KeyError, match="the first is item 1; there are vectors of 0 items"):
        Embeddings(IDS[:0], VALUES[:0]).rows(torch.tensor([1]))
    with pytest.raises(ValueError, match="1 of 2 ids occur twice, the first is 2"):
        Embeddings(torch.tensor([2, 2]), np.eye(2))
    for ids, values in ((torch.arange(3), np.eye(2)), (torch.arange(2), np.ones(2))):
        with pytest.raises(ValueError, match=r"vectors of shape .* for ids of shape .*: give a matrix"):
            Embeddings(ids, values)
    bad = Embeddings(IDS, torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [0.0, torch.inf]]))
    with pytest.raises(ValueError, match="2 embeddings are not finite, the first is that of item 2"):
        bad.of(IDS)
