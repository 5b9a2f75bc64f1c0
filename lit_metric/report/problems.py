"""Rows of the data that a person should look at: suspected labels, duplicates, leaks, odd texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_metric.neighbours.duplicates import common_items, duplicate_groups, normalized
from lit_metric.report.odd_texts import oddities
from lit_metric.report.structure import Items, ProblemList
from lit_metric.report.suspects import judged_labels

MOST = 2000
"""Rows of a list at most."""
STRONG = 2.0
"""Logarithm of odds from which a label is strongly suspected; see docs/decisions.md."""
SHOWN = 300
"""Characters of a text in a list."""
OF_LABELS = ("given_label", "other_label")
"""Columns that lists of items without labels don't have."""
CROWDED = 0.001
"""A larger share of pairs above the threshold says that this encoder's cosines can't tell duplicates."""
_SAMPLED = 2048

Suspect = tuple[float, int, str, str, str]
"""Logarithm of the odds as it is shown, place of the item, its label, another one, and its nearest text."""


def problems_of(
    items: Items,
    before: Tensor | None,
    after: Tensor | None,
    cut: NDArray[np.bool_] | None = None,
    sets: bool = False,
    threshold: float = 0.98,
    parts: NDArray[np.int64] | None = None,
) -> list[ProblemList]:
    """Lists of rows that may be wrong; a list without rows is left out.

    The columns of each list begin with ``file`` and ``row``, so that ``--data.exclude`` reads it. It compares
    columns that a list shares with a file, so the others have names that no file should have. Items whose
    place is unknown are left out, unless no place is known; then ``export`` is "".

    Args:
        items: of the report.
        before: ``[N, d]`` untrained vectors, by which near duplicates are found; None: only equal texts are.
            Training makes items of a class similar, so trained vectors can't tell.
        after: ``[N, d]`` trained vectors. Labels are judged by both.
        cut: ``[N]``, the items that were cut at the encoder's length.
        sets: whether the texts are tags, joined by " | ".
        threshold: least cosine of near duplicates, in (0, 1].
        parts: ``[N]``, the data set of each item in a mixture, whose labels are judged, and whose duplicates
            are searched, apart; None: there is one.
    """
    parts = np.zeros(len(items), np.int64) if parts is None else parts
    placed = bool((items.file >= 0).any())
    usable = (items.file >= 0) | (not placed)
    contents = [text.split(" | ") if sets else text for text in items.texts]
    suspects, apart = _suspects(items, before, after, contents, usable, parts)
    doubts = {place: odds for odds, place, *_ in suspects}
    found = [
        _label_errors(items, suspects, _judges(before, after, apart)),
        *_duplicates(items, before, contents, usable, threshold, parts, doubts),
        _leaks(items, before, contents, usable, threshold),
        _odd(items, cut, usable),
    ]
    lists = [each for each in found if each is not None]
    if not placed:
        for each in lists:
            each.export = ""
    return lists


def _list(
    items: Items,
    name: str,
    explanation: str,
    export: str,
    places: Sequence[int],
    columns: dict[str, list[Any]],
    certain: int | None = None,
    certain_means: str = "",
) -> ProblemList | None:
    """A list with the place of each item in front and its text at the end; None if it is empty."""
    if not places:
        return None
    shown = list(places[:MOST])
    if not items.labels:
        columns = {column: given for column, given in columns.items() if column not in OF_LABELS}
    known = [int(items.file[place]) for place in shown]
    values: dict[str, list[Any]] = {
        "file": [items.files[file] if file >= 0 else "" for file in known],
        "row": [int(items.row[place]) if file >= 0 else "" for file, place in zip(known, shown, strict=True)],
        "of_split": [items.splits[items.split[place]] for place in shown],
        **{column: given[:MOST] for column, given in columns.items()},
        "shown_text": [_shown(items, place) for place in shown],
    }
    rows = [list(row) for row in zip(*values.values(), strict=True)]
    return ProblemList(name, explanation, [*values], rows, shown, len(places), export, certain, certain_means)


def _shown(items: Items, place: int) -> str:
    """The text of an item, with a mark where it is cut."""
    text = items.texts[place]
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _labels(items: Items, place: int) -> list[str]:
    own = items.label_ids[items.label_offsets[place] : items.label_offsets[place + 1]]
    return [items.labels[label] for label in own.tolist()]


def _suspects(
    items: Items,
    before: Tensor | None,
    after: Tensor | None,
    contents: list[Any],
    usable: NDArray[np.bool_],
    parts: NDArray[np.int64],
) -> tuple[list[Suspect], bool]:
    """Items with one label each that the others of their data set speak against, the most suspicious first;
    and whether training items were judged by untrained vectors alone."""
    suspects: list[Suspect] = []
    apart = False
    if before is None and after is None:
        return suspects, apart
    trained, untrained = (None if each is None else each.float().cpu().numpy() for each in (after, before))
    lengths = np.diff(items.label_offsets)
    finite = np.ones(len(items), bool)
    for space in (trained, untrained):
        if space is not None:
            finite &= np.isfinite(space).all(axis=1)
    seen = np.array([name.rpartition("/")[2] == "train" for name in items.splits])[items.split]
    for part in np.unique(parts).tolist():
        places = np.flatnonzero((parts == part) & finite & (lengths == 1))
        labels = [_labels(items, place)[0] for place in places.tolist()]
        if (lengths[parts == part] > 1).any() or len({*labels}) < 2:
            continue
        texts = [normalized(contents[place]) for place in places.tolist()]
        found, alone = judged_labels(
            None if trained is None else trained[places],
            None if untrained is None else untrained[places],
            labels,
            texts,
            seen[places],
        )
        apart |= alone
        for each in found.suspects.tolist():
            if usable[places[each]]:
                near = [other for other in found.neighbours[each].tolist() if other >= 0]
                named = [other for other in near if labels[other] == found.suggested[each]]
                best = (named or near)[:1]
                nearest = _shown(items, int(places[best[0]])) if best else ""
                odds, suggested = round(float(found.score[each]), 2), str(found.suggested[each])
                suspects.append((odds, int(places[each]), labels[each], suggested, nearest))
    return sorted(suspects, key=lambda each: -each[0]), apart


def _label_errors(items: Items, suspects: list[Suspect], judges: str) -> ProblemList | None:
    """The list of suspects; ``judges`` says which vectors judged them."""
    strong = sum(each[0] >= STRONG for each in suspects)
    return _list(
        items,
        "suspected labels",
        "Labels that are probably wrong, the most suspicious first: the nearest items with other texts and a "
        f"linear classifier, both without the item itself, say another label. {judges}"
        "The suspicion is the natural logarithm of the odds that the given label is wrong: at 0 it is as "
        "likely wrong as right, at 2 the probability is 0.88. "
        f"{strong} have {STRONG:g} or more{_by_split(items, suspects)}. Expect right ones where two classes "
        "overlap, and wrong ones that are not listed.",
        "suspects.csv",
        [place for _, place, *_ in suspects],
        {
            "given_label": [given for _, _, given, _, _ in suspects],
            "suggested_label": [suggested for _, _, _, suggested, _ in suspects],
            "suspicion": [odds for odds, *_ in suspects],
            "nearest_of_suggested": [nearest for *_, nearest in suspects],
        },
        strong,
        "strong",
    )


def _judges(before: Tensor | None, after: Tensor | None, apart: bool) -> str:
    """Which vectors judge the labels."""
    if before is None or after is None:
        return ""
    if not apart:
        return "Vectors from before and after training are used. "
    return (
        "Vectors from before and after training are used. Training items are judged by those from before "
        "alone, because a model that was trained on a wrong label agrees with it. "
    )


def _by_split(items: Items, suspects: list[Suspect]) -> str:
    """Where the strong suspects are, such as " (3 of 90 in train, 1 of 10 in test)"; nothing of one split."""
    strong = [items.split[place] for odds, place, *_ in suspects if odds >= STRONG]
    if len(items.splits) < 2 or not strong:
        return ""
    counts = (
        (strong.count(number), int((items.split == number).sum()), name)
        for number, name in enumerate(items.splits)
    )
    return f" ({', '.join(f'{found} of {total} in {name}' for found, total, name in counts if found)})"


def _telling(vectors: Tensor | None, threshold: float) -> NDArray[np.float32] | None:
    """The vectors, if their cosines can tell duplicates, else None."""
    if vectors is None or not bool(vectors.isfinite().all()):
        return None
    drawn = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLED]
    unit = F.normalize(vectors[torch.from_numpy(drawn)].float().cpu(), dim=1)
    pairs = len(unit) * (len(unit) - 1)
    crowded = int((unit @ unit.T >= threshold).fill_diagonal_(False).sum()) > max(
        2 * len(unit), CROWDED * pairs
    )
    return None if crowded else vectors.float().cpu().numpy()


def _found_by(vectors: NDArray[np.float32] | None, threshold: float, equal: int, total: int) -> str:
    how = "equal but for case, blanks, Unicode form and punctuation at the end"
    if vectors is None:
        return f"Texts are {how}. Near ones were not searched: no untrained vectors can tell them."
    return (
        f"{equal} of {total} are {how}; the others are only alike (a cosine of their untrained vectors of "
        f"{threshold:g} or more) and may ask for different things."
    )


def _duplicates(
    items: Items,
    before: Tensor | None,
    contents: list[Any],
    usable: NDArray[np.bool_],
    threshold: float,
    parts: NDArray[np.int64],
    doubts: Mapping[int, float],
) -> list[ProblemList | None]:
    """Items of one split, role and data set that are alike. Of groups whose labels differ, those without the
    label that most have and nothing speaks against, or all if there is none; of other groups, all but the
    first."""
    vectors = _telling(before, threshold)
    copies: list[tuple[int, int]] = []
    differing: list[tuple[int, int]] = []
    groups = np.stack([items.split, items.role, parts], axis=1)
    for group_of in np.unique(groups, axis=0):
        own = np.flatnonzero((groups == group_of).all(axis=1) & usable)
        given = None if vectors is None else vectors[own]
        for group in duplicate_groups([contents[place] for place in own.tolist()], given, threshold):
            members = own[group].tolist()
            labels = {place: _labels(items, place) for place in members}
            first = members[0]
            if all(labels[place] == labels[first] for place in members):
                copies += [(place, first) for place in members[1:]]
                continue
            votes = [labels[place] for place in members if place not in doubts]
            right = next((each for each in votes if 2 * votes.count(each) > len(members)), None)
            likely = sorted(members, key=lambda place: doubts.get(place, 0.0))
            for place in members:
                own_labels = labels[place]
                if own_labels != right:
                    differing.append((place, next(each for each in likely if labels[each] != own_labels)))
    return [
        _alike(
            items,
            "contradictions",
            "Items that are alike, in one split, and have different labels. Where most of a group have one "
            "label, only the others are listed; else all of them: decide which label is right.",
            "contradictions.csv",
            differing,
            contents,
            vectors,
            threshold,
            doubts,
        ),
        _alike(
            items,
            "near duplicates",
            f"Items that repeat another of their split{' and label' if items.labels else ''}. The first of "
            "each group isn't listed, so it stays in the data.",
            "duplicates.csv",
            copies,
            contents,
            vectors,
            threshold,
        ),
    ]


def _alike(
    items: Items,
    name: str,
    what: str,
    export: str,
    pairs: list[tuple[int, int]],
    contents: list[Any],
    vectors: NDArray[np.float32] | None,
    threshold: float,
    doubts: Mapping[int, float] | None = None,
) -> ProblemList | None:
    """A list of items and what each is like, equal ones first, then by suspicion."""
    equal = {place for place, other in pairs if normalized(contents[place]) == normalized(contents[other])}
    known = doubts or {}
    pairs = sorted(pairs, key=lambda pair: (pair[0] not in equal, -known.get(pair[0], 0.0)))
    places = [place for place, _ in pairs]
    columns = _beside(items, places, [other for _, other in pairs], equal)
    if doubts is not None:
        columns["suspicion"] = [doubts.get(place) or None for place in places]
    found = _found_by(vectors, threshold, len(equal), len(pairs))
    return _list(items, name, f"{what} {found}", export, places, columns, len(equal) or None, "equal")


def _beside(
    items: Items, places: list[int], others: list[int], equal: set[int], splits: bool = False
) -> dict[str, list[Any]]:
    """Columns of items and of the other item that each is like; ``splits``: which may be of another split."""
    columns: dict[str, list[Any]] = {
        "given_label": [" | ".join(_labels(items, place)) for place in places],
        "other_text": [_shown(items, other) for other in others],
        "other_label": [" | ".join(_labels(items, other)) for other in others],
    }
    if splits:
        columns["other_split"] = [items.splits[items.split[other]] for other in others]
    columns["other_row"] = [int(items.row[other]) for other in others]
    columns["equal_texts"] = [place in equal for place in places]
    return columns


def _leaks(
    items: Items, before: Tensor | None, contents: list[Any], usable: NDArray[np.bool_], threshold: float
) -> ProblemList | None:
    """Training items that another split has, too."""
    if "train" not in items.splits:
        return None
    vectors = _telling(before, threshold)
    train = items.splits.index("train")
    best: dict[int, tuple[float, int]] = {}
    equal: set[int] = set()
    for role in np.unique(items.role).tolist():
        ours = np.flatnonzero((items.split == train) & (items.role == role) & usable)
        others = np.flatnonzero((items.split != train) & (items.role == role))
        others = np.array([each for each in others if items.splits[items.split[each]] != "corpus"], np.int64)
        both = None if vectors is None else (vectors[ours], vectors[others])
        if not len(ours) or not len(others):
            continue
        one_side, other_side = ([contents[place] for place in side.tolist()] for side in (ours, others))
        for one, two, cosine in common_items(one_side, other_side, both, threshold):
            known = 1.0 if cosine != cosine else cosine
            if normalized(one_side[one]) == normalized(other_side[two]):
                equal.add(int(ours[one]))
                known = 2.0  # before all that are only alike
            best[int(ours[one])] = max(best.get(int(ours[one]), (-1.0, -1)), (known, int(others[two])))
    places = sorted(best, key=lambda place: -best[place][0])
    leaked = [best[place][1] for place in places]
    return _list(
        items,
        "leaks",
        "Training items that a measured split has, too, the most alike first. Equal ones make its results "
        f"too high. {_found_by(vectors, threshold, len(equal), len(places))} Left out of the data, they no "
        "longer leak.",
        "leaks.csv",
        places,
        {
            **_beside(items, places, leaked, equal, splits=True),
            "cosine": [round(min(best[place][0], 1.0), 4) for place in places],
        },
        len(equal) or None,
        "equal",
    )


def _odd(items: Items, cut: NDArray[np.bool_] | None, usable: NDArray[np.bool_]) -> ProblemList | None:
    """Items whose text looks wrong by itself."""
    reasons = {place: why for place, why in oddities(items.texts, cut).items() if usable[place]}
    # What is only cut, or only long, comes last.
    mild = ({"cut at the encoder's length"}, {"very long"}, {"cut at the encoder's length", "very long"})
    places = sorted(reasons, key=lambda place: ({*reasons[place]} in mild, place))
    return _list(
        items,
        "odd texts",
        "Texts that are empty, very short or long among these (beyond three interquartile ranges of the "
        "logarithm of their length), of other letters than 99% of the rest, with control characters, or cut.",
        "odd.csv",
        places,
        {
            "what_is_odd": ["; ".join(reasons[place]) for place in places],
            "given_label": [" | ".join(_labels(items, place)) for place in places],
        },
    )
