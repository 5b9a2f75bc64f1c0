"""A report that no run made: every part is there, and every number follows from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from lit_metric.report.structure import (
    Advice,
    Attention,
    ClassRow,
    Comparison,
    Confusion,
    Curve,
    Flip,
    Floats,
    Health,
    Interval,
    Ints,
    Items,
    MetricRow,
    MinedAnchor,
    MinedCandidate,
    MinedNegatives,
    MinedVersion,
    Part,
    ProblemList,
    Report,
    Run,
    SplitSummary,
    TypedQuery,
)

HOSTILE = [
    "</script><img src=x onerror=\"window.pwned='text'\">",
    "<script>window.pwned = 'script'</script>",
    "<!--<script>",
    "]]>&lt;b&gt;&amp;<b>bold</b>",
    "\u202egnihtemos\u202c שלום עולم",
    "long " * 1999 + "long!",
    "👩\u200d👩\u200d👧 🏳️\u200d🌈 \U0001f600",
    "bell\x07 null\x00 escape\x1b[31m vertical\x0b",
    '=HYPERLINK("http://example.org","here")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\tbegins with a tab",
    "\rbegins with a return",
    'quote " comma , line\nbreak',
    "line\u2028and\u2029paragraph",
    "lone \ud800 surrogate",
    "javascript:window.pwned='link'",
    "${window.pwned='template'} {{7*7}}",
    "",
]
"""Texts that must do nothing but be shown."""

SHOWN_NEIGHBOURS = 10
WORDS = [
    *("card", "cash", "transfer", "fee", "limit", "late", "pending", "refund", "top-up"),
    *("exchange", "rate", "pin", "lost", "stolen", "abroad"),
]


def made_report(
    items: int = 300, classes: int = 8, hostile: bool = False, seed: int = 0, compared: bool = False
) -> Report:
    """A whole report of made numbers.

    Args:
        items: at least 40.
        classes: labels ``class 0`` and so on; every seventh item has two of them.
        hostile: texts, labels, columns, tags and cells that try to break out of the page.
        seed: the same seed makes the same report.
        compared: two runs instead of one before and after training.
    """
    draw = np.random.default_rng(seed)
    made = made_items(items, classes, hostile, draw)
    return Report(
        title="made-run " + HOSTILE[0] if hostile else "made-run",
        version="0.0.0",
        made="2026-01-02T03:04:05+00:00",
        names=("first", "second") if compared else ("untrained", "trained"),
        measured_split="test",
        kind="several labels",
        run=_run(hostile),
        splits=_splits(items, classes),
        metrics=_metrics(),
        health=Health((0.6123, 0.1345), (12.5, 88.25), (2.125, 1.0625), (0.1875, 0.0625)),
        items=made,
        queries=[_query("where is my card?", made), _query(HOSTILE[0] if hostile else "lost pin", made)],
        confusions=_confusions(classes, made),
        classes=[
            ClassRow(
                label=label,
                size=items // classes + label,
                train_size=10 * label,
                precision=None if label == 1 else 0.5 + 0.5 / (label + 2),
                recall=1 / (label + 1.5),
                precision_before=0.5,
                recall_before=None,
                spread=0.0625 * label,
                nearest=(label + 1) % classes if classes > 1 else -1,
                nearest_cosine=0.75 - label / 100,
            )
            for label in range(classes)
        ],
        negatives=_negatives(hostile),
        attention=_attention(hostile),
        problems=_problems(made, hostile),
        advice=[
            Advice(
                "Look at the suspected labels before you train again.",
                "5 of 100 test items have a label that their neighbours contradict.",
                "--data.exclude exclude.csv",
            ),
            Advice(
                "Train longer." if not hostile else HOSTILE[0],
                "map@r still rose by 0.012 in the last epoch.",
                "--trainer.max_epochs 6",
            ),
        ],
        comparison=_comparison(items) if compared else None,
        seconds_to_write={"encode": 3.5, "project": 12.5},
        precision="bfloat16",
    )


def made_items(items: int, classes: int, hostile: bool, draw: np.random.Generator) -> Items:
    """Items around one centre for each class."""
    label = draw.integers(0, classes, items).astype(np.int32)
    second = np.flatnonzero(np.arange(items) % 7 == 6)
    counts = np.ones(items, np.int32)
    counts[second] += classes > 1
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    ids = np.repeat(label, counts)
    ids[offsets[1:][counts == 2] - 1] = (label[counts == 2] + 1) % classes
    words = draw.integers(0, len(WORDS), (items, 9))
    texts = [f"question {i}: {' '.join(WORDS[w] for w in row)}" for i, row in enumerate(words.tolist())]
    labels = [f"class {i}" for i in range(classes)]
    columns: dict[str, list[Any]] = {
        "length": [len(text) for text in texts],
        "channel": [("app", "phone", "branch")[i % 3] for i in range(items)],
        "age": [None if i % 11 == 0 else 18 + i % 60 + 0.5 for i in range(items)],
    }
    if hostile:
        texts[: len(HOSTILE)] = HOSTILE
        labels[: len(HOSTILE)] = HOSTILE[:classes]
        columns[HOSTILE[0]] = [HOSTILE[i % len(HOSTILE)][:40] for i in range(items)]
    centres = draw.random((classes, 2)) * 0.7 + 0.15
    near_before, near_after = (_near(label, share, draw) for share in (0.4, 0.85))
    score = np.sort(draw.random((2, items, SHOWN_NEIGHBOURS)), axis=2)[:, :, ::-1]
    score_before, score_after = np.ascontiguousarray(score, dtype=np.float32)
    split = np.where(np.arange(items) % 3 == 0, 1, 0).astype(np.int32)
    correct_before, correct_after = (
        np.where(split == 1, label[near[:, 0]] == label, -1).astype(np.int32)
        for near in (near_before, near_after)
    )
    return Items(
        texts=texts,
        keys=[f"data/{('train', 'test')[s]}.csv:{i + 1}" for i, s in enumerate(split)],
        files=["data/train.csv", "data/test.csv"],
        file=split.copy(),
        row=np.arange(1, items + 1, dtype=np.int32),
        labels=labels,
        label_offsets=offsets,
        label_ids=ids.astype(np.int32),
        splits=["train", "test"],
        split=split,
        roles=[""],
        role=np.zeros(items, np.int32),
        columns=columns,
        map_before=_places(centres, label, 0.12, draw),
        map_after=_places(centres, label, 0.03, draw),
        projection="PCA (pacmap is not installed)",
        neighbours_before=near_before,
        neighbours_after=near_after,
        scores_before=score_before,
        scores_after=score_after,
        correct_before=correct_before,
        correct_after=correct_after,
    )


def _near(label: Ints, same: float, draw: np.random.Generator) -> Ints:
    """Other items for each, a share of them of the same class; the last of every 13th item is missing."""
    items = len(label)
    order = np.argsort(label, kind="stable")
    place = np.empty(items, np.int64)
    place[order] = np.arange(items)
    step = draw.integers(1, 6, (items, SHOWN_NEIGHBOURS)).cumsum(axis=1)
    close = order[(place[:, None] + step) % items]
    far = (np.arange(items)[:, None] + draw.integers(1, items, (items, SHOWN_NEIGHBOURS))) % items
    near = np.where(draw.random((items, SHOWN_NEIGHBOURS)) < same, close, far).astype(np.int32)
    near[near == np.arange(items)[:, None]] -= 1
    near[near < 0] = items - 1
    near[::13, -1] = -1
    return near


def _places(centres: np.ndarray, label: Ints, spread: float, draw: np.random.Generator) -> Floats:
    """Places on a map, in 0 .. 1."""
    noise = draw.normal(0, spread, (len(label), 2))
    return np.clip(centres[label] + noise, 0, 1).astype(np.float32)


def _run(hostile: bool) -> Run:
    steps = list(range(0, 200, 5))
    return Run(
        folder="runs/made",
        command="lit-metric fit --data.train data/train.csv --seed_everything 0",
        config="seed_everything: 0\nmodel:\n  lr: 2e-05\n" + ("# </script><b>\n" if hostile else ""),
        ended="finished",
        seconds=754.0,
        steps=200,
        texts=12800,
        texts_per_second=16.98,
        curves=[
            Curve("train/loss", steps, [2.5 / (1 + step / 40) for step in steps]),
            Curve("validation/map@r", [0, 50, 100, 150, 200], [0.41, 0.52, 0.58, 0.61, 0.62]),
            Curve("lr", steps, [2e-5 * (1 - step / 200) for step in steps]),
            Curve("mining/positive_score", [50, 100], [0.75, 0.81]),
        ],
        parts=[
            Part("train", 600.0),
            Part("validate", 54.0),
            Part("mine", 90.0),
            Part("wait for mining", 10.0),
        ],
        warnings=[
            "The untrained encoder was built again; its seed is not known." if not hostile else HOSTILE[1]
        ],
    )


def _splits(items: int, classes: int) -> list[SplitSummary]:
    sizes = sorted((items // classes + label for label in range(classes)), reverse=True)
    lengths = [3.0, 5.0, 8.0, 11.0, 16.0, 31.0, 64.0]
    return [
        SplitSummary("train", 2 * items, classes, items - items // 3, sizes, lengths, 4),
        SplitSummary("test", items // 3, classes, items // 3, [size // 2 for size in sizes], lengths, 0),
    ]


def _metrics() -> list[MetricRow]:
    return [
        MetricRow(
            "map@r",
            Interval(0.412345, 0.40, 0.425),
            Interval(0.6239876, 0.61, 0.638),
            Interval(0.2116426, 0.195, 0.229),
            100,
        ),
        MetricRow(
            "recall@1",
            Interval(0.81, 0.78, 0.84),
            Interval(0.82, 0.79, 0.85),
            Interval(0.01, -0.02, 0.04),
            100,
        ),
        MetricRow("mean_rank", Interval(7.5), Interval(4.25), Interval(-3.25), 0, "lower"),
        MetricRow("mean_cosine", Interval(0.6), Interval(None), Interval(None), 0, ""),
    ]


def _query(text: str, items: Items) -> TypedQuery:
    return TypedQuery(text, [1, 2, 3], [3, 1, 30], [0.8125, 0.75, 0.5], [0.9375, 0.875, 0.625])


def _confusions(classes: int, items: Items) -> list[Confusion]:
    return [
        Confusion(
            first,
            (first + 1) % classes,
            count=20 - 2 * first,
            rate=(first + 1) / 16,
            before_count=25,
            examples=[(first, first + 20), (first + 1, first + 21)],
        )
        for first in range(min(classes - 1, 9))
    ]


def _negatives(hostile: bool) -> MinedNegatives:
    bad = HOSTILE[0]
    versions = []
    for version in (1, 2, 3):
        anchors = [
            MinedAnchor(
                text=bad if hostile else f"anchor {anchor}",
                label="class 0" if not hostile else bad,
                positives=(0.9, 0.8, 0.7) if anchor else (None, None, None),
                candidates=[
                    MinedCandidate(
                        text=bad if hostile else f"candidate {rank} of version {version}",
                        label=f"class {rank + 1}",
                        score=0.95 - rank / 20 - version / 100,
                        fate=("dropped: RelativeMargin", "drawn", "kept", "kept")[rank],
                        false_negative=rank == 1,
                        reason="scores above the mean positive" if rank == 1 else "",
                    )
                    for rank in range(4)
                ],
            )
            for anchor in range(3)
        ]
        versions.append(
            MinedVersion(
                version=version,
                batch=None if version == 1 else 50 * version,
                staleness=None if version == 1 else 12.0,
                stall_seconds=0.5 * version,
                overlap=None if version == 1 else 0.25 * version,
                dropped={"RelativeMargin": 10 * version, bad if hostile else "SameText": 2},
                low=0.0,
                high=1.0,
                positive_histogram=[0, 0, 1, 4, 9, 20 + version],
                negative_histogram=[8 + version, 12, 6, 3, 1, 0],
                anchors=anchors,
            )
        )
    return MinedNegatives(versions, 0.125, "A kept candidate that scores above the anchor's mean positive.")


def _attention(hostile: bool) -> list[Attention]:
    tags = [HOSTILE[0] if hostile else "role::program", "use::viewing", "works-with::image"]
    return [
        Attention(
            0, "tags", tags, [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]], [[0.75, 0.125, 0.125], [0.0, 1.0, 0.0]]
        ),
        Attention(
            1, "tokens", ["[CLS]", "where", "is", "it", "[SEP]"], None, [[0.0, 0.5, 0.125, 0.25, 0.125]]
        ),
    ]


def _problems(items: Items, hostile: bool) -> list[ProblemList]:
    suspects = [
        [
            items.files[items.file[i]],
            int(items.row[i]),
            items.splits[items.split[i]],
            items.labels[0],
            items.labels[1],
            0.5 + i / 64,
            items.texts[-1],
            items.texts[i],
        ]
        for i in range(20)
    ]
    columns = ["file", "row", "of_split", "given_label", "suggested_label", "suspicion"]
    columns += ["nearest_of_suggested", "shown_text"]
    twins = [
        [
            "data/train.csv",
            i + 1,
            "train",
            items.labels[0],
            items.texts[(i + 1) % len(items)],
            items.labels[1],
            i + 2,
            i < 30,
        ]
        for i in range(120)
    ]
    return [
        ProblemList(
            "suspected labels",
            "Items whose neighbours have another label; about 8 of 10 are wrong.",
            columns,
            suspects,
            list(range(20)),
            20,
            "suspects.csv",
        ),
        ProblemList(
            "near duplicates",
            "Pairs of items whose texts are nearly equal.",
            [
                "file",
                "row",
                "of_split",
                "given_label",
                "other_text",
                "other_label",
                "other_row",
                "equal_texts",
            ],
            twins,
            [-1] * 120,
            500,
            "duplicates.csv",
            30,
            "equal",
        ),
        ProblemList(
            "leaks", "Test items that training has, too.", ["file", "row", "text"], [], [], 0, "leaks.csv"
        ),
    ]


def _comparison(items: int) -> Comparison:
    flips = [Flip(3, False, True), Flip(6, True, False), Flip(9, False, True)]
    return Comparison("run-a", "run-b", flips, gained=12, lost=5, p_value=0.1435)
