"""One mining pass: fetch proposals, filter them, count what each filter drops, and explain a few anchors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings
from lit_metric.mining.candidates import Candidates, PositiveScores, first_kept
from lit_metric.mining.filters import CeilingFilter, NegativeFilter
from lit_metric.mining.hashing import hashed
from lit_metric.mining.propose import Ceilings, Proposer
from lit_metric.mining.table import half
from lit_metric.store import SAMPLE, version_folder, write_json

KEPT, EMPTY, BEYOND = 0, -1, -2
_HELD = 1 << 21
_LISTED = 20

Judge = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FilteredProposals:
    """Proposals and the verdict on each.

    Args:
        ids: ``[A, k]`` int64, -1 where the corpus had no more.
        scores: ``[A, k]`` float32.
        verdicts: ``[A, k]`` int8: ``KEPT``, ``EMPTY``, ``BEYOND`` (there were enough before it), or the
            number, from 1, of the filter that dropped it.
    """

    ids: Tensor
    scores: Tensor
    verdicts: Tensor

    def kept(self, count: int) -> tuple[Tensor, Tensor]:
        """Ids and scores ``[A, count]`` of the first ``count`` kept proposals, -1 and -inf behind the
        last."""
        ids, scores = first_kept(self.verdicts == KEPT, count, (self.ids, -1), (self.scores, -torch.inf))
        return ids, scores


def fetch(
    proposer: Proposer,
    anchors: Embeddings,
    rows: Tensor,
    judge: Judge,
    wanted: int,
    limit: int,
    first: int | None = None,
) -> Iterator[tuple[Tensor, FilteredProposals]]:
    """Propose four times as many at each try, until an anchor has ``wanted`` left or saw ``limit`` of them.

    No fixed number of spare neighbours is enough: an anchor's class may be larger, and a trained encoder
    puts that class nearest.

    Args:
        proposer: already fitted.
        anchors: of all anchors.
        rows: ``[A]`` positions of the anchors to propose for.
        judge: takes ``rows [a]``, ids ``[a, k]`` and scores ``[a, k]``, and returns the verdicts, int8
            ``[a, k]``, without ``BEYOND``.
        wanted: how many proposals should be kept.
        limit: the most proposals for an anchor.
        first: how many the first try fetches; None: twice as many as wanted.

    Yields:
        Pairs ``(rows [a], FilteredProposals [a, k])`` that cover every anchor once; ``k`` differs between
        them. None holds more than about two million entries, so memory stays flat if each is used up at once.
    """
    count = min(limit, first or 2 * wanted)
    while len(rows):
        short = []
        for part in rows.split(max(1, _HELD // count)):
            scores, found = proposer.propose(anchors.ids[part], anchors[part], count)
            verdicts = judge(part, found, scores)
            kept = (verdicts == KEPT).cumsum(1)
            settled = (kept[:, -1] >= wanted) | (found[:, -1] < 0) | (count >= limit)
            # No filter is counted for proposals behind the last one that is needed.
            before = torch.cat([torch.zeros_like(kept[:, :1]), kept[:, :-1]], dim=1)
            verdicts = verdicts.masked_fill((before >= wanted) & (verdicts != EMPTY), BEYOND)
            yield part[settled], FilteredProposals(found[settled], scores[settled], verdicts[settled])
            short.append(part[~settled])
        rows = torch.cat(short)
        count = min(limit, 4 * count)


class MiningRun:
    """Judges proposals, holds the candidates found, and counts the dropped ones.

    Args:
        anchors: of all ``A`` anchors, on the proposer's scale.
        positives: of the anchors, in their order.
        filters: applied one after the other; the first is the relations'.
        width: candidates to find for each anchor.
        sample: number of anchors to explain. They depend on the anchors' ids alone, so every version of a
            table shows the same ones.
    """

    def __init__(
        self,
        anchors: Embeddings,
        positives: PositiveScores,
        filters: Sequence[NegativeFilter],
        width: int,
        sample: int,
    ) -> None:
        self.anchors, self.ids = anchors, anchors.ids
        self.positives = positives
        self.filters = filters
        self.width = width
        names = [each.name for each in filters]
        self.names = [
            name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names)
        ]
        self.found = torch.full((len(self.ids), width), -1, dtype=torch.int32)
        self.scores = np.full((len(self.ids), width), -np.inf, dtype=np.float16)
        self.dropped = torch.zeros(len(filters), dtype=torch.int64)
        self.examined = 0
        self.explained: list[dict[str, Any]] = []
        self.unseen = False
        """Whether the search itself leaves out what the relations exclude."""
        self.mined = (~positives.best.isnan()).nonzero()[:, 0]
        order = torch.from_numpy(hashed(self.ids[self.mined].numpy()).argsort(kind="stable"))
        self.shown = torch.zeros(len(self.ids), dtype=torch.bool)
        self.shown[self.mined[order[:sample]]] = True

    def search(self, proposer: Proposer, relations: Relations, limit: int, corpus: int) -> None:
        """Find candidates for all anchors, and explain a few.

        Args:
            proposer: already fitted.
            relations: what belongs together.
            limit: the most proposals for an anchor.
            corpus: the size of the corpus.
        """
        by_score = _leading(self.filters[1:])
        ceilings = None
        if by_score:
            limits = torch.stack([each.ceiling(self.positives) for each in by_score], dim=1)
            ceilings = Ceilings(self.ids, limits)
        allowed = proposer.excluding(relations, ceilings)
        self.unseen = allowed is not proposer
        # Where no filter is left to drop any afterwards, the first try fetches exactly the wanted number.
        exactly = self.unseen and len(by_score) == len(self.filters) - 1
        fetched = partial(fetch, anchors=self.anchors, judge=self.judge, wanted=self.width)
        for part, judged in fetched(
            allowed, rows=self.mined, limit=limit, first=self.width if exactly else None
        ):
            self._take(part, judged)
            if not self.unseen:
                self._explain(part, judged, relations)
        if self.unseen:
            if ceilings is not None:
                dropped = ceilings.dropped.sum(0)
                self.dropped[1 : 1 + len(by_score)] += dropped
                self.examined += int(dropped.sum())
            # The explanation also shows what the relations exclude.
            shown = self.shown.nonzero()[:, 0]
            for part, judged in fetched(proposer, rows=shown, limit=corpus):
                self._explain(part, judged, relations)

    def judge(self, rows: Tensor, found: Tensor, scores: Tensor) -> Tensor:
        """The verdicts, int8 ``[a, k]``, on proposals for the anchors in ``rows [a]``; see :func:`fetch`."""
        candidates = Candidates(self.ids[rows], found, scores, self.positives.select(rows))
        verdicts = torch.full(found.shape, KEPT, dtype=torch.int8).masked_fill(found < 0, EMPTY)
        for number, each in enumerate(self.filters, start=1):
            dropped = candidates.present & ~each.keep(candidates)
            verdicts.masked_fill_(dropped, number)
            candidates = candidates.without(dropped)
        return verdicts

    def report(self) -> dict[str, float]:
        """How the mining went: numbers by name."""
        count = (self.found[self.mined] >= 0).sum(1)
        shares = (self.dropped / max(self.examined, 1)).tolist()
        rejected = dict(zip(self.names, shares, strict=True))
        if self.unseen:
            del rejected[self.names[0]]
        mined = max(len(count), 1)
        return {
            "unpaired": 1 - len(count) / len(self.ids),
            "candidates": int(count.sum()) / mined,
            "examined": self.examined / mined,
            "short": int((count < self.width).sum()) / mined,
            "without": int((count == 0).sum()) / mined,
            **{f"rejected/{name}": share for name, share in rejected.items()},
        }

    def _take(self, rows: Tensor, judged: FilteredProposals) -> None:
        ids, scores = judged.kept(self.width)
        # A proposer need not rank; a table does.
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self.found[rows], self.scores[rows.numpy()] = ids.gather(1, order).int(), half(scores)
        self.examined += int(((judged.verdicts != EMPTY) & (judged.verdicts != BEYOND)).sum())
        for number in range(len(self.filters)):
            self.dropped[number] += (judged.verdicts == number + 1).sum()

    def _explain(self, rows: Tensor, judged: FilteredProposals, relations: Relations) -> None:
        for place in self.shown[rows].nonzero()[:, 0].tolist():
            self.explained.append(self.explanation(int(rows[place]), judged, place, relations))

    def explanation(
        self, row: int, judged: FilteredProposals, place: int, relations: Relations
    ) -> dict[str, Any]:
        """What became of one anchor's proposals, ready for JSON.

        Args:
            row: of the anchor.
            judged: proposals, in row ``place`` those of this anchor.
            place: see there.
            relations: tell the kind of an excluded candidate.

        Returns:
            ``anchor``; ``positive`` with the ``best``, ``worst`` and ``mean`` score, null without positives;
            ``candidates``, a list of ``id``, ``score`` and ``verdict`` in the order proposed, at most 20 for
            each filter that dropped them; ``omitted``, the number of the others.
        """
        anchor, verdicts = int(self.ids[row]), judged.verdicts[place]
        listed = verdicts == KEPT
        for number in range(1, len(self.names) + 1):
            dropped = verdicts == number
            listed |= dropped & (dropped.cumsum(0) <= _LISTED)
        seen = (verdicts != EMPTY) & (verdicts != BEYOND)
        ids = judged.ids[place][listed]
        is_positive = relations.positive_pairs(torch.full_like(ids, anchor), ids).tolist()
        candidates = []
        columns = (
            ids.tolist(),
            judged.scores[place][listed].tolist(),
            verdicts[listed].tolist(),
            is_positive,
        )
        for candidate, score, verdict, positive in zip(*columns, strict=True):
            reason = "kept" if verdict == KEPT else self.names[verdict - 1]
            if verdict == 1:
                kind = "itself" if candidate == anchor else "positive" if positive else "duplicate or ignored"
                reason = f"{reason}: {kind}"
            candidates.append({"id": candidate, "score": round(score, 4), "verdict": reason})
        numbers = {name: float(self.positives.of(name)[row]) for name in ("best", "worst", "mean")}
        return {
            "anchor": anchor,
            "positive": {
                name: None if value != value else round(value, 4) for name, value in numbers.items()
            },
            "candidates": candidates,
            "omitted": int(seen.sum() - listed.sum()),
        }


def _leading(filters: Sequence[NegativeFilter]) -> list[CeilingFilter]:
    """The first filters that judge by the score alone.

    The search can apply them, but none behind a filter of another kind: a rank counts only the candidates
    that earlier filters kept.
    """
    found: list[CeilingFilter] = []
    for each in filters:
        # A filter that overrides keep() judges each candidate.
        if not isinstance(each, CeilingFilter) or type(each).keep is not CeilingFilter.keep:
            break
        found.append(each)
    return found


def add_texts(
    root: str | Path,
    version: int,
    texts: Callable[[Tensor], list[str]],
    keys: Sequence[str] | None,
    use: dict[str, Any] | None = None,
) -> None:
    """Add the texts and keys of anchors and candidates to a version's sample, and its first use.

    A worker that mines has no texts, so the training process adds them.

    Args:
        root: folder of all versions.
        version: which; nothing happens if its sample is gone.
        texts: gives the texts ``[n]`` of items by their ids ``[n]``.
        keys: of all items by id; None: there are none.
        use: when training took the version into use, in JSON types; None: unknown.
    """
    path = version_folder(root, version) / SAMPLE
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = []
    for anchor in content["anchors"]:
        entries.append((anchor["anchor"], anchor))
        entries += [(candidate["id"], candidate) for candidate in anchor["candidates"]]
    ids = torch.tensor([number for number, _ in entries], dtype=torch.int64)
    for (number, entry), text in zip(entries, texts(ids), strict=True):
        entry["text"] = text
        if keys is not None:
            entry["key"] = keys[number]
    write_json(path, content if use is None else {**content, "use": use})
