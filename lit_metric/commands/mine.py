"""Mine once, for another trainer: a file of texts with their positives and hard negatives."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from torch import Tensor
from tqdm import tqdm

from lit_metric.commands.items import check_output
from lit_metric.commands.mining_result import MiningResult, OutputFormat
from lit_metric.configurable import rebuilt, spec
from lit_metric.data import DataError, PairRelations, Ragged, default_cache_dir
from lit_metric.data.progress import has_bars
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder, SetEncoder, TwoTowerEncoder
from lit_metric.encoders.description import fingerprint_of
from lit_metric.evaluation import encode_split
from lit_metric.hub import load
from lit_metric.index import Embeddings, Index
from lit_metric.mining import Draw, Miner, NegativeFilter, NegativeTable
from lit_metric.store import MANIFEST, StoredError, read_array, read_manifest, write_array, write_folder

log = logging.getLogger(__name__)

OFF, VECTORS = "off", "mining-vectors"
BLOCK = 256
"""Anchors whose positives are looked up at once."""


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
    output_format: OutputFormat = "n-tuple",
    output_scores: bool = False,
    cross_encoder: str | None = None,
    cache: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write hard negatives into a file that other trainers read, too.

    Parquet has the columns anchor, positive, negative_1 ... negative_n, for sentence-transformers, or those
    of another output_format. JSON Lines have query, pos and neg, for FlagEmbedding. ``fit`` reads both.
    NAME.details.parquet next to it has ids, scores, and the candidates that each filter dropped. The vectors
    of the items are kept for the next call.

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
        output_format: of Parquet, by the names of sentence-transformers: n-tuple; labeled-pair with anchor,
            document and label; labeled-list with anchor, documents and labels.
        output_scores: write scores, too; in place of labels. JSON Lines always have them.
        cross_encoder: folder or hub id of a cross-encoder of sentence-transformers with one score. Its scores
            are written in place of cosines. It drops nothing; a GuideFilter with a CrossEncoderGuide does.
        cache: folder of the vectors that are kept (mining-vectors in the cache directory); off keeps none.
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
    as_tuples = path.suffix == ".parquet" and output_format == "n-tuple"
    if path.suffix != ".parquet" and (output_format != "n-tuple" or output_scores):
        raise ValueError("--output_format and --output_scores are for .parquet; .jsonl is for FlagEmbedding")
    if data is None:
        data = read_data(run)
    miner = data.miner or Miner()
    arguments = {name: rebuilt(value) for name, value in spec(miner)["init_args"].items()}
    given = {"top_k": top_k, "negatives": negatives, "filters": filters, "draw": draw, "index": index}
    arguments |= {name: value for name, value in given.items() if value is not None}
    data.miner = type(miner)(**{**arguments, "sample": explain})
    encoder = load(model, trust_remote_code)
    scorer = None if cross_encoder is None else CrossScorer(cross_encoder, device)
    kept = None if cache == OFF else default_cache_dir() / VECTORS if cache is None else Path(cache)
    mined = collect(encoder, data, splits, run is not None, positives, device, path, kept)
    written = mined if scorer is None else mined.scored_by(scorer)
    if path.suffix == ".parquet":
        count, left_out = written.write_parquet(path, output_format, output_scores)
    else:
        count, left_out = written.write_lines(path)
    log.info("Wrote %d rows for %d anchors to %s", count, len(mined.rows), path)
    if left_out:
        log.warning(
            "%d of %d anchors found fewer than %s and are left out: loosen the filters, raise --top_k, "
            "or let random ones stand in: --draw WithRandom --draw.draw TopK --draw.share 0 --draw.fill true",
            left_out,
            len(mined.rows),
            f"{data.miner.negatives} negatives" if as_tuples else "one negative",
        )
    details = path.with_name(f"{path.stem}.details.parquet")
    mined.write_details(details)
    explained = len(mined.table.sample)
    log.info("%s has ids, scores and, for %d anchors, what was dropped and why", details, explained)


def collect(
    encoder: Encoder,
    data: MetricDataModule,
    splits: Sequence[str] | None,
    as_trained: bool,
    positives: int | None,
    device: str | None,
    path: Path,
    cache: Path | None = None,
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
        cache: of vectors; None keeps none.

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
    vectors = vectors_of(encoder, data, ids, cache)
    embeddings = Embeddings(ids, vectors)
    table = data.miner.mine(embeddings, data.relations, data.seed, anchors=anchors, corpus=corpus)
    return draw_rows(table, data, embeddings, corpus, positives)


def vectors_of(encoder: Encoder, data: MetricDataModule, ids: Tensor, cache: Path | None) -> Tensor:
    """``[n, d]`` vectors of the items ``ids [n]``, which rise; those of an earlier call if it kept them.

    The key is a sha256 of the weights and settings of the encoder, the kind of device, and all items with
    their texts, roles and weights.
    """
    folder = None
    if cache is not None:
        items = data.items
        digest = hashlib.sha256(f"{fingerprint_of(encoder)} {encoder.device.type} ".encode())
        digest.update(f"{data.vocabulary.digest} {items.kind} {items.role_names}".encode())
        for each in (ids, items.texts.values, items.texts.offsets, items.roles, items.weights):
            digest.update(b"none" if each is None else each.contiguous().numpy().tobytes())
        folder = cache / digest.hexdigest()[:32]
        if (folder / MANIFEST).is_file():
            try:
                read_manifest(folder, StoredError)
                shape = len(ids), encoder.dimension
                kept = read_array(folder, "vectors", np.float32, shape, StoredError)
                log.info("The vectors of %d items are those of an earlier call, in %s", len(ids), folder)
                return torch.from_numpy(kept)
            except StoredError as error:
                log.warning("%s", error)
                shutil.rmtree(folder)
    vectors = torch.empty(len(ids), encoder.dimension)
    with tqdm(total=len(ids), desc="encode", unit="item") as bar:
        for part, found in encode_split(encoder, data, ids):
            vectors[torch.searchsorted(ids, found.cpu())] = part.float().cpu()
            bar.update(len(found))
    if folder is not None:
        write_folder(folder, lambda path: write_array(path / "vectors.npy", vectors.numpy()), {})
        log.info("Kept the vectors of %d items in %s; --cache off keeps none", len(ids), folder)
    return vectors


class CrossScorer:
    """Scores pairs of texts by a cross-encoder of sentence-transformers.

    Args:
        model: folder or hub id.
        device: where it runs; a GPU if there is one.

    Raises:
        ValueError: the model gives more than one score for a pair.
    """

    def __init__(self, model: str, device: str | None) -> None:
        from sentence_transformers import CrossEncoder

        self.encoder = CrossEncoder(model, device=device)
        if self.encoder.num_labels != 1:
            count = self.encoder.num_labels
            raise ValueError(
                f"--cross_encoder {model} gives {count} scores for a pair: take one with one label"
            )

    def __call__(self, pairs: list[tuple[str, str]]) -> list[float]:
        """The score of each pair."""
        if not pairs:
            return []
        scores: list[float] = self.encoder.predict(pairs, show_progress_bar=has_bars()).tolist()
        return scores


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
