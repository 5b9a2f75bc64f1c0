"""What was mined through a run: the sampled anchors, scores and likely false negatives of each version."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_metric.batching.plan import Plan
from lit_metric.data import DataError
from lit_metric.index import Embeddings
from lit_metric.mining import NegativeTable, TableError, open_vectors
from lit_metric.mining.texts import text_of_items
from lit_metric.report.false_negatives import TEXTS_ONLY, Judge
from lit_metric.report.structure import MinedAnchor, MinedCandidate, MinedNegatives, MinedVersion
from lit_metric.store import SAMPLE


def mined_negatives(folder: Path, data: Any, spaces: Sequence[Embeddings] = ()) -> MinedNegatives | None:
    """What the versions of a run's table of negatives show.

    Args:
        folder: of the versions, ``RUN/negatives``. Samples stay there when old tables are removed.
        data: the run's DataModule, after it has read. If its texts are not those of the samples, there are
            no labels and no draws.
        spaces: trained vectors, and perhaps untrained ones, of the training items, or of some of them, under
            their global ids. Without any, likely false negatives are found by their texts alone.

    Returns:
        None if nothing was mined.

    Raises:
        DataError: if a sample is damaged.
    """
    samples = dict(_read(path) for path in sorted(folder.glob(f"v*/{SAMPLE}")))
    if not samples:
        return None
    known = _same_items(data, [*samples.values()])
    judge = Judge(data, *_sampled(samples), spaces) if known else None
    plans = _plans(data, folder, samples) if known else None
    versions, before = [], None
    for sample in samples.values():
        later = [each["use"]["batch"] for each in samples.values() if "use" in each]
        drawn = {} if plans is None else _drawn(data, folder, sample, plans, later)
        versions.append(_version(sample, before, drawn, judge, data))
        before = sample
    rule = TEXTS_ONLY if judge is None else judge.rule
    kept = [
        each
        for anchor in versions[-1].anchors
        for each in anchor.candidates
        if not each.fate.startswith("dropped")
    ]
    share = sum(each.false_negative for each in kept) / len(kept) if kept and judge is not None else None
    return MinedNegatives(versions, share, rule)


def _read(path: Path) -> tuple[int, dict[str, Any]]:
    """The number of a version, and its sample."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for anchor in content["anchors"]:
            _ = anchor["anchor"], anchor["positive"]["mean"]
            _ = [(each["id"], each["score"], each["verdict"]) for each in anchor["candidates"]]
        return int(content["version"]), content
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); remove it to see the other versions") from error


def _same_items(data: Any, samples: list[dict[str, Any]]) -> bool:
    """Whether ids of the samples name the items of ``data``, by their texts."""
    texts, highest = {}, -1
    for sample in samples:
        for anchor in sample["anchors"]:
            for entry, number in [(anchor, anchor["anchor"]), *((c, c["id"]) for c in anchor["candidates"])]:
                highest = max(highest, int(number))
                if "text" in entry:
                    texts[int(number)] = entry["text"]
    if highest >= len(data.items):
        return False
    ids = torch.tensor([*texts], dtype=torch.int64)
    return text_of_items(data.items, data.vocabulary, ids) == [*texts.values()]


def _sampled(samples: dict[int, dict[str, Any]]) -> tuple[set[int], set[int]]:
    """Ids of all sampled anchors, and of their kept candidates."""
    anchors = [anchor for sample in samples.values() for anchor in sample["anchors"]]
    kept = [each["id"] for anchor in anchors for each in anchor["candidates"] if each["verdict"] == "kept"]
    return {int(each["anchor"]) for each in anchors}, {int(each) for each in kept}


def _plans(
    data: Any, folder: Path, samples: dict[int, dict[str, Any]]
) -> Callable[[int, int], Plan | None] | None:
    """Gives the plan of an epoch by its number and that of its first batch; None if plans are not known."""
    if data.miner is None or not data.miner.negatives:
        return None
    made: dict[int, Plan | None] = {}

    def plan(epoch: int, first: int) -> Plan | None:
        if epoch not in made:
            given = {}
            made[epoch] = None
            if data.planner.uses_vectors:
                used = [(each["use"]["batch"], number) for number, each in samples.items() if "use" in each]
                version = max((use for use in used if use[0] <= first), default=(0, 0))[1]
                try:
                    given["vectors"] = open_vectors(folder, version)
                except TableError:  # removed since
                    return None
            made[epoch] = data.planner.plan(data.splits["train"], data.relations, data.seed, epoch, **given)
        return made[epoch]

    return plan


def _drawn(
    data: Any,
    folder: Path,
    sample: dict[str, Any],
    plans: Callable[[int, int], Plan | None],
    uses: list[int],
) -> dict[int, set[int]]:
    """By anchor, the candidates that it met in the first epoch's length of batches which used the version."""
    use = sample.get("use")
    drawn: dict[int, set[int]] = {}
    if use is None or use["seed"] != data.seed or not sample["anchors"]:
        return drawn
    try:
        table = NegativeTable.open(folder, sample["version"], verify=False)
    except TableError:  # removed since: the sample has the candidates
        table = _table_of(data, sample)
    anchors = torch.tensor([each["anchor"] for each in sample["anchors"]])
    first, length = int(use["batch"]), int(use["per_epoch"])
    end = min([first + length, *(each for each in uses if each > first)])
    for batch in range(first, end):
        epoch, step = divmod(batch, length)
        plan = plans(epoch, epoch * length)
        if plan is None:
            return {}
        met = plan.anchors[step]
        met = met[torch.isin(met, anchors)]
        relations = data.relations.labelled_only()
        found = table.draw(data.miner.draw, data.miner.negatives, met, relations, data.seed, epoch, step)
        for anchor, row in zip(met.tolist(), found.tolist(), strict=True):
            drawn.setdefault(anchor, set()).update(row)
    return drawn


def _table_of(data: Any, sample: dict[str, Any]) -> NegativeTable:
    """The rows of a removed table that its sample has."""
    entries = sorted(sample["anchors"], key=lambda each: int(each["anchor"]))
    kept = [[each for each in entry["candidates"] if each["verdict"] == "kept"] for entry in entries]
    width = max(1, *map(len, kept))
    ids = np.full((len(entries), width), -1, np.int32)
    scores = np.full((len(entries), width), -np.inf, np.float16)
    for row, own in enumerate(kept):
        own = sorted(own, key=lambda each: -each["score"])
        ids[row, : len(own)] = [each["id"] for each in own]
        scores[row, : len(own)] = [each["score"] for each in own]
    positives = [
        [_number(entry["positive"][name]) for name in ("best", "worst", "mean")] for entry in entries
    ]
    anchors = np.array([entry["anchor"] for entry in entries], np.int32)
    pool = data.splits["train"].sort().values.int().numpy()
    return NegativeTable(
        anchors, ids, scores, np.array(positives, np.float16), sample["similarity"], pool=pool
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _version(
    sample: dict[str, Any],
    before: dict[str, Any] | None,
    drawn: dict[int, set[int]],
    judge: Judge | None,
    data: Any,
) -> MinedVersion:
    """One version, from its sample and that of the version before."""
    report, use = sample.get("report", {}), sample.get("use")
    histogram = sample.get("histogram") or {"low": -1.0, "high": 1.0, "positives": [], "negatives": []}
    mined = sample.get("rows", 0) * (1 - report.get("unpaired", 0.0))
    dropped = {
        name.removeprefix("rejected/"): round(share * report["examined"] * mined)
        for name, share in report.items()
        if name.startswith("rejected/")
    }
    return MinedVersion(
        version=sample["version"],
        batch=None if use is None else use["batch"],
        staleness=None if use is None else float(use["batch"] - use["taken"]),
        stall_seconds=None if use is None else use["stall_seconds"],
        overlap=None if before is None else report.get("overlap", _overlap(sample, before)),
        dropped=dropped,
        low=histogram["low"],
        high=histogram["high"],
        positive_histogram=histogram["positives"],
        negative_histogram=histogram["negatives"],
        anchors=[_anchor(each, drawn, judge, data) for each in sample["anchors"]],
    )


def _overlap(sample: dict[str, Any], before: dict[str, Any]) -> float | None:
    """The share of kept candidates that the version before has, too, among the anchors that both sampled."""
    earlier, now = (
        {
            entry["anchor"]: {each["id"] for each in entry["candidates"] if each["verdict"] == "kept"}
            for entry in each["anchors"]
        }
        for each in (before, sample)
    )
    both = [anchor for anchor in now if anchor in earlier]
    total = sum(len(now[anchor]) for anchor in both)
    return sum(len(now[anchor] & earlier[anchor]) for anchor in both) / total if total else None


def _anchor(entry: dict[str, Any], drawn: dict[int, set[int]], judge: Judge | None, data: Any) -> MinedAnchor:
    anchor = int(entry["anchor"])

    def described(item: dict[str, Any], number: int) -> tuple[str, str]:
        if judge is None:
            return item.get("text", ""), ""
        text = item.get("text")
        if text is None:  # of a version that was never used
            text = text_of_items(data.items, data.vocabulary, torch.tensor([number]))[0]
        return text, ", ".join(judge.labels.names[label] for label in judge.labels[number])

    candidates = []
    for each in entry["candidates"]:
        number, verdict = int(each["id"]), each["verdict"]
        text, label = described(each, number)
        fate = f"dropped: {verdict}"
        reason = ""
        if verdict == "kept":
            fate = "drawn" if number in drawn.get(anchor, ()) else "kept"
            reason = "" if judge is None else judge.reason(anchor, number, text)
        candidates.append(MinedCandidate(text, label, each["score"], fate, bool(reason), reason))
    text, label = described(entry, anchor)
    positive = entry["positive"]
    return MinedAnchor(text, label, (positive["best"], positive["mean"], positive["worst"]), candidates)
