"""Relations of judged pairs: pairs, relevance judgements, scores and triples."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations.base import Relations
from lit_metric.data.relations.lookup import Memo, PairSet, Sorted, in_order_of, ranks, stable_sort

Unjudged = Literal["negative", "ignored"]


class PairRelations(Relations):
    """Judgements of single pairs: questions with answers, graded relevance, scores, 0/1 pairs, graph triples.

    A pair judged at least ``positive_from`` is positive; one judged below it is a negative given explicitly.
    ``unjudged`` says whether an unjudged pair may serve as a negative. Items of equal content are
    never negatives of each other, and stand in for each other in positive and ignored pairs. That holds for
    judged pairs, too: a pair that is judged negative is no negative if its texts are judged positive
    elsewhere.

    Memory is linear in the number of judgements. ``A × C`` pairs are looked up by joining the anchors'
    judgements with the sorted candidates.

    Attributes:
        contents: ``[N]`` int64, numbers the distinct fingerprints.
        ignores: whether ``ignored`` was given, even without pairs.
        clashes: pairs of contents that must not meet as negatives: equal ones, positive and ignored ones.

    Args:
        anchors: ``[P]`` int64 ids, one for each judgement, in any order.
        candidates: ``[P]`` int64 ids.
        grades: ``[P]`` grades or scores, or None: then all pairs have grade 1.
        fingerprints: ``[N]`` int64, equal for items of equal content.
        positive_from: the least grade that makes a pair positive; None: any above 0.
        unjudged: what pairs without a judgement are: a ``"negative"``, or ``"ignored"``; then only given
            negatives are negatives.
        ignored: ids ``[Q]`` and ``[Q]`` of pairs that are neither positive nor negative, such as facts of a
            graph that are known but held out.
        symmetric: whether each judgement holds in both directions.

    Raises:
        DataError: when lengths differ, an id is outside of ``0..N - 1``, a grade is not finite, or a pair is
            judged twice with different grades.

    Example:
        >>> relations = PairRelations(
        ...     anchors=torch.tensor([0, 0, 1]),
        ...     candidates=torch.tensor([2, 3, 4]),
        ...     grades=torch.tensor([2.0, 0.0, 1.0]),
        ...     fingerprints=torch.arange(5),
        ... )
        >>> queries, documents = torch.tensor([0, 1]), torch.tensor([2, 3, 4])
        >>> relations.positive(queries, documents).tolist(), relations.negative(queries, documents).tolist()
        ([[True, False, False], [False, False, True]], [[False, True, True], [True, True, False]])
        >>> relations.targets(queries, documents).tolist()
        [[2.0, 0.0, nan], [nan, nan, 1.0]]
    """

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        grades: Tensor | None,
        fingerprints: Tensor,
        positive_from: float | None = None,
        unjudged: Unjudged = "negative",
        ignored: tuple[Tensor, Tensor] | None = None,
        symmetric: bool = False,
    ) -> None:
        if unjudged not in ("negative", "ignored"):
            raise ValueError(f"unjudged must be 'negative' or 'ignored', not {unjudged!r}")
        grades = torch.ones_like(anchors) if grades is None else grades
        grades = grades.float()
        self._check(anchors, candidates, grades, ignored, len(fingerprints))
        self.fingerprints = fingerprints
        self.positive_from = positive_from
        self.unjudged: Unjudged = unjudged
        self.symmetric = symmetric
        self.ignores = ignored is not None
        if symmetric:
            anchors, candidates = torch.cat([anchors, candidates]), torch.cat([candidates, anchors])
            grades = torch.cat([grades, grades])
        self._judged, self.grades = self._distinct(anchors, candidates, grades, len(fingerprints))
        self.contents = ranks(fingerprints)
        self._sort_out(ignored)
        self._sorted = Memo[Sorted]()

    def _sort_out(self, ignored: tuple[Tensor, Tensor] | None) -> None:
        """Find the positives, the pairs that clash, and the given negatives."""
        anchors, candidates = self._judged.pairs()
        limit = self.positive_from
        good = self.grades > 0 if limit is None else self.grades >= limit
        self._positive = PairSet(self._judged.keys[good & (anchors != candidates)], len(self))
        known = [torch.stack([anchors[good], candidates[good]])]
        if ignored is not None:
            known.append(torch.stack([*ignored]))
            if self.symmetric:
                known.append(torch.stack([*ignored]).flip(0))
        known.append(torch.arange(len(self), device=anchors.device).expand(2, -1))
        rows, columns = self.contents[torch.cat(known, dim=1)]
        self.clashes = PairSet.of(rows, columns, len(self))
        bad = (~good).nonzero()[:, 0]
        bad = bad[~self.clashing(anchors[bad], candidates[bad])]
        self._given = PairSet(self._judged.keys[bad], len(self))

    def __len__(self) -> int:
        return len(self.fingerprints)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._mask(self._positive, anchors, self._sorted.of(candidates, Sorted.of))

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        if self.unjudged == "ignored":
            return ~self._mask(self._given, anchors, self._sorted.of(candidates, Sorted.of))
        own, others = self.contents[anchors], self.contents[candidates]
        return self._mask(self.clashes, own, Sorted.of(others))

    def positive_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self._positive.contains(anchors, candidates)

    def excluded_pairs(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        if self.unjudged == "ignored":
            return ~self._given.contains(anchors, candidates)
        return self.clashing(anchors, candidates)

    def positives(self, anchors: Tensor, among: Tensor) -> Ragged:
        rows, columns, _ = self._positive.join(anchors, self._sorted.of(among, Sorted.of))
        return in_order_of(columns, rows, len(anchors), among)

    def targets(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """``[A]`` and ``[C]`` ids to a float32 ``[A, C]``: the pair's grade, NaN where it was not judged."""
        targets = torch.full(
            (len(anchors), len(candidates)), torch.nan, dtype=torch.float32, device=anchors.device
        )
        rows, columns, places = self._judged.join(anchors, self._sorted.of(candidates, Sorted.of))
        targets[rows, columns] = self.grades[places]
        return targets

    def all_positives(self, anchors: Tensor) -> Ragged:
        """Every positive of each of ``anchors [A]``, ascending."""
        return self._positive.rows(anchors)

    def positive_spans(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The place of the first positive of each of ``anchors [A]`` among those of all, and their number."""
        return self._positive.spans(anchors)

    def positive_at(self, places: Tensor) -> Tensor:
        """``[n]`` ids of the positives at ``places [n]``; those of an anchor follow each other, ascending."""
        return self._positive.keys[places] % len(self)

    def given_negatives(self, anchors: Tensor) -> Ragged:
        """The negatives that were given for each of ``anchors [A]`` by a judgement, ascending."""
        return self._given.rows(anchors)

    def judgements(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each judged pair whose anchor is among ``ids``, once: anchors, candidates and grades, ``[J]`` each.

        They come by anchor, then by candidate. Of a symmetric pair the lower id is the anchor, unless only
        the other is among ``ids``.
        """
        anchors, candidates = self._judged.pairs()
        among = torch.zeros(len(self), dtype=torch.bool, device=ids.device).index_fill_(0, ids, True)
        kept = among[anchors]
        if self.symmetric:
            kept &= ~among[candidates] | (anchors <= candidates)
        return anchors[kept], candidates[kept], self.grades[kept]

    def clashing(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Element by element: whether two items, or items of equal content, are positive, ignored or equal.

        Shapes are broadcast. With ``unjudged="ignored"``, :meth:`excluded_pairs` also holds for all pairs
        without a judgement.
        """
        return self.clashes.contains(self.contents[anchors], self.contents[candidates])

    def to(self, device: torch.device | str) -> PairRelations:
        moved = copy.copy(self)
        for name in ("fingerprints", "grades", "contents", "clashes", "_judged", "_positive", "_given"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._sorted = Memo()
        return moved

    def _mask(self, pairs: PairSet, rows: Tensor, columns: Sorted) -> Tensor:
        mask = torch.zeros(len(rows), len(columns.values), dtype=torch.bool, device=rows.device)
        mask[pairs.join(rows, columns)[:2]] = True
        return mask

    @staticmethod
    def _distinct(anchors: Tensor, candidates: Tensor, grades: Tensor, size: int) -> tuple[PairSet, Tensor]:
        """The distinct judgements with their grades, by anchor and candidate."""
        keys, order = stable_sort(anchors * size + candidates, size * size)
        grades = grades[order]
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        if bool((differing := ~first[1:] & (grades[1:] != grades[:-1])).any()):
            place = int(differing.nonzero()[0])
            anchor, candidate = divmod(int(keys[place]), size)
            raise DataError(
                f"items {anchor} and {candidate} are judged twice, as {float(grades[place]):g} and as "
                f"{float(grades[place + 1]):g} ({int(differing.sum())} such pairs): keep one judgement of "
                "each pair"
            )
        return PairSet(keys[first], size), grades[first]

    @staticmethod
    def _check(
        anchors: Tensor,
        candidates: Tensor,
        grades: Tensor,
        ignored: tuple[Tensor, Tensor] | None,
        size: int,
    ) -> None:
        if not anchors.shape == candidates.shape == grades.shape or anchors.dim() != 1:
            raise DataError(
                f"anchors {list(anchors.shape)}, candidates {list(candidates.shape)} and grades "
                f"{list(grades.shape)} must have one entry for each judgement"
            )
        named = [("anchors", anchors), ("candidates", candidates)]
        if ignored is not None:
            if ignored[0].shape != ignored[1].shape or ignored[0].dim() != 1:
                shapes = " and ".join(str(list(ids.shape)) for ids in ignored)
                raise DataError(f"ignored pairs must be two lists of equal length, not {shapes}")
            named.append(("ignored items", torch.cat([*ignored])))
        for name, ids in named:
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise DataError(
                    f"{name} must be ids within 0..{size - 1}, got {int(ids.min())}..{int(ids.max())}"
                )
        if not bool(grades.isfinite().all()):
            row = int((~grades.isfinite()).nonzero()[0])
            raise DataError(
                f"the grade of judgement {row} is {float(grades[row])}: grades must be finite numbers"
            )
