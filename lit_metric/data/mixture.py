"""Several data sets end to end, in one space of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError
from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import UnionRelations

SPLITS = ("train", "validation", "test", "predict")


def check_names(names: Iterable[str]) -> None:
    """Refuse names of data sets that cannot stand between the slashes of names of metrics and splits.

    Raises:
        DataError: names one, and what to call it.
    """
    for name in names:
        if not name or "/" in name:
            raise DataError(
                f"mixture= has a data set called {name!r}: its metrics are called val/NAME/METRIC; give it "
                f"a name without slashes, such as {name.strip('/').replace('/', '_') or 'first'!r}"
            )


def union(parts: Mapping[str, Dataset]) -> Dataset:
    """Lay data sets end to end; across them nothing is known.

    Args:
        parts: by name; all of texts or all of sets.

    Returns:
        The whole. A split ``NAME/SPLIT`` for each split of a part, and the splits of all parts together;
        ``train_corpus``, if any part has one, holds what training items are compared with.

    Raises:
        DataError: when some items are texts and others are sets.
    """
    kinds = {name: part.items.kind for name, part in parts.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise DataError(f"one encoder takes texts or sets, but the data sets of the mixture are {found}")
    texts: list[list[str]] = []
    weights: list[list[float]] = []
    keys: list[str] = []
    for part in parts.values():
        names, rows = part.vocabulary.texts, part.items.texts
        texts += [[names[text] for text in row] for row in rows.tolist()]
        of_texts = part.items.weights
        if of_texts is None:
            of_texts = torch.ones(len(rows.values))
        weights += Ragged(of_texts, rows.offsets).tolist()  # type: ignore[arg-type]
        keys += part.items.keys or [""] * len(part.items)
    weighted = any(part.items.weights is not None for part in parts.values())
    items, vocabulary = Items.encode(
        texts,
        next(iter(kinds.values())),
        keys if any(keys) else None,
        roles=_roles(parts),
        weights=weights if weighted else None,
    )
    relations = UnionRelations([part.relations for part in parts.values()])
    splits: dict[str, Tensor] = {}
    for (name, part), start in zip(parts.items(), relations.offsets.tolist(), strict=False):
        splits |= {f"{name}/{split}": ids + start for split, ids in part.splits.items()}
    if any(part.corpus_of("train") for part in parts.values()):
        corpora = [f"{name}/{part.corpus_of('train') or 'train'}" for name, part in parts.items()]
        splits["train_corpus"] = torch.cat([splits[name] for name in corpora if name in splits])
    for split in SPLITS:
        own = [splits[f"{name}/{split}"] for name in parts if f"{name}/{split}" in splits]
        if own:
            splits[split] = torch.cat(own)
    places, counts = _rows(parts)
    return Dataset(
        items,
        vocabulary,
        relations,
        splits,
        parts=dict(parts),
        held_out=any(part.held_out for part in parts.values()),
        rows=places,
        row_counts=counts,
    )


def _rows(parts: Mapping[str, Dataset]) -> tuple[Tensor, dict[str, int]]:
    """The rows of all items, and of each split, as if its sources were one after the other."""
    rows = [
        torch.full([len(part.items)], -1) if part.rows is None else part.rows.clone()
        for part in parts.values()
    ]
    counts: dict[str, int] = {}
    for split in SPLITS:
        own = [(part, each) for part, each in zip(parts.values(), rows, strict=True) if split in part.splits]
        if not own or any(split not in part.row_counts for part, _ in own):
            continue
        counts[split] = 0
        for part, each in own:
            each[part.splits[split]] += counts[split]
            counts[split] += part.row_counts[split]
    return torch.cat(rows), counts


def _roles(parts: Mapping[str, Dataset]) -> list[str] | list[list[str]] | None:
    """A role for each item if any item has one, or for each text if any text has one, or None."""
    if all(part.vocabulary.roles is None for part in parts.values()):
        return None
    of_items: list[str] = []
    of_texts: list[list[str]] = []
    for part in parts.values():
        items, numbers = part.items, part.vocabulary.roles
        of_items += (
            [""] * len(items)
            if items.roles is None
            else [items.role_names[number] for number in items.roles.tolist()]
        )
        names = (
            [""] * len(part.vocabulary)
            if numbers is None
            else [part.vocabulary.role_names[number] for number in numbers.tolist()]
        )
        of_texts += [[names[text] for text in row] for row in items.texts.tolist()]
    return of_items if any(part.items.roles is not None for part in parts.values()) else of_texts
