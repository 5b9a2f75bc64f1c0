"""What mining found, in the files of several trainers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from lit_metric.commands.items import save_parquet
from lit_metric.datamodule import MetricDataModule
from lit_metric.mining import NegativeTable
from lit_metric.store import replacing

OutputFormat = Literal["n-tuple", "labeled-pair", "labeled-list"]

_ITEM = {"id": pa.string(), "text": pa.string(), "score": pa.float32()}
_ITEMS = pa.list_(pa.struct(_ITEM))
DETAILS = pa.schema(
    {
        "id": pa.string(),
        "anchor": pa.string(),
        "positives": _ITEMS,
        "negatives": _ITEMS,
        "best_positive": pa.float32(),
        "worst_positive": pa.float32(),
        "mean_positive": pa.float32(),
        "dropped": pa.list_(pa.struct({**_ITEM, "filter": pa.string()})),
        "omitted": pa.int64(),
    }
)
"""The columns of ``NAME.details.parquet``."""


Row = tuple[int, list[int], list[float], list[int], list[float]]
"""An anchor's id, its positives and their scores, its negatives and theirs."""


@dataclass(frozen=True, eq=False)
class MiningResult:
    """Anchors with their positives and negatives.

    Args:
        data: where the texts are.
        table: the mined one.
        rows: for each anchor that has a positive: its id, its positives and their scores, its negatives and
            theirs.
    """

    data: MetricDataModule
    table: NegativeTable
    rows: list[Row]

    def text(self, id: int) -> str:
        """The text of an item; several texts are joined by commas."""
        return ", ".join(self.data.vocabulary.texts[text] for text in self.data.items.texts[id].tolist())

    def key(self, id: int) -> str:
        """The item's key in the data, or else its id."""
        keys = self.data.items.keys
        return keys[id] if keys and keys[id] else str(id)

    def described(self, ids: list[int], scores: list[float]) -> list[dict[str, Any]]:
        """Key, text and score of each item."""
        return [
            {"id": self.key(id), "text": self.text(id), "score": score}
            for id, score in zip(ids, scores, strict=True)
        ]

    def scored_by(self, score: Callable[[list[tuple[str, str]]], list[float]]) -> MiningResult:
        """The same pairs with other scores.

        Args:
            score: of pairs of texts, the anchor's first.
        """
        ids = [(row[0], other) for row in self.rows for other in (*row[1], *row[3])]
        scores = iter(score([(self.text(anchor), self.text(other)) for anchor, other in ids]))
        rows = []
        for anchor, positives, _, negatives, _ in self.rows:
            of_positives = [next(scores) for _ in positives]
            rows.append((anchor, positives, of_positives, negatives, [next(scores) for _ in negatives]))
        return replace(self, rows=rows)

    def write_parquet(self, path: Path, output_format: OutputFormat, with_scores: bool) -> tuple[int, int]:
        """Columns as ``mine_hard_negatives`` of sentence-transformers makes them.

        - ``n-tuple``: ``anchor``, ``positive``, ``negative_1`` ... ``negative_n``, and ``scores`` of the
          positive and the negatives; a row for each pair of anchor and positive.
        - ``labeled-pair``: ``anchor``, ``document``, and ``label`` 1 or 0, or ``score`` instead; a row for
          each positive and each negative.
        - ``labeled-list``: ``anchor``, ``documents``, and ``labels`` or ``scores``; a row for each anchor,
          the positives first.

        There are no other columns, since the trainer takes each for an input.

        Returns:
            Rows written, and anchors left out since they have too few negatives: fewer than ``n`` for
            tuples, none for the others.
        """
        assert self.data.miner is not None
        width = self.data.miner.negatives if output_format == "n-tuple" else 1
        kept = [row for row in self.rows if len(row[3]) >= width]
        if output_format == "n-tuple":
            table = self._tuples(kept, width, with_scores)
        else:
            table = self._lists(kept, with_scores)
            if output_format == "labeled-pair":
                lengths = np.array([len(row[1]) + len(row[3]) for row in kept], dtype=np.int64)
                names = ["anchor", "document", table.column_names[2].removesuffix("s")]
                anchors = table["anchor"].take(pa.array(np.repeat(np.arange(len(kept)), lengths)))
                others = [column.combine_chunks().flatten() for column in table.columns[1:]]
                table = pa.table(dict(zip(names, [anchors, *others], strict=True)))
        save_parquet(table, path)
        return len(table), len(self.rows) - len(kept)

    def _tuples(self, rows: list[Row], width: int, with_scores: bool) -> pa.Table:
        pairs = [
            (anchor, positive, score, negatives, scores)
            for anchor, positives, own, negatives, scores in rows
            for positive, score in zip(positives, own, strict=True)
        ]
        columns = {
            "anchor": [self.text(anchor) for anchor, *_ in pairs],
            "positive": [self.text(positive) for _, positive, *_ in pairs],
        }
        for number in range(width):
            columns[f"negative_{number + 1}"] = [self.text(row[3][number]) for row in pairs]
        arrays = {name: pa.array(texts, pa.string()) for name, texts in columns.items()}
        if with_scores:
            scores = [[score, *negatives] for _, _, score, _, negatives in pairs]
            arrays["scores"] = pa.array(scores, pa.list_(pa.float32()))
        return pa.table(arrays)

    def _lists(self, rows: list[Row], with_scores: bool) -> pa.Table:
        documents = [[self.text(each) for each in (*row[1], *row[3])] for row in rows]
        arrays = {
            "anchor": pa.array([self.text(row[0]) for row in rows], pa.string()),
            "documents": pa.array(documents, pa.list_(pa.string())),
        }
        if with_scores:
            arrays["scores"] = pa.array([[*row[2], *row[4]] for row in rows], pa.list_(pa.float32()))
        else:
            labels = [[1] * len(row[1]) + [0] * len(row[3]) for row in rows]
            arrays["labels"] = pa.array(labels, pa.list_(pa.int64()))
        return pa.table(arrays)

    def write_lines(self, path: Path) -> tuple[int, int]:
        """``query``, ``pos``, ``neg``, ``pos_scores``, ``neg_scores``: one line for each anchor.

        Returns:
            Lines written, and anchors left out since they have no negative.
        """
        found = [row for row in self.rows if row[3]]
        with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            for anchor, positives, positive_scores, negatives, negative_scores in found:
                line = {
                    "query": self.text(anchor),
                    "pos": [self.text(each) for each in positives],
                    "neg": [self.text(each) for each in negatives],
                    "pos_scores": positive_scores,
                    "neg_scores": negative_scores,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return len(found), len(self.rows) - len(found)

    def write_details(self, path: Path) -> None:
        """One row for each anchor: ids, texts and scores of positives and negatives, and what was dropped.

        ``dropped`` is null for anchors that are not in the table's sample; ``omitted`` counts those beyond
        the first twenty of each filter. The file's metadata holds the report and the settings of the miner,
        under ``lit_metric``.
        """
        explained = {entry["anchor"]: entry for entry in self.table.sample}
        anchors = torch.tensor([row[0] for row in self.rows], dtype=torch.int64)
        summary = self.table.positives[self.table.rows(anchors)].astype(np.float32).tolist()
        rows = []
        for (anchor, positives, positive_scores, negatives, scores), (best, worst, mean) in zip(
            self.rows, summary, strict=True
        ):
            entry = explained.get(anchor, {"candidates": None, "omitted": None})
            dropped = entry["candidates"]
            if dropped is not None:
                dropped = [each for each in dropped if each["verdict"] != "kept"]
                listed = self.described(*([each[name] for each in dropped] for name in ("id", "score")))
                dropped = [
                    {**item, "filter": each["verdict"]} for item, each in zip(listed, dropped, strict=True)
                ]
            rows.append(
                {
                    "id": self.key(anchor),
                    "anchor": self.text(anchor),
                    "positives": self.described(positives, positive_scores),
                    "negatives": self.described(negatives, scores),
                    "best_positive": best,
                    "worst_positive": worst,
                    "mean_positive": mean,
                    "dropped": dropped,
                    "omitted": entry["omitted"],
                }
            )
        about = json.dumps({"report": self.table.report, "miner": self.table.settings})
        table = pa.Table.from_pylist(rows, DETAILS)
        save_parquet(table.replace_schema_metadata({"lit_metric": about}), path)
