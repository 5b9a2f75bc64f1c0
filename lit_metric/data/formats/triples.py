"""Facts of a graph: head, relation, tail, with a text for each entity."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset, GivenPairs
from lit_metric.data.formats import columns as values
from lit_metric.data.formats.base import (
    DOCUMENT,
    QUERY,
    Numbering,
    Plans,
    ReadOptions,
    Supervision,
    apart,
    ids_of,
    predicted,
    predicted_rows,
    refuse_empty,
)
from lit_metric.data.formats.columns import Columns
from lit_metric.data.formats.hold_out import held_out
from lit_metric.data.formats.judgements import Texts, refer
from lit_metric.data.readers import Source
from lit_metric.data.relations import PairRelations
from lit_metric.data.table import Table

logger = logging.getLogger(__name__)

Triple = tuple[str, str, str]


@dataclass
class _Questions:
    """Numbers of questions, of the entities that answer them, and what is asked, side by side."""

    anchors: list[int]
    candidates: list[int]
    relations: list[str]


class Triples(Supervision):
    """Facts of a graph, such as ``(breathe, hypernym, exhale)``: ``train``, ``validation`` and ``test`` are
    tables of them.

    A question is a head with a relation, its answers are the tails. Its text is ``"RELATION: TEXT OF THE
    HEAD"``, underscores of the relation as spaces, so that a cut never takes the relation. Questions have the
    role ``"query"``, entities ``"document"``; all entities are one corpus. Where a question is trained on,
    only the facts of ``train`` are known; where it is asked in an evaluation, answers that other splits know
    count neither way.

    Args:
        entities: file, data set or hub id with the texts of entities, by id.
        head: the column of the head's id.
        relation: the column of relations.
        tail: the column of the tail's id.
        id: the column of ids in ``entities``; guessed if None.
        text: the column of texts there; of several columns, such as ``[lemmas, definition]``, the texts are
            put one after the other. Lists of texts are joined by commas.
        text_separator: what is put between them.
        inverse: whether to ask for heads, too: ``"inverse RELATION: TEXT OF THE TAIL"``.
        group: ``"relation"``: recall is measured for the questions of each relation in either direction, too;
            the group of ``"inverse member of: …"`` is ``inverse_member_of``.

    Raises:
        ValueError: when ``group`` is anything else.
    """

    planned: Plans = "pairs"

    def __init__(
        self,
        entities: Source,
        head: str = "head",
        relation: str = "relation",
        tail: str = "tail",
        id: str | None = None,
        text: str | list[str] | None = None,
        text_separator: str = ": ",
        inverse: bool = True,
        group: Literal["relation"] | None = None,
    ) -> None:
        if group not in (None, "relation"):
            raise ValueError(f"questions are grouped by 'relation' or not at all, not by group={group!r}")
        self.entities = entities
        self.head = head
        self.relation = relation
        self.tail = tail
        self.id = id
        self.text = text
        self.text_separator = text_separator
        self.inverse = inverse
        self.group = group

    def read(self, tables: Mapping[str, Table], reading: ReadOptions) -> Dataset:
        table = reading.open(self.entities)
        entities = Texts.read(table, self.id, self.text, self.text_separator, reading)
        triples = {
            name: self._check(table, entities, reading) for name, table in tables.items() if name != "predict"
        }
        if "train" in triples and "validation" not in triples:
            self._hold_out(triples, reading)
        refuse_empty(triples, reading.problems)
        numbering = Numbering()
        of_entities = {
            id: numbering.add("", DOCUMENT, entities.texts[row], id) for id, row in entities.rows.items()
        }
        splits = {"corpus": ids_of(sorted(set(of_entities.values())))}
        asked = {
            split: self._ask(split, rows, numbering, entities, of_entities) for split, rows in triples.items()
        }
        splits |= {split: ids_of(sorted(set(each.anchors))) for split, each in asked.items()}
        if "predict" in tables:
            text = self.text if isinstance(self.text, str) else None
            splits["predict"] = predicted(numbering, tables["predict"], text, DOCUMENT, reading.problems)
        content = self._content(numbering, asked, splits)
        content.row_counts.update(predicted_rows(tables))
        return content

    def _check(self, table: Table, entities: Texts, reading: ReadOptions) -> list[Triple]:
        columns = Columns(table, reading.problems)
        heads = columns.read(self.head, values.identifier)
        relations = columns.read(self.relation, values.label)
        tails = columns.read(self.tail, values.identifier)
        for name, ids in ((self.head, heads), (self.tail, tails)):
            refer(columns, name, ids, entities)
        return list(dict.fromkeys((heads[row], relations[row], tails[row]) for row in columns.kept))

    def _hold_out(self, triples: dict[str, list[Triple]], reading: ReadOptions) -> None:
        """Move some facts from training to validation."""
        chosen = held_out(triples["train"], reading)
        if not chosen:
            return
        triples["validation"] = [triple for triple in triples["train"] if triple in chosen]
        triples["train"] = [triple for triple in triples["train"] if triple not in chosen]

    def _questions(self, triples: Sequence[Triple]) -> list[Triple]:
        """``(entity, relation, answer)`` of all facts, in both directions if so asked."""
        questions = [(head, wording(relation), tail) for head, relation, tail in triples]
        if self.inverse:
            questions += [(tail, f"inverse {wording(relation)}", head) for head, relation, tail in triples]
        return questions

    def _ask(
        self,
        split: str,
        triples: Sequence[Triple],
        numbering: Numbering,
        entities: Texts,
        of_entities: Mapping[str, int],
    ) -> _Questions:
        asked = _Questions([], [], [])
        for entity, relation, answer in self._questions(triples):
            text = f"{relation}: {entities.texts[entities.rows[entity]]}"
            asked.anchors.append(numbering.add(split, QUERY, text, f"{entity} {relation}"))
            asked.candidates.append(of_entities[answer])
            asked.relations.append(relation)
        return asked

    def _content(
        self, numbering: Numbering, asked: Mapping[str, _Questions], splits: dict[str, Tensor]
    ) -> Dataset:
        items, vocabulary = numbering.encode()
        anchors = ids_of(number for each in asked.values() for number in each.anchors)
        candidates = ids_of(number for each in asked.values() for number in each.candidates)
        facts = GivenPairs(anchors, candidates, torch.ones(len(anchors)))
        fingerprints = apart(items.fingerprints, numbering.splits())
        ignored = _known(numbering, asked)
        relations = PairRelations(anchors, candidates, None, fingerprints, ignored=ignored)
        logger.info(
            "%d facts, asked as %s questions", len(anchors), {name: len(splits[name]) for name in asked}
        )
        groups = None if self.group is None else _groups(len(numbering), asked)
        return Dataset(
            items, vocabulary, relations, splits, judgements=facts, groups=groups, rows=numbering.placed()
        )


def _groups(size: int, asked: Mapping[str, _Questions]) -> list[str | None]:
    """What each of ``size`` items asks for as part of a metric's name, None where it is no question."""
    groups: list[str | None] = [None] * size
    for each in asked.values():
        for anchor, relation in zip(each.anchors, each.relations, strict=True):
            groups[anchor] = relation.replace(" ", "_")
    return groups


def _known(numbering: Numbering, asked: Mapping[str, _Questions]) -> tuple[Tensor, Tensor]:
    """Pairs of a question outside of training and an answer that another split knows."""
    answers: dict[str, set[int]] = {}
    for each in asked.values():
        for anchor, candidate in zip(each.anchors, each.candidates, strict=True):
            answers.setdefault(numbering.texts[anchor], set()).add(candidate)
    pairs = []
    for split, each in asked.items():
        if split == "train":
            continue
        own = set(zip(each.anchors, each.candidates, strict=True))
        for anchor in dict.fromkeys(each.anchors):
            known = sorted(answers[numbering.texts[anchor]])
            pairs += [(anchor, answer) for answer in known if (anchor, answer) not in own]
    anchors, candidates = zip(*pairs, strict=True) if pairs else ((), ())
    return ids_of(anchors), ids_of(candidates)


def wording(relation: str) -> str:
    """A relation as words.

    Example:
        >>> wording("_member_of_domain_usage"), wording("/people/person/born_in")
        ('member of domain usage', 'people person born in')
    """
    return " ".join(relation.replace("_", " ").replace("/", " ").split()) or relation
