"""Mine once, for a trainer of one's own: a file of texts with their positives and hard negatives."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

from lit_metric import index, mining
from lit_metric.commands.expressions import described
from lit_metric.commands.mined import FORMATS, Mined, collected, details_path, write_details
from lit_metric.data import DataError
from lit_metric.data.rejected import write_rejected
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder, SetEncoder
from lit_metric.evaluation import encode_split

log = logging.getLogger(__name__)


def mine(
    encoder: Encoder,
    output: str,
    data: str | None,
    config: list[str],
    splits: list[str] | None,
    candidates: int | None,
    negatives: int | None,
    filter: list[str] | None,
    draw: str | None,
    index: str | None,
    positives: int | None,
    explain: int,
    seed: int | None,
    max_tokens: int | None,
    device: str | None,
    more: Sequence[str] = (),
) -> None:
    """Mine hard negatives into a file that sentence-transformers (.parquet) or FlagEmbedding (.jsonl) trains
    on."""
    path = Path(output)
    if path.suffix not in FORMATS:
        raise ValueError(f"--output {output}: the name must end in {' or '.join(FORMATS)}")
    if positives is not None and positives < 1:
        raise ValueError(f"--positives {positives}: at least 1 is needed")
    chosen = {"candidates": candidates, "negatives": negatives, "sample": explain}
    stages = miner_options(filter, draw, index)
    given = {"train": data, "seed": seed, "max_tokens": max_tokens}
    module = data_module(config, given, {**chosen, **stages}, more)
    mined = collect(encoder, module, splits, bool(config), positives, device, path)
    count, left_out = FORMATS[path.suffix](mined, path)
    details = write_details(mined, details_path(path))
    log.info("Wrote %d rows for %d anchors to %s", count, len(mined.anchors), path)
    if left_out:
        log.warning(
            "%d of %d anchors found fewer than %s and are left out: loosen the filters, raise --candidates, "
            'or let random ones stand in, as in --draw "WithRandom(TopK(), share=0, fill=True)"',
            left_out,
            len(mined.anchors),
            f"{mined.negatives.shape[1]} negatives" if path.suffix == ".parquet" else "one negative",
        )
    shown = len(mined.table.sample)
    log.info("%s has ids, scores and, for %d anchors, what was dropped and why", details, shown)


def miner_options(filter: list[str] | None, draw: str | None, searched: str | None) -> dict[str, Any]:
    """The options of the command that are arguments of the miner, as YAML would have them.

    Raises:
        ValueError: if one of them is no call of a class that may stand there.
    """
    options: dict[str, Any] = {}
    if filter is not None:
        given = [each for each in filter if each != "none"]
        options["filters"] = [described(each, "--filter", mining.NegativeFilter, mining) for each in given]
    if draw is not None:
        options["draw"] = described(draw, "--draw", mining.Draw, mining)
    if searched is not None:
        options["index"] = described(searched, "--index", index.Index, index)
    return options


def data_module(
    configs: Sequence[str], data: dict[str, Any], miner: dict[str, Any], more: Sequence[str]
) -> MetricDataModule:
    """What configs and options describe.

    Args:
        configs: YAML files as ``lit-metric fit`` takes, of which ``data`` and ``seed_everything`` are read; a
            later one adds to an earlier one.
        data: arguments of the data module that go over them, where not None.
        miner: likewise of its miner.
        more: options such as ``--data.text=question``, which go over everything.

    Raises:
        DataError: a config is no mapping.
    """
    merged: dict[str, Any] = {}
    for name in configs:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise DataError(f"--config {name} is no YAML mapping with the key data")
        merged = _merged(merged, {key: content[key] for key in ("data", "seed_everything") if key in content})
    section = _merged(_class("lit_metric.MetricDataModule"), merged.get("data", {}))
    own = section["init_args"]
    own["miner"] = _merged(_class("lit_metric.Miner"), own.get("miner") or {})
    own["miner"]["init_args"] |= {key: value for key, value in miner.items() if value is not None}
    own |= {key: value for key, value in data.items() if value is not None}
    seed = merged.get("seed_everything")
    own.setdefault("seed", seed if isinstance(seed, int) and not isinstance(seed, bool) else 0)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MetricDataModule, "data", required=True)
    built = parser.instantiate_classes(parser.parse_args([f"--data={json.dumps(section)}", *more])).data
    assert isinstance(built, MetricDataModule)
    return built


def _class(path: str) -> dict[str, Any]:
    return {"class_path": path, "init_args": {}}


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, where mappings are merged in turn, and all else is that of ``over``."""
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(under[key], over[key])
    return both


def collect(
    encoder: Encoder,
    data: MetricDataModule,
    splits: Sequence[str] | None,
    as_trained: bool,
    positives: int | None,
    device: str | None,
    path: Path,
) -> Mined:
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
    if len(data.problems):
        path.parent.mkdir(parents=True, exist_ok=True)
        log.warning("The bad rows are listed in %s", write_rejected(data.problems, path.parent))
    wanted = "set" if isinstance(encoder, SetEncoder) else "text"
    if data.items.kind != wanted and type(encoder).__name__ != "TwoTowerEncoder":
        raise DataError(f"the data has items of kind {data.items.kind!r}, but this model encodes {wanted!r}")
    anchors, corpus = asked_for(data, _splits(data, splits, as_trained))
    ids = torch.cat([anchors, corpus]).unique()
    encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data.prepare(encoder.tokenizer)
    vectors = encoded(encoder, data, ids)
    assert data.miner is not None
    if not data.miner.negatives:
        raise DataError("the config's miner has negatives: 0; say how many to mine by --negatives")
    table = data.miner.mine(vectors, ids, data.relations, data.seed, anchors=anchors, corpus=corpus)
    return collected(table, data, vectors, ids, corpus, positives)


def _splits(data: MetricDataModule, asked: Sequence[str] | None, as_trained: bool) -> list[str]:
    if asked is None:
        own = data.sources["validation"] is None and not any(
            getattr(data.supervision, name, None) for name in ("split", "folds")
        )
        asked = ["train", "validation"] if own and not as_trained else ["train"]
        asked = [name for name in asked if name in data.splits]
    missing = [name for name in asked if name not in data.splits]
    if missing or not asked:
        known = [name for name in data.splits if not name.endswith("corpus")]
        raise DataError(f"there is no {' or '.join(missing) or 'train'} split; there is {', '.join(known)}")
    log.info("Mining for the items of %s", " and ".join(asked))
    return list(asked)


def asked_for(data: MetricDataModule, splits: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rising ids of the items that get negatives, and of those that may be negatives."""
    assert data.content is not None
    anchors = torch.cat([data.splits[name] for name in splits]).unique()
    corpora = {name: data.content.corpus_of(name) or name for name in splits}
    return anchors, torch.cat([data.splits[name] for name in corpora.values()]).unique()


def encoded(encoder: Encoder, data: MetricDataModule, ids: Tensor) -> Tensor:
    """``[M, d]`` float32 vectors of the items ``ids [M]``, which rise."""
    vectors = torch.empty(len(ids), encoder.dimension)
    with tqdm(total=len(ids), desc="encode", unit="item") as bar:
        for part, found in encode_split(encoder, data, ids):
            vectors[torch.searchsorted(ids, found.cpu())] = part.float().cpu()
            bar.update(len(found))
    return vectors


def options(parser: argparse.ArgumentParser) -> None:
    """Those of ``mine``."""
    add = parser.add_argument
    parser.epilog = (
        "More options are those of the data module: --data.text question --data.label intent, "
        "--data.supervision Judgements --data.supervision.queries queries.parquet, ..."
    )
    add("--data", help="what to mine in: Parquet, CSV or JSON Lines file, or a data set")
    add(
        "--output",
        required=True,
        help="file to write: .parquet (sentence-transformers), .jsonl (FlagEmbedding)",
    )
    add(
        "--config",
        action="append",
        default=[],
        help="YAML of a training run, whose data and miner are taken; may be repeated",
    )
    add("--splits", nargs="+", help="whose items get negatives (all of --data; train with --config)")
    add("--candidates", type=int, help="candidates kept for each anchor (50)")
    add("--negatives", type=int, help="negatives drawn for each anchor from them (1)")
    add(
        "--filter",
        action="append",
        help='such as "MarginFilter(0.05)"; may be repeated; none for none (PercentageFilter(0.95))',
    )
    add("--draw", help='such as "TopK()" or "SimANS(a=100)" (UniformWindow(0, 10))')
    add("--index", help="such as \"FaissIndex('IVF256,Flat', nprobe=16)\" (ExactIndex())")
    add(
        "--positives",
        type=int,
        help="positives for each anchor, drawn at random (1 of its class; all that were given as pairs)",
    )
    add("--explain", type=int, default=1000, help="anchors whose dropped candidates are listed (%(default)s)")
    add("--seed", type=int, help="of all that is drawn (that of --config, or 0)")
    add("--max-tokens", type=int, help="tokens per batch (16384)")
    add("--device", help="where to encode (a GPU if there is one)")
