"""What a report holds: plain values, and arrays for what there are many of.

Pure functions gather what is shown of a run into a :class:`Report`; :mod:`lit_metric.report.page` writes it.
Items are named by their places ``0 .. N-1`` in :class:`Items`, classes by theirs among ``labels``. "Before"
is the untrained encoder, "after" the trained one; with two runs compared, they are the first and the second
run, and ``names`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass
class Interval:
    """A number, and 95% of what it would be for other queries; without values by query, bounds are None."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass
class MetricRow:
    """One metric before and after.

    Args:
        name: as in ``metrics.json``.
        before, after: of the measured split; equal to ``metrics.json``.
        change: after minus before, its interval by paired bootstrap over queries.
        queries: how many values by query there are; 0 if the metric has none.
        better: "higher", "lower", or "" where neither is better.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    queries: int
    better: str = "higher"


@dataclass
class Curve:
    """One logged value over optimizer steps."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass
class Part:
    """Where time went: "train", "validate", "mine", "wait for mining", "project", ..."""

    name: str
    seconds: float


@dataclass
class Run:
    """One run: what it was, and how it ended.

    Args:
        folder: as given.
        command: the exact command, "" if unknown.
        config: the text of config.yaml, "" if there is none.
        ended: as in metrics.json.
        seconds, steps, texts, texts_per_second: as in metrics.json; 0 if unknown.
        curves: of losses, validation, learning rate, mining and collapse.
        parts: of the time.
        warnings: such as that the untrained encoder can't be built again exactly.
    """

    folder: str
    command: str
    config: str
    ended: str
    seconds: float
    steps: int
    texts: int
    texts_per_second: float
    curves: list[Curve]
    parts: list[Part]
    warnings: list[str] = field(default_factory=list)


@dataclass
class SplitSummary:
    """One split.

    Args:
        name: "train", "validation", "test".
        items, classes: how many; classes 0 without labels.
        items_shown: of these, how many the report shows.
        class_sizes: of each class, largest first, at most 1,000.
        length_quantiles: tokens of items at 0, 5, 25, 50, 75, 95, 100%.
        cut: items that were cut at the encoder's length.
    """

    name: str
    items: int
    classes: int
    items_shown: int
    class_sizes: list[int]
    length_quantiles: list[float]
    cut: int


@dataclass
class Health:
    """The shape of the space before and after; None where it isn't known.

    Args:
        mean_cosine: of random pairs of items; near 1 if all lie in one direction.
        effective_dimensions: exp of the entropy of the spectrum of the covariance, ``1 .. D``.
        hubness: skewness of how often an item is among the 10 nearest of others.
        never_found: share of items that are among the 10 nearest of no other.
    """

    mean_cosine: tuple[float | None, float | None]
    effective_dimensions: tuple[float | None, float | None]
    hubness: tuple[float | None, float | None]
    never_found: tuple[float | None, float | None]


@dataclass
class Items:
    """The ``N`` items of the report.

    Args:
        texts: shown text of each; tags are joined by " | "; shortened to 10,000 characters.
        keys: ``file:row`` or the item's key, for exported lists.
        files, rows: where each was read, for lists that ``--data.exclude`` reads: ``files`` are distinct
            names, ``file`` ``[N]`` int32 places among them, -1 if unknown, ``row`` ``[N]`` int32 numbers.
        labels: distinct labels, sorted.
        label_offsets, label_ids: ``[N+1]`` and ``[L]`` int32, the labels of item i are
            ``label_ids[label_offsets[i]:label_offsets[i+1]]``.
        splits: distinct names of splits, ``split`` ``[N]`` int32 places among them.
        roles: distinct names of roles, ``role`` ``[N]`` int32 places among them ("" for one role).
        columns: other columns by name, each with ``N`` values (numbers or short strings), for colours.
        map_before, map_after: ``[N, 2]`` float32 in 0 .. 1; None if unknown.
        projection: what made them, in words, such as "PCA (pacmap is not installed)".
        neighbours_before, neighbours_after: ``[N, K]`` int32 places of the nearest items, itself left out, -1
            behind the last; rows of -1 for items without.
        scores_before, scores_after: ``[N, K]`` float32 cosines.
        correct_before, correct_after: ``[N]`` int32: 1 if the item's nearest searched item belongs together
            with it, 0 if not, -1 if not asked.
        together_before, together_after: ``[N, K]`` int8, whether each of the neighbours belongs together with
            the item: 1, 0, or -1 where that is unknown or there is no neighbour; None: judge by the labels.
    """

    texts: list[str]
    keys: list[str]
    files: list[str]
    file: Ints
    row: Ints
    labels: list[str]
    label_offsets: Ints
    label_ids: Ints
    splits: list[str]
    split: Ints
    roles: list[str]
    role: Ints
    columns: dict[str, list[Any]]
    map_before: Floats | None
    map_after: Floats | None
    projection: str
    neighbours_before: Ints | None
    neighbours_after: Ints | None
    scores_before: Floats | None
    scores_after: Floats | None
    correct_before: Ints
    correct_after: Ints
    together_before: NDArray[np.int8] | None = None
    together_after: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class TypedQuery:
    """A text that was asked for with ``--query``, and its neighbours.

    Args:
        text: that was asked for.
        before, after: places of items, nearest first.
        scores_before, scores_after: their cosines.
    """

    text: str
    before: list[int]
    after: list[int]
    scores_before: list[float]
    scores_after: list[float]


@dataclass
class Confusion:
    """Two classes that take each other's neighbours.

    Args:
        first, second: places of the labels; items of ``first`` have ``second`` among their nearest.
        count, rate: how many items of ``first`` have an item of ``second`` as their nearest, and the share of
            all.
        before_count: the same before.
        examples: pairs of places of items, at most 5.
    """

    first: int
    second: int
    count: int
    rate: float
    before_count: int
    examples: list[tuple[int, int]]


@dataclass
class ClassRow:
    """One class among the measured items, by the label of each item's nearest neighbour.

    Args:
        label: its place.
        size: items of the class among those measured.
        train_size: items of the class in training, 0 if unknown.
        precision, recall: after; precision_before, recall_before: before. None if undefined.
        spread: mean cosine distance of its items from their mean direction, after.
        nearest: place of the class whose mean direction is nearest, -1 if there is none, and its cosine.
    """

    label: int
    size: int
    train_size: int
    precision: float | None
    recall: float | None
    precision_before: float | None
    recall_before: float | None
    spread: float | None
    nearest: int
    nearest_cosine: float | None


@dataclass
class MinedCandidate:
    """A candidate of a sampled anchor in one version of the table of negatives.

    Args:
        text: of the candidate.
        score: its similarity to the anchor.
        fate: "kept", "drawn", or "dropped: FILTER".
        false_negative: whether the rule of :class:`MinedNegatives` finds it likely to belong together.
        reason: by which part of the rule, "" if not.
    """

    text: str
    label: str
    score: float
    fate: str
    false_negative: bool
    reason: str


@dataclass
class MinedAnchor:
    """A sampled anchor in one version: its text, its positives' scores (best, mean, worst) and candidates."""

    text: str
    label: str
    positives: tuple[float | None, float | None, float | None]
    candidates: list[MinedCandidate]


@dataclass
class MinedVersion:
    """One version of the table of mined negatives.

    Args:
        version: its number.
        batch: the batch from which it was used; None if unknown.
        staleness: batches between its weights and their first use; None if unknown.
        stall_seconds: how long training waited for it; None if unknown.
        overlap: share of candidates that the version before has, too; None of the first.
        dropped: by filter, how many candidates.
        positive_histogram, negative_histogram: counts in equal bins between ``low`` and ``high``.
        anchors: the sampled ones.
    """

    version: int
    batch: int | None
    staleness: float | None
    stall_seconds: float | None
    overlap: float | None
    dropped: dict[str, int]
    low: float
    high: float
    positive_histogram: list[int]
    negative_histogram: list[int]
    anchors: list[MinedAnchor]


@dataclass
class MinedNegatives:
    """All versions, with the share of likely false negatives among kept candidates and the rule in words."""

    versions: list[MinedVersion]
    false_negative_share: float | None
    rule: str


@dataclass
class Attention:
    """What one item's pooling looks at.

    Args:
        item: its place.
        kind: "tags" or "tokens".
        parts: the tags, or the tokens, in order.
        before, after: by head, the weight of each part (sums to 1); before is None if unknown.
    """

    item: int
    kind: str
    parts: list[str]
    before: list[list[float]] | None
    after: list[list[float]]


@dataclass
class ProblemList:
    """Rows that a person should look at.

    Args:
        name: "suspected labels", "contradictions", "near duplicates", "leaks", "odd texts".
        explanation: what the list is and how sure it is, in a sentence.
        rows: of ``columns``, plain values; the first columns are file and row, in the form of --data.exclude.
        columns: names.
        items: place of the item of each row, -1 if it isn't among the items of the report.
        total: how many there are, if more than ``rows``.
        export: name of the file that the page offers, such as "suspects.csv".
        certain: how many of ``total`` are beyond much doubt; None if that can't be said, or isn't worth it.
        certain_means: in a word, such as "equal".
    """

    name: str
    explanation: str
    columns: list[str]
    rows: list[list[Any]]
    items: list[int]
    total: int
    export: str
    certain: int | None = None
    certain_means: str = ""


@dataclass
class Advice:
    """What to do next: one sentence, the figures that say so, and the option to change."""

    what: str
    evidence: str
    option: str


@dataclass
class Flip:
    """An item whose nearest neighbour is right in one run and wrong in the other."""

    item: int
    first_right: bool
    second_right: bool


@dataclass
class Comparison:
    """Two runs on the same items.

    Args:
        first, second: names of the runs.
        flips: items, most surprising first.
        gained, lost: how many became right, and wrong.
        p_value: of McNemar's exact test on ``gained`` and ``lost``.
    """

    first: str
    second: str
    flips: list[Flip]
    gained: int
    lost: int
    p_value: float


@dataclass
class Report:
    """All of it; a part that doesn't apply is None or empty, and ``missing`` says why, in a sentence.

    Args:
        title: name of the run.
        version: of lit-metric.
        made: ISO 8601 time.
        names: what "before" and "after" are called, such as ("untrained", "trained").
        measured_split: "test", "validation" or "".
        kind: "labels", "several labels", "pairs", "judgements", "scores", "triples", "triplets", or "several
            data sets".
        missing: by part: "metrics", "curves", "health", "splits", "map", "neighbours", "confusions",
            "classes", "negatives", "attention", "problems", "advice".
        seconds_to_write: of parts of writing the report, such as {"project": 12.5}.
        precision: of the matrix products behind the vectors, such as "float32"; "" if unknown.
    """

    title: str
    version: str
    made: str
    names: tuple[str, str]
    measured_split: str
    kind: str
    run: Run
    splits: list[SplitSummary]
    metrics: list[MetricRow]
    health: Health | None
    items: Items
    queries: list[TypedQuery]
    confusions: list[Confusion]
    classes: list[ClassRow]
    negatives: MinedNegatives | None
    attention: list[Attention]
    problems: list[ProblemList]
    advice: list[Advice]
    comparison: Comparison | None
    missing: dict[str, str] = field(default_factory=dict)
    seconds_to_write: dict[str, float] = field(default_factory=dict)
    precision: str = ""
