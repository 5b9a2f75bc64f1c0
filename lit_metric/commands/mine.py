"""Mine once, for another trainer: a file of texts with their positives and hard negatives."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from torch import Tensor
from tqdm import tqdm

from lit_metric.commands.items import check_output
from lit_metric.commands.mined import FORMATS, MiningResult, collected, details_path, write_details
from lit_metric.configurable import rebuilt, spec
from lit_metric.data import DataError
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder, SetEncoder
from lit_metric.evaluation import encode_split
from lit_metric.hub import load
from lit_metric.index import Embeddings, Index
from lit_metric.mining import Draw, Miner, NegativeFilter

log = logging.getLogger(__name__)


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
    path = check_output(output, list(FORMATS))
    if positives is not None and positives < 1:
        raise ValueError(f"--positives {positives}: at least 1 is needed")
    if data is None:
        data = data_of(run)
    chosen = {
        "top_k": top_k,
        "negatives": negatives,
        "filters": filters,
        "draw": draw,
        "index": index,
        "sample": explain,
    }
    data.miner = changed(data.miner, {name: value for name, value in chosen.items() if value is not None})
    encoder = load(model, trust_remote_code)
    mined = collect(encoder, data, splits, run is not None, positives, device, path)
    count, left_out = FORMATS[path.suffix](mined, path)
    details = write_details(mined, details_path(path))
    log.info("Wrote %d rows for %d anchors to %s", count, len(mined.anchors), path)
    if left_out:
        log.warning(
            "%d of %d anchors found fewer than %s and are left out: loosen the filters, raise --top_k, "
            "or let random ones stand in: --draw WithRandom --draw.draw TopK --draw.share 0 --draw.fill true",
            left_out,
            len(mined.anchors),
            f"{mined.negatives.shape[1]} negatives" if path.suffix == ".parquet" else "one negative",
        )
    shown = len(mined.table.sample)
    log.info("%s has ids, scores and, for %d anchors, what was dropped and why", details, shown)


def changed(miner: Miner | None, arguments: dict[str, Any]) -> Miner:
    """A miner like the given one, or like the default one, with other arguments."""
    if miner is None:
        return Miner(**arguments)
    kept = {name: rebuilt(value) for name, value in spec(miner)["init_args"].items()}
    return type(miner)(**{**kept, **arguments})


def section_of(run: str) -> dict[str, Any]:
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


def data_of(run: str | None) -> MetricDataModule:
    """The data module of a training run.

    Raises:
        DataError: when no run is given, or it has no data.
    """
    if run is None:
        raise DataError("no data: give --data.train FILE, or --run RUN to take those of a training run")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=MetricDataModule)
    built = parser.instantiate(parser.parse_object({"data": section_of(run)})).data
    assert isinstance(built, MetricDataModule)
    return built


class TakeData(argparse.Action):
    """``--run RUN``: takes the data of a run; later options override them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Called by the parser."""
        section = json.dumps({"data": section_of(values)}, default=str)
        ActionConfigFile.apply_config(parser, namespace, self.dest, section)
        namespace[self.dest] = values


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
        positives: see :func:`collected`.
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
    if data.items.kind != wanted and type(encoder).__name__ != "TwoTowerEncoder":
        raise DataError(f"the data has items of kind {data.items.kind!r}, but this model encodes {wanted!r}")
    anchors, corpus = asked_for(data, _splits(data, splits, as_trained))
    ids = torch.cat([anchors, corpus]).unique()
    encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data.prepare(encoder.tokenizer)
    embeddings = Embeddings(ids, encoded(encoder, data, ids))
    table = data.miner.mine(embeddings, data.relations, data.seed, anchors=anchors, corpus=corpus)
    return collected(table, data, embeddings, corpus, positives)


def _splits(data: MetricDataModule, asked: Sequence[str] | None, as_trained: bool) -> list[str]:
    if asked is None:
        held_out = data.dataset.held_out
        asked = ["train", "validation"] if held_out and not as_trained else ["train"]
        asked = [name for name in asked if name in data.splits]
    missing = [name for name in asked if name not in data.splits]
    if missing or not asked:
        known = [name for name in data.splits if not name.endswith("corpus")]
        raise DataError(f"there is no {' or '.join(missing) or 'train'} split; there is {', '.join(known)}")
    log.info("Mining for the items of %s", " and ".join(asked))
    return list(asked)


def asked_for(data: MetricDataModule, splits: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rising ids of the items that get negatives, and of those that may be negatives."""
    anchors = torch.cat([data.splits[name] for name in splits]).unique()
    corpora = {name: data.dataset.corpus_of(name) or name for name in splits}
    return anchors, torch.cat([data.splits[name] for name in corpora.values()]).unique()


def encoded(encoder: Encoder, data: MetricDataModule, ids: Tensor) -> Tensor:
    """``[M, d]`` float32 vectors of the items ``ids [M]``, which rise."""
    vectors = torch.empty(len(ids), encoder.dimension)
    with tqdm(total=len(ids), desc="encode", unit="item") as bar:
        for part, found in encode_split(encoder, data, ids):
            vectors[torch.searchsorted(ids, found.cpu())] = part.float().cpu()
            bar.update(len(found))
    return vectors
