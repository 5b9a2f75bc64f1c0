"""Mine once, for another trainer: a file of texts with their positives and hard negatives."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from torch import Tensor
from tqdm import tqdm

from lit_metric.commands.items import check_output, save_parquet
from lit_metric.configurable import rebuilt, spec
from lit_metric.data import DataError, PairRelations, Ragged
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.evaluation import encode_split
from lit_metric.hub import load
from lit_metric.index import Embeddings, Index
from lit_metric.mining import Draw, Miner, NegativeFilter, NegativeTable
from lit_metric.store import replacing

log = logging.getLogger(__name__)

BLOCK = 256
"""Anchors whose positives are looked up at once."""

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


def mine(
    model: str,
    output: str,
    data: MetricDataModule | None = None,
    run: str | None = None,
    splits: list[str] | None = None,
    top_k: int | None = None,
    negatives: int | None = None,
    filters: list[NegativeFilter] | None = None,
    draw: Draw | None = None,
    index: Index | None = None,
    positives: int | None = None,
    explain: int = 1000,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write hard negatives into a file that other trainers read, too.

    Parquet has the columns anchor, positive, negative_1 ... negative_n, for sentence-transformers. JSON Lines
    have query, pos and neg, for FlagEmbedding. ``fit`` reads both. NAME.details.parquet next to it has ids,
    scores, and the candidates that each filter dropped.

    Args:
        model: run folder, checkpoint, saved encoder, model folder, or hub id.
        output: file to write, .parquet or .jsonl.
        data: what to mine in, by the options of fit, such as --data.train and --data.label.
        run: run folder, or the YAML of a run, whose data and miner are taken; later options override them.
        splits: whose items get negatives; all of data.train, or the training items of a run.
        top_k: candidates kept for each anchor (50).
        negatives: negatives drawn for each anchor from them (1).
        filters: which candidates are dropped, [] for none (RelativeMargin); repeat
            --filters+=AbsoluteMargin --filters.margin 0.05 for several.
        draw: which candidates are taken, such as TopK (UniformWindow).
        index: what searches, such as FaissIndex with --index.factory IVF256,Flat (ExactIndex).
        positives: positives for each anchor, drawn at random (1 of its class; all that were given as pairs).
        explain: anchors whose dropped candidates are listed.
        device: where to encode (a GPU if there is one).
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the data can't be used.
        ValueError: when an option is out of range.

    Example:
        lit-metric mine --model runs/triplet --data.train questions.csv --output mined.parquet --negatives 4
    """
    path = check_output(output, [".parquet", ".jsonl"])
    if positives is not None and positives < 1:
        raise ValueError(f"--positives {positives}: at least 1 is needed")
    if data is None:
        data = read_data(run)
    miner = data.miner or Miner()
    arguments = {name: rebuilt(value) for name, value in spec(miner)["init_args"].items()}
    given = {"top_k": top_k, "negatives": negatives, "filters": filters, "draw": draw, "index": index}
    arguments |= {name: value for name, value in given.items() if value is not None}
    data.miner = type(miner)(**{**arguments, "sample": explain})
    encoder = load(model, trust_remote_code)
    mined = collect(encoder, data, splits, run is not None, positives, device, path)
    count, left_out = mined.write_pairs(path) if path.suffix == ".parquet" else mined.write_lines(path)
    log.info("Wrote %d rows for %d anchors to %s", count, len(mined.rows), path)
    if left_out:
        log.warning(
            "%d of %d anchors found fewer than %s and are left out: loosen the filters, raise --top_k, "
            "or let random ones stand in: --draw WithRandom --draw.draw TopK --draw.share 0 --draw.fill true",
            left_out,
            len(mined.rows),
            f"{data.miner.negatives} negatives" if path.suffix == ".parquet" else "one negative",
        )
    details = path.with_name(f"{path.stem}.details.parquet")
    mined.write_details(details)
    explained = len(mined.table.sample)
    log.info("%s has ids, scores and, for %d anchors, what was dropped and why", details, explained)


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
    rows: list[tuple[int, list[int], list[float], list[int], list[float]]]

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

    def write_pairs(self, path: Path) -> tuple[int, int]:
        """``anchor``, ``positive``, ``negative_1`` ... ``negative_n``: texts, one row for each pair.

        Nothing else, since the trainer of sentence-transformers takes each column for an input.

        Returns:
            Rows written, and anchors left out since they have fewer than ``n`` negatives.
        """
        assert self.data.miner is not None
        width = self.data.miner.negatives
        whole = [row for row in self.rows if len(row[3]) == width]
        ids = [
            (anchor, positive, *negatives)
            for anchor, positives, _, negatives, _ in whole
            for positive in positives
        ]
        names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, width + 1))]
        texts = {name: [self.text(row[place]) for row in ids] for place, name in enumerate(names)}
        save_parquet(pa.table({name: pa.array(column, pa.string()) for name, column in texts.items()}), path)
        return len(ids), len(self.rows) - len(whole)

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


def collect(
    encoder: Encoder,
    data: MetricDataModule,
    splits: Sequence[str] | None,
    as_trained: bool,
    positives: int | None,
    device: str | None,
    path: Path,
) -> MiningResult:
    """Encode, mine, draw.

    Args:
        encoder: what makes the vectors.
        data: with a miner.
        splits: whose items get negatives; None: ``train``, and what was split off it for validation unless
            ``as_trained``.
        as_trained: the data is that of a training run.
        positives: how many for each anchor, at random; None: 1 where they follow from labels, all where pairs
            were given.
        device: where to encode; a GPU if there is one.
        path: of the output; bad rows that are left out are listed in its folder.

    Raises:
        DataError: the data can't be used, or is of a kind that the encoder doesn't take.
    """
    data.read()
    assert data.miner is not None
    if not data.miner.negatives:
        raise DataError("the miner of the run has negatives: 0; say how many to mine by --negatives")
    if len(data.problems):
        path.parent.mkdir(parents=True, exist_ok=True)
        log.warning("The bad rows are listed in %s", data.problems.write(path.parent))
    wanted = "set" if isinstance(encoder, SetEncoder) else "text"
    if data.items.kind != wanted and not isinstance(encoder, TwoTowerEncoder):
        raise DataError(f"the data has items of kind {data.items.kind!r}, but this model encodes {wanted!r}")
    if splits is None:
        whole = data.dataset.held_out and not as_trained and "validation" in data.splits
        splits = ["train", "validation"] if whole else ["train"]
    missing = [name for name in splits if name not in data.splits]
    if missing or not splits:
        known = [name for name in data.splits if not name.endswith("corpus")]
        raise DataError(f"there is no {' or '.join(missing) or 'train'} split; there is {', '.join(known)}")
    log.info("Mining for the items of %s", " and ".join(splits))
    corpora = {data.dataset.corpus_of(name) or name for name in splits}
    anchors = torch.cat([data.splits[name] for name in splits]).unique()
    corpus = torch.cat([data.splits[name] for name in corpora]).unique()
    ids = torch.cat([anchors, corpus]).unique()
    encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data.prepare(encoder.tokenizer)
    vectors = torch.empty(len(ids), encoder.dimension)
    with tqdm(total=len(ids), desc="encode", unit="item") as bar:
        for part, found in encode_split(encoder, data, ids):
            vectors[torch.searchsorted(ids, found.cpu())] = part.float().cpu()
            bar.update(len(found))
    embeddings = Embeddings(ids, vectors)
    table = data.miner.mine(embeddings, data.relations, data.seed, anchors=anchors, corpus=corpus)
    return draw_rows(table, data, embeddings, corpus, positives)


def draw_rows(
    table: NegativeTable, data: MetricDataModule, embeddings: Embeddings, corpus: Tensor, most: int | None
) -> MiningResult:
    """Draw positives out of ``corpus``, at most ``most``, and negatives for the anchors of a table."""
    assert data.miner is not None
    labelled = not isinstance(data.relations, PairRelations)
    most = most or (1 if labelled else None)
    random, contents = np.random.default_rng(data.seed), data.items.fingerprints.tolist()
    positives: dict[int, list[int]] = {}
    for block in torch.from_numpy(table.anchors.astype(np.int64)).split(BLOCK):
        for anchor, found in zip(
            block.tolist(), data.relations.positives(block, corpus).tolist(), strict=True
        ):
            if most is not None and len(found) > most:
                found = [found[place] for place in sorted(random.permutation(len(found))[:most])]
            if labelled:  # nothing can be learned from the anchor's own content
                found = [each for each in found if contents[each] != contents[anchor]]
            if found:
                positives[anchor] = found
    anchors, own = torch.tensor([*positives], dtype=torch.int64), Ragged.from_lists(positives.values())
    relations = data.relations.labelled_only()
    drawn = table.draw(data.miner.draw, data.miner.negatives, anchors, relations, data.seed, 0, 0)
    present = drawn >= 0
    negatives = Ragged.from_lengths(drawn[present], present.sum(dim=1))
    pair_scores = embeddings.by(table.similarity).pair_scores
    columns: list[Any] = [anchors.tolist()]
    for others in (own, negatives):
        scores = pair_scores(anchors[others.segment_ids], others.values)
        columns += [others.tolist(), Ragged(scores, others.offsets).tolist()]
    return MiningResult(data, table, [*zip(*columns, strict=True)])


def read_section(run: str) -> dict[str, Any]:
    """Class path and arguments of the data module of a training run, with the run's seed.

    Args:
        run: its folder, or its YAML.

    Raises:
        DataError: when there is none.
    """
    path = Path(run)
    path = path / "config.yaml" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"--run {run}: there is no {path}; give the folder of a run, or a YAML file")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise DataError(f"--run {run}: {path} is no YAML of a run with the key data")
    section: dict[str, Any] = content["data"]
    if "class_path" not in section:
        section = {"class_path": "lit_metric.MetricDataModule", "init_args": section}
    arguments = section.setdefault("init_args", {})
    seed = content.get("seed_everything")
    if arguments.get("seed") is None and isinstance(seed, int) and not isinstance(seed, bool):
        arguments["seed"] = seed
    return section


def read_data(run: str | None) -> MetricDataModule:
    """The data module of a training run.

    Raises:
        DataError: when no run is given, or it has no data.
    """
    if run is None:
        raise DataError("no data: give --data.train FILE, or --run RUN to take those of a training run")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=MetricDataModule)
    data = parser.instantiate(parser.parse_object({"data": read_section(run)})).data
    assert isinstance(data, MetricDataModule)
    return data


class TakeData(argparse.Action):
    """``--run RUN``: takes the data of a run; later options override them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Called by the parser."""
        section = json.dumps({"data": read_section(values)}, default=str)
        ActionConfigFile.apply_config(parser, namespace, self.dest, section)
        namespace[self.dest] = values
