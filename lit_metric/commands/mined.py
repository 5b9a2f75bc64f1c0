"""The result of mining, and the files for trainers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lit_metric.data import PairRelations, Ragged, Relations
from lit_metric.datamodule import MetricDataModule
from lit_metric.index import Embeddings
from lit_metric.mining import NegativeTable
from lit_metric.store import replacing

_BLOCK = 256


@dataclass(frozen=True, eq=False)
class MiningResult:
    """Anchors with their positives and negatives.

    Args:
        data: where the texts are.
        table: that was mined.
        anchors: ``[A]`` int64 ids of those that have a positive.
        positives: of each anchor, as global ids.
        positive_scores: float32, parallel to ``positives.values``.
        negatives: ``[A, n]`` int64 ids, -1 behind the last.
        negative_scores: ``[A, n]`` float32.
    """

    data: MetricDataModule
    table: NegativeTable
    anchors: Tensor
    positives: Ragged
    positive_scores: Tensor
    negatives: Tensor
    negative_scores: Tensor

    def text(self, id: int) -> str:
        """The text of an item; several texts are joined by commas."""
        items, offsets = self.data.items, self.data.items.texts.offsets
        own = items.texts.values[offsets[id] : offsets[id + 1]].tolist()
        return ", ".join(self.data.vocabulary.texts[number] for number in own)

    def name(self, id: int) -> str:
        """The item's key in the data, or else its id."""
        keys = self.data.items.keys
        return keys[id] if keys and keys[id] else str(id)

    def rows(self) -> Iterator[tuple[int, list[int], list[float], list[int], list[float]]]:
        """Anchor by anchor: its id, its positives and their scores, its negatives and theirs."""
        offsets = self.positives.offsets.tolist()
        for row, anchor in enumerate(self.anchors.tolist()):
            own, found = slice(offsets[row], offsets[row + 1]), self.negatives[row] >= 0
            yield (
                anchor,
                self.positives.values[own].tolist(),
                self.positive_scores[own].tolist(),
                self.negatives[row][found].tolist(),
                self.negative_scores[row][found].tolist(),
            )


def collected(
    table: NegativeTable,
    data: MetricDataModule,
    embeddings: Embeddings,
    corpus: Tensor,
    positives: int | None,
) -> MiningResult:
    """Draw positives and negatives for the anchors of a table.

    Args:
        table: as mined.
        data: with the miner.
        embeddings: of all items.
        corpus: the ids that positives are taken from.
        positives: how many for each anchor, at random; None: 1 where they follow from labels, all where pairs
            were given.
    """
    assert data.miner is not None
    labelled = not isinstance(data.relations, PairRelations)
    most = positives if positives is not None else (1 if labelled else None)
    anchors = torch.from_numpy(table.anchors.astype(np.int64))
    own = drawn_positives(anchors, data.relations, corpus, most, data.seed)
    if labelled:
        own = _differing(own, anchors, data.items.fingerprints)
    anchors, own = anchors[own.lengths > 0], own.select((own.lengths > 0).nonzero()[:, 0])
    miner, relations = data.miner, data.relations.labelled_only()
    drawn = table.draw(miner.draw, miner.negatives, anchors, relations, data.seed, 0, 0)
    scores = embeddings.by(table.similarity).pair_scores
    present = drawn >= 0
    negative_scores = torch.full(drawn.shape, -torch.inf)
    negative_scores[present] = scores(anchors[:, None].expand_as(drawn)[present], drawn[present])
    return MiningResult(
        data,
        table,
        anchors,
        own,
        scores(anchors[own.segment_ids], own.values),
        drawn,
        negative_scores,
    )


def drawn_positives(
    anchors: Tensor, relations: Relations, corpus: Tensor, most: int | None, seed: int
) -> Ragged:
    """At most ``most`` random positives of each of ``anchors [A]`` in ``corpus``; None: all."""
    draw = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for block in anchors.split(_BLOCK):
        for found in relations.positives(block, corpus).tolist():
            if most is not None and len(found) > most:
                found = [found[place] for place in sorted(draw.permutation(len(found))[:most])]
            rows.append(found)
    return Ragged.from_lists(rows)


def _differing(positives: Ragged, anchors: Tensor, fingerprints: Tensor) -> Ragged:
    """Without items of the anchor's own content, from which nothing can be learned."""
    rows = positives.segment_ids
    keep = fingerprints[positives.values] != fingerprints[anchors[rows]]
    lengths = torch.zeros(len(anchors), dtype=torch.int64).index_add_(0, rows, keep.long())
    return Ragged.from_lengths(positives.values[keep], lengths)


def write_parquet(mined: MiningResult, path: Path) -> tuple[int, int]:
    """``anchor``, ``positive``, ``negative_1`` ... ``negative_n``: texts, one row for each pair.

    Nothing else, since the trainer of sentence-transformers takes each column for an input.

    Returns:
        Rows written, and anchors left out since they have fewer than ``n`` negatives.
    """
    width = mined.negatives.shape[1]
    columns: list[list[str]] = [[] for _ in range(2 + width)]
    left_out = 0
    for anchor, positives, _, negatives, _ in mined.rows():
        if len(negatives) < width:
            left_out += 1
            continue
        for positive in positives:
            for column, item in zip(columns, [anchor, positive, *negatives], strict=True):
                column.append(mined.text(item))
    names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, width + 1))]
    table = pa.table(
        {name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)}
    )
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")
    return len(table), left_out


def write_json_lines(mined: MiningResult, path: Path) -> tuple[int, int]:
    """``query``, ``pos``, ``neg``, ``pos_scores``, ``neg_scores``: one line for each anchor.

    Returns:
        Lines written, and anchors left out since they have no negative.
    """
    count = left_out = 0
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for anchor, positives, positive_scores, negatives, negative_scores in mined.rows():
            if not negatives:
                left_out += 1
                continue
            line = {
                "query": mined.text(anchor),
                "pos": [mined.text(each) for each in positives],
                "neg": [mined.text(each) for each in negatives],
                "pos_scores": positive_scores,
                "neg_scores": negative_scores,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count, left_out


FORMATS: dict[str, Callable[[MiningResult, Path], tuple[int, int]]] = {
    ".parquet": write_parquet,
    ".jsonl": write_json_lines,
}

_FOUND = pa.list_(pa.struct([("id", pa.string()), ("text", pa.string()), ("score", pa.float32())]))
_DROPPED = pa.list_(
    pa.struct([("id", pa.string()), ("text", pa.string()), ("score", pa.float32()), ("filter", pa.string())])
)
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("anchor", pa.string()),
        ("positives", _FOUND),
        ("negatives", _FOUND),
        ("best_positive", pa.float32()),
        ("worst_positive", pa.float32()),
        ("mean_positive", pa.float32()),
        ("dropped", _DROPPED),
        ("omitted", pa.int64()),
    ]
)


def details_path(path: Path) -> Path:
    """Where the details of ``path`` are written.

    Example:
        >>> details_path(Path("mined.jsonl")).name
        'mined.details.parquet'
    """
    return path.with_name(f"{path.stem}.details.parquet")


def write_details(mined: MiningResult, path: Path) -> Path:
    """One row for each anchor: ids, texts and scores of positives and negatives, and what was dropped.

    ``dropped`` is null for anchors that are not in the table's sample; ``omitted`` counts those beyond the
    first twenty of each filter. How the mining went and with what settings stands in the file's metadata,
    under ``lit_metric``.
    """
    explained = {entry["anchor"]: entry for entry in mined.table.sample}
    summary = mined.table.positives[mined.table.rows(mined.anchors)].astype(np.float32).tolist()
    rows: list[dict[str, Any]] = []
    for (anchor, positives, positive_scores, negatives, scores), (best, worst, mean) in zip(
        mined.rows(), summary, strict=True
    ):
        entry = explained.get(anchor)
        rows.append(
            {
                "id": mined.name(anchor),
                "anchor": mined.text(anchor),
                "positives": _found(mined, positives, positive_scores),
                "negatives": _found(mined, negatives, scores),
                "best_positive": best,
                "worst_positive": worst,
                "mean_positive": mean,
                "dropped": None if entry is None else _dropped(mined, entry["candidates"]),
                "omitted": None if entry is None else entry["omitted"],
            }
        )
    about = json.dumps({"report": mined.table.report, "miner": mined.table.settings})
    table = pa.Table.from_pylist(rows, _SCHEMA).replace_schema_metadata({"lit_metric": about})
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")
    return path


def _found(mined: MiningResult, ids: list[int], scores: list[float]) -> list[dict[str, Any]]:
    return [
        {"id": mined.name(id), "text": mined.text(id), "score": score}
        for id, score in zip(ids, scores, strict=True)
    ]


def _dropped(mined: MiningResult, candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": mined.name(each["id"]),
            "text": mined.text(each["id"]),
            "score": each["score"],
            "filter": each["verdict"],
        }
        for each in candidates
        if each["verdict"] != "kept"
    ]
