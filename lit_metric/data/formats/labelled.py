"""The items of one source, and their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_metric.data.items import Kind

Classes = str | list[str] | None


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """The items of one source, checked.

    Args:
        rows: ``[n]`` the texts of each item: one if ``kind`` is ``"text"``, tags if it is ``"set"``.
        labels: ``[n]`` the class of each item, or a list of classes, or None where there is none.
        kind: what an item is.
        keys: ``[n]`` names to show to people, or None.
        roles: ``[n]`` the role of each of the item's texts, or None.
        weights: ``[n]`` the weight of each of the item's texts, or None.
        groups: ``[n]`` the group of each item, None for none; or None.
        places: ``[n]`` the row of each item in its table, from 0.
    """

    rows: list[list[str]]
    labels: Sequence[Classes]
    kind: Kind
    keys: list[str] | None = None
    roles: list[list[str]] | None = None
    weights: list[list[float]] | None = None
    groups: list[str | None] | None = None
    places: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: Sequence[int]) -> LabelledItems:
        """The items at the given places."""

        def chosen(given: Sequence | None) -> list | None:
            return None if given is None else [given[place] for place in places]

        return LabelledItems(
            [self.rows[place] for place in places],
            [self.labels[place] for place in places],
            self.kind,
            chosen(self.keys),
            chosen(self.roles),
            chosen(self.weights),
            chosen(self.groups),
            [self.places[place] for place in places],
        )
