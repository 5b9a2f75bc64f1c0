"""Compare what was exported with the encoder that it was made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.pretrained import quietly
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY
from lit_metric.hub.agreement import random_items

TOLERANCE = 1e-5

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
    random = random_items(encoder, RANDOM)
    if not isinstance(encoder, SetEncoder):
        return [*TEXTS, *random]
    sizes = [0, 1, 2, 4, 3]
    sets = [
        [TEXTS[(place + step) % len(TEXTS)] for step in range(sizes[place % len(sizes)])]
        for place in range(len(TEXTS))
    ]
    return [*sets, *random]


def compare(encoder: Encoder, folder: Path, sample: Sequence[Any] | None = None) -> Check:
    """Read an exported folder by sentence-transformers, and encode a sample by both, in each role.

    Args:
        encoder: what was exported, in float32.
        folder: what :func:`~lit_metric.hub.export` wrote.
        sample: items that the encoder takes; :func:`sample_items` if None.

    Raises:
        ValueError: if vectors differ by more than 1e-5.
    """
    quiet = logging.getLogger("lit_metric.encoders")  # of texts in the sample that are empty or long
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        return _compared(encoder, folder, sample)
    finally:
        quiet.setLevel(level)


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
