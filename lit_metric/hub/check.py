"""Compare what was exported with the encoder that it was made of."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_metric.encoders import Encoder, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.pretrained import quietly
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY

TOLERANCE = 1e-5

NEIGHBOURS = 10

LONGEST = 600
"""Tokens of the longest random text, which is more than windows of local attention have."""

RANDOM = 24
"""Random items to compare with, besides :data:`TEXTS`."""

TEXTS = [
    "My card has not arrived yet.",
    "my card has NOT arrived yet",
    "How do I change the PIN of my card?",
    "web_browser, http/2 & TLS-1.3",
    "",
    "a",
    "Straße und Größe, naïve café",
    "Где моя карта?",
    "カードがまだ届きません。",
    "بطاقتي لم تصل بعد",
    "🙂 emoji and\ttabs\nand lines",
    "one | two \\ three",
    "The quick brown fox jumps over the lazy dog. " * 60,
]


@dataclass(frozen=True)
class Check:
    """What a comparison found.

    Args:
        form: what was compared, as a reader of the model card knows it.
        items: how many were encoded, in all roles.
        difference: the largest of any component, of vectors brought to length 1.
    """

    form: str
    items: int
    difference: float

    def __str__(self) -> str:
        return f"{self.form}: largest difference {self.difference:.1e} on {self.items} items"


def sample_items(encoder: Encoder) -> list[Any]:
    """Items of the kind that an encoder of one tower takes: some of :data:`TEXTS`, and random ones of its
    vocabulary."""
    others = random_items(encoder, RANDOM)
    if not isinstance(encoder, SetEncoder):
        return [*TEXTS, *others]
    sizes = [0, 1, 2, 4, 3]
    sets = [
        [TEXTS[(place + step) % len(TEXTS)] for step in range(sizes[place % len(sizes)])]
        for place in range(len(TEXTS))
    ]
    return [*sets, *others]


def compare(encoder: Encoder, folder: Path, sample: Sequence[Any] | None = None) -> Check:
    """Read an exported folder by sentence-transformers, and encode a sample by both, in each role.

    Args:
        encoder: what was exported, in float32.
        folder: what :func:`~lit_metric.hub.export` wrote.
        sample: items that the encoder takes; :func:`sample_items` if None.

    Raises:
        ValueError: if vectors differ by more than 1e-5.
    """
    with odd_texts():
        return _compared(encoder, folder, sample)


@contextmanager
def odd_texts() -> Iterator[None]:
    """Within this block the log doesn't say that texts are empty or too long, as some of a sample are."""
    encoders = logging.getLogger("lit_metric.encoders")
    level = encoders.level
    encoders.setLevel(logging.ERROR)
    try:
        yield
    finally:
        encoders.setLevel(level)


def _compared(encoder: Encoder, folder: Path, sample: Sequence[Any] | None) -> Check:
    from sentence_transformers import SentenceTransformer

    from lit_metric.hub.remote import join_texts

    options = {"trust_remote_code": True, "device": "cpu", "model_kwargs": {"dtype": torch.float32}}
    model = quietly(SentenceTransformer, str(folder), **options)
    towers = isinstance(encoder, TwoTowerEncoder)
    roles: list[str | None] = [*([] if towers else [None]), *encoder.tokenizer.roles]
    count, difference = 0, 0.0
    for role in roles:
        tower = encoder.tower(role) if isinstance(encoder, TwoTowerEncoder) else encoder
        tokenizer: Any = tower.tokenizer
        own_length = tokenizer.max_length_of(role) != tokenizer.max_length
        if role is not None and own_length and not cuts_by_role(model[0], role):
            continue
        items = sample_items(tower) if sample is None else list(sample)
        ours = encoder.encode(items, role=role)
        given = [join_texts(item) for item in items] if isinstance(tower, SetEncoder) else items
        theirs = _peer_vectors(model, given, role)
        if encoder.normalize and getattr(tower, "truncate_dim", None):  # there, the cut comes after length 1
            theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True).clip(1e-12)
        scale = np.linalg.norm(ours, axis=1, keepdims=True)
        apart = np.abs(ours - theirs) / np.where(scale > 0, scale, 1)
        count += len(items)
        difference = max(difference, float(apart.max(initial=0)))
        if not difference <= TOLERANCE:
            row = int(apart.max(axis=1).argmax())
            raise ValueError(
                f"the export differs under sentence-transformers: by {difference:.1e} (of vectors of length "
                f"1), first in the role {role or 'none'} for {items[row]!r:.60}; {TOLERANCE} is allowed, and "
                "the folder was removed. Write it by --format lit-metric instead"
            )
    return Check("sentence-transformers", count, difference)


def cuts_by_role(first: Any, role: str) -> bool:
    """Whether the first module of a SentenceTransformer can have a length for this role."""
    if hasattr(first, "sub_modules"):  # a Router
        first = first.sub_modules[QUERY if role == QUERY else DOCUMENT_NAMES[0]][0]
    kind = type(first).__name__
    return kind == "TextInput" or (kind == "Transformer" and role in (QUERY, DOCUMENT_NAMES[0]))


def _peer_vectors(model: Any, items: list[Any], role: str | None) -> np.ndarray:
    if role == QUERY:
        vectors = model.encode_query(items, show_progress_bar=False)
    elif role == DOCUMENT_NAMES[0]:
        vectors = model.encode_document(items, show_progress_bar=False)
    else:
        name = role if role in model.prompts else None
        vectors = model.encode(items, prompt_name=name, task=role, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float32)


def random_items(encoder: Encoder, count: int) -> list[Any]:
    """Random items of an encoder of one tower: texts of its vocabulary, some of them longer than it reads.

    Always the same for the same encoder.
    """
    text = encoder.text if isinstance(encoder, SetEncoder) else encoder
    assert isinstance(text, TextEncoder)
    tokenizer = text.tokenizer
    chance = random.Random(0)
    ordinary = sorted({*tokenizer.tokenizer.get_vocab().values()} - tokenizer.special_ids)
    longest = min(LONGEST, tokenizer.max_length + 8)
    lengths = [chance.randint(1, min(24, longest)) for _ in range(count)]
    lengths[::50] = [chance.randint(1, longest) for _ in lengths[::50]]
    lengths[:2] = [longest, 1][: len(lengths)]
    texts = [tokenizer.tokenizer.decode(chance.choices(ordinary, k=length)) for length in lengths]
    if not isinstance(encoder, SetEncoder):
        return texts
    sets = [chance.sample(texts, min(len(texts), chance.randint(1, 6))) for _ in range(count)]
    return [[], *sets[1:]]


def neighbour_recall(expected: np.ndarray, found: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Of the ``k`` nearest neighbours of each row, by cosine, the share that other vectors find, too.

    A neighbour as near as the ``k``-th counts as one of them.

    Args:
        expected: ``[n, d]`` vectors that say who the neighbours are.
        found: ``[n, d]`` vectors to compare with them.
        k: neighbours; fewer where there are fewer rows.

    Returns:
        Between 0 and 1; 1 if there is at most one row.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> neighbour_recall(rows, rows[[0, 1, 3, 2]], k=1), neighbour_recall(rows, rows[[0, 2, 1, 3]], k=1)
        (1.0, 0.0)
    """
    k = min(k, len(expected) - 1)
    if k < 1:
        return 1.0
    near, other = (_cosines(rows) for rows in (expected, found))
    chosen = np.argpartition(-other, k - 1, axis=1)[:, :k]
    least = -np.partition(-near, k - 1, axis=1)[:, k - 1 : k]
    return float((np.take_along_axis(near, chosen, 1) >= least - 1e-6).mean())


def _cosines(rows: np.ndarray) -> np.ndarray:
    """``[n, n]``; a row is no neighbour of itself."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines
