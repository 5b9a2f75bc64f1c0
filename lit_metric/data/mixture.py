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
    """Refuse names of data sets that don't fit between the slashes of names of metrics and splits.

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
        told = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise DataError(f"one encoder takes texts or sets, but the data sets of the mixture are {told}")
    rows = [row for part in parts.values() for row in _texts(part)]
    weights = None
    if any(part.items.weights is not None for part in parts.values()):
        weights = [row for part in parts.values() for row in _weights(part)]
    keys = [key for part in parts.values() for key in part.items.keys or [""] * len(part.items)]
    items, vocabulary = Items.encode(
        rows,
        next(iter(kinds.values())),
        keys if any(keys) else None,
        roles=_roles(parts),
        weights=weights,
    )
    relations = UnionRelations([part.relations for part in parts.values()])
    splits: dict[str, Tensor] = {}
    for (name, part), start in zip(parts.items(), relations.offsets.tolist(), strict=False):
        splits |= {f"{name}/{split}": ids + start for split, ids in part.splits.items()}
    if any(part.corpus_of("train") for part in parts.values()):
        mined = [f"{name}/{part.corpus_of('train') or 'train'}" for name, part in parts.items()]
        splits["train_corpus"] = torch.cat([splits[name] for name in mined if name in splits])
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
    """The rows of all items, those of each split as if its sources were one after the other."""
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


def _texts(part: Dataset) -> list[list[str]]:
    texts = part.vocabulary.texts
    return [[texts[text] for text in row] for row in part.items.texts.tolist()]


def _weights(part: Dataset) -> list[list[float]]:
    items = part.items
    if items.weights is None:
        return [[1.0] * length for length in items.texts.lengths.tolist()]
    rows: list[list[float]] = Ragged(items.weights, items.texts.offsets).tolist()  # type: ignore[assignment]
    return rows


def _roles(parts: Mapping[str, Dataset]) -> list[str] | list[list[str]] | None:
    """A role for each item where any has one, else for each text where any has one."""
    if all(part.vocabulary.roles is None for part in parts.values()):
        return None
    if any(part.items.roles is not None for part in parts.values()):
        return [
            role
            for part in parts.values()
            for role in (
                [""] * len(part.items)
                if part.items.roles is None
                else [part.items.role_names[number] for number in part.items.roles.tolist()]
            )
        ]
    rows: list[list[str]] = []
    for part in parts.values():
        names, roles = part.vocabulary.role_names, part.vocabulary.roles
        numbers = None if roles is None else roles.tolist()
        rows += [
            ["" if numbers is None else names[numbers[text]] for text in row]
            for row in part.items.texts.tolist()
        ]
    return rows
