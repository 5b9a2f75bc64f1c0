"""A few anchors with what became of each of their candidates, for people to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_metric.mining.candidates import PositiveScores
from lit_metric.mining.hashing import hashed
from lit_metric.mining.propose import BEYOND, EMPTY, KEPT, FilteredProposals
from lit_metric.store import SAMPLE, version_folder, write_json

if TYPE_CHECKING:
    from lit_metric.data.relations import Relations


def sampled(ids: Tensor, count: int) -> Tensor:
    """``[min(count, M)]`` positions within ``ids [M]`` of a sample that depends on the ids alone, so that
    every version of a table shows the same anchors."""
    order = torch.from_numpy(hashed(ids.numpy()).argsort(kind="stable"))
    return order[:count].sort().values


def explain(
    anchor: int,
    judged: FilteredProposals,
    row: int,
    positives: PositiveScores,
    names: Sequence[str],
    relations: Relations,
    most: int = 20,
) -> dict[str, Any]:
    """One anchor of the sample, ready for JSON.

    Args:
        anchor: its global id.
        judged: proposals of which row ``row`` is this anchor's.
        row: see there.
        positives: of this anchor alone, ``[1]`` each.
        names: the filters' names, of which the first is the relations'.
        relations: tell what kind of excluded candidate one is.
        most: how many candidates to list for each filter that dropped them; the rest are counted.

    Returns:
        ``anchor``; ``positive`` with the ``best``, ``worst`` and ``mean`` score, null without positives;
        ``candidates``, a list of ``id``, ``score`` and ``verdict`` in the order proposed; ``omitted``.
    """
    verdicts = judged.verdicts[row]
    listed = verdicts == KEPT
    for number in range(1, len(names) + 1):
        dropped = verdicts == number
        listed |= dropped & (dropped.cumsum(0) <= most)
    seen = (verdicts != EMPTY) & (verdicts != BEYOND)
    ids = judged.ids[row][listed]
    is_positive = relations.positive_pairs(torch.full_like(ids, anchor), ids).tolist()
    candidates = []
    columns = (ids.tolist(), judged.scores[row][listed].tolist(), verdicts[listed].tolist(), is_positive)
    for candidate, score, verdict, positive in zip(*columns, strict=True):
        reason = "kept" if verdict == KEPT else names[verdict - 1]
        if verdict == 1:
            kind = "itself" if candidate == anchor else "positive" if positive else "duplicate or ignored"
            reason = f"{reason}: {kind}"
        candidates.append({"id": candidate, "score": round(score, 4), "verdict": reason})
    numbers = {name: float(positives.of(name)) for name in ("best", "worst", "mean")}
    return {
        "anchor": anchor,
        "positive": {name: None if value != value else round(value, 4) for name, value in numbers.items()},
        "candidates": candidates,
        "omitted": int(seen.sum() - listed.sum()),
    }


def add_texts(
    root: str | Path, version: int, texts: Callable[[Tensor], list[str]], keys: Sequence[str] | None
) -> None:
    """Write the texts of anchors and candidates, and their keys if there are any, into a version's sample.

    A process that mines has no texts, so the run does it.

    Args:
        root: folder of all versions.
        version: which; nothing happens if it has no sample any longer.
        texts: of the items with some ids, ``[n]``.
        keys: of all items by id.
    """
    path = version_folder(root, version) / SAMPLE
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = list(_entries(content["anchors"]))
    ids = torch.tensor([number for number, _ in entries], dtype=torch.int64)
    for (number, entry), text in zip(entries, texts(ids), strict=True):
        entry["text"] = text
        if keys is not None:
            entry["key"] = keys[number]
    write_json(path, content)


def _entries(anchors: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each anchor and candidate of a sample, with its id."""
    for anchor in anchors:
        yield anchor["anchor"], anchor
        for candidate in anchor["candidates"]:
            yield candidate["id"], candidate
