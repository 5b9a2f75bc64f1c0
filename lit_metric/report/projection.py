"""Maps of items in the plane, before and after training, on which an item's move can be followed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from lit_metric.report.structure import Floats

Method = Literal["auto", "pacmap", "pca"]

FEWEST = 50
"""PaCMAP's pairs need more items than this."""


def project(
    before: Tensor | None, after: Tensor | None, method: Method = "auto", seed: int = 0
) -> tuple[Floats | None, Floats | None, str]:
    """Positions of items by their vectors before and after; near items are those of a large cosine.

    PaCMAP (Wang et al., JMLR 2021) keeps neighbourhoods; it first reduces vectors to 100 components by PCA.
    The map after starts from the map before. Then it is turned, or mirrored, to lie upon that as well as it
    can, by both methods.

    Args:
        before, after: ``[N, d]`` of the same items; None: unknown. A row that isn't finite is an item without
            a vector.
        method: ``"auto"`` takes PaCMAP if it is installed and there are at least 50 items, else PCA.
        seed: of PaCMAP; equal vectors and seeds give equal maps.

    Returns:
        ``[N, 2]`` float32 in 0 .. 1 each, on one scale; None where there are no vectors, and NaN in rows
        without. Then how they were made, in words.

    Raises:
        ModuleNotFoundError: if ``method`` is ``"pacmap"``, and pacmap isn't installed.
        ValueError: for another method, or if the numbers of items differ.

    Example:
        >>> import torch
        >>> _, after, words = project(None, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), method="pca")
        >>> after.tolist(), words
        ([[1.0, 0.5], [0.0, 0.5]], 'PCA')
    """
    if method not in ("auto", "pacmap", "pca"):
        raise ValueError(f"method is {method!r}; choose 'auto', 'pacmap' or 'pca'")
    if before is not None and after is not None and len(before) != len(after):
        raise ValueError(
            f"{len(before)} items before and {len(after)} after: give the vectors of the same items"
        )
    installed = find_spec("pacmap") is not None
    if method == "pacmap" and not installed:
        raise ModuleNotFoundError(
            'method="pacmap" needs the library pacmap: pip install "lit-metric[report]"', name="pacmap"
        )
    known = [
        None if vectors is None else (vectors.isfinite().all(dim=1).cpu().numpy(), vectors)
        for vectors in (before, after)
    ]
    fewest = min((int(each[0].sum()) for each in known if each is not None), default=0)
    words = "PaCMAP"
    if method == "pca":
        words = "PCA"
    elif not installed:
        words = "PCA (pacmap is not installed)"
    elif fewest < FEWEST:
        words = f"PCA (PaCMAP needs {FEWEST} items)"
    maps: list[NDArray[np.float64] | None] = [None, None]
    for place, each in enumerate(known):
        if each is not None:
            finite, vectors = each
            unit = F.normalize(vectors[finite].float(), dim=1).cpu().numpy()
            first = None if maps[0] is None else maps[0][finite]
            start = first if first is not None and np.isfinite(first).all() else None
            found = _pacmap(unit, start, seed) if words == "PaCMAP" else _pca(unit)
            made = np.full((len(finite), 2), np.nan)
            made[finite] = _turned(_standard(found), first)
            maps[place] = made
    low, size = _box([each for each in maps if each is not None])
    scaled = [None if each is None else ((each - low) / size).clip(0, 1).astype(np.float32) for each in maps]
    return scaled[0], scaled[1], words


def _pca(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[n, 2]``, the first two principal components; 0 where there are fewer."""
    found = np.zeros((len(unit), 2))
    count = min(2, *unit.shape)
    if count and not _constant(unit):
        found[:, :count] = PCA(count, random_state=0).fit_transform(unit.astype(np.float64))
    return found


def _pacmap(unit: NDArray[np.float32], start: NDArray[np.float64] | None, seed: int) -> NDArray[np.float64]:
    """``[n, 2]`` by PaCMAP, which starts from ``start [n, 2]``."""
    if _constant(unit):
        return np.zeros((len(unit), 2))
    with _quietly():
        import pacmap

        first: NDArray[np.float64] | str = "pca" if start is None or _constant(start) else start
        made = pacmap.PaCMAP(n_components=2, random_state=seed)
        found: NDArray[np.float64] = made.fit_transform(unit, init=first).astype(np.float64)
    return found if np.isfinite(found).all() else _pca(unit)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence pacmap's warnings, and give FAISS back its threads, of which a seeded PaCMAP leaves one."""
    import faiss

    logger, threads = logging.getLogger("pacmap"), faiss.omp_get_max_threads()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        faiss.omp_set_num_threads(threads)


def _constant(rows: NDArray[np.floating]) -> bool:
    """Whether all rows are equal but for rounding."""
    return not len(rows) or bool(np.ptp(rows, axis=0).max() < 1e-6)


def _standard(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Around 0, with a mean square distance of 1 from it."""
    if not len(found):
        return found
    found = found - found.mean(axis=0)
    size = np.sqrt((found**2).sum(axis=1).mean())
    return found / size if size > 1e-9 else np.zeros_like(found)


def _turned(found: NDArray[np.float64], onto: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Turn, or mirror, a map so that it lies upon another as well as it can."""
    if onto is None:
        return found
    both = np.isfinite(onto).all(axis=1)
    if not both.any():
        return found
    return found @ orthogonal_procrustes(found[both], onto[both])[0]


def _box(maps: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    """The corner and the side of the square around all maps; a square of side 1 if they have no extent."""
    points = np.concatenate([np.empty((0, 2)), *maps])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return np.zeros(2), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max()) or 1.0
    return (low + high) / 2 - size / 2, size
