"""Load a run, a checkpoint, a folder or a model of the hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from lit_metric.encoders import Encoder, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.base import CONFIG
from lit_metric.encoders.description import encoder_in, read_checkpoint
from lit_metric.encoders.pretrained import ADAPTER, HUB_ID, locate
from lit_metric.encoders.recipe import Recipe, find_file
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY
from lit_metric.store import PACKAGE

log = logging.getLogger(__name__)

RUN_FOLDER = "model"
TOWERS = (QUERY, DOCUMENT_NAMES[0])
"""Folders of an exported TwoTowerEncoder, and the roles of their texts."""


def load(path: str | Path, trust_remote_code: bool = False) -> Encoder:
    """Load an encoder.

    A run that was interrupted has no ``model/``: then its best checkpoint is taken, else its last, and the
    log says which.

    Args:
        path: a run's folder, a checkpoint file, what ``Encoder.save`` wrote, a folder of a
            sentence-transformers or Hugging Face model or of an adapter of peft, or one that holds two of
            them, ``query`` and ``document``; ``package:NAME/folder`` inside an installed package, or the id
            of a model on the Hugging Face hub.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        FileNotFoundError: if there is no encoder in any of these forms.
        ValueError: if there is one that can't be used.
    """
    if str(path).startswith(PACKAGE):
        return load(locate(str(path)), trust_remote_code)
    place = Path(path).expanduser()
    if place.is_file():
        return encoder_in(read_checkpoint(place), place, trust_remote_code)
    if not place.exists():
        return _from_hub(str(path), trust_remote_code)
    for each in (place, place / RUN_FOLDER):
        if (each / CONFIG).is_file():
            if each != place:
                log.info("Loaded the encoder in %s", each)
            return Encoder.load(each, trust_remote_code)
    if any((place / name).is_file() for name in ("modules.json", "config.json", ADAPTER)):
        return _of_source(str(place), trust_remote_code)
    if all((place / tower / "modules.json").is_file() for tower in TOWERS):
        query, document = (load(place / tower, trust_remote_code) for tower in TOWERS)
        return TwoTowerEncoder(query, document)
    if found := _run_checkpoint(place):
        name, checkpoint, content = found
        encoder = encoder_in(content, checkpoint, trust_remote_code)
        message = "There is no %s: loaded the encoder of the %s checkpoint, %s"
        log.info(message, place / RUN_FOLDER, name, checkpoint)
        return encoder
    raise FileNotFoundError(
        f"{place} holds no encoder: neither {CONFIG} nor {RUN_FOLDER}/{CONFIG}, modules.json, config.json, "
        f"{ADAPTER} or a checkpoint"
    )


def _of_source(source: str, trust_remote_code: bool) -> Encoder:
    """A model of another library, static or with a transformer."""
    kind = StaticEncoder if Recipe.read(source, head=False).static else TextEncoder
    return kind(source, trust_remote_code=trust_remote_code)


def _run_checkpoint(folder: Path) -> tuple[str, Path, dict[str, Any]] | None:
    """A run's best checkpoint by what was monitored, else its last: which of the two, its path and content.

    Checkpoints that can't be read are skipped: one was being written when the run ended.
    """
    contents = {}
    for path in sorted(folder.rglob("*.ckpt")):
        try:
            contents[path] = read_checkpoint(path)
        except ValueError as error:  # noqa: PERF203
            log.warning("%s", error)
    if not contents:
        return None
    age = {path: (read.get("global_step", 0), path.stat().st_mtime_ns) for path, read in contents.items()}
    latest = sorted(contents, key=age.__getitem__, reverse=True)
    for state in contents[latest[0]].get("callbacks", {}).values():
        if isinstance(state, dict) and state.get("monitor"):
            name = Path(state.get("best_model_path") or ".").name
            if found := [path for path in latest if path.name == name]:
                return "best", found[0], contents[found[0]]
    return "last", latest[0], contents[latest[0]]


def _from_hub(name: str, trust_remote_code: bool) -> Encoder:
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"{name}: there is no such file or folder")
    if find_file(name, CONFIG) is not None:
        return Encoder.load(snapshot_download(name), trust_remote_code)
    try:
        return _of_source(name, trust_remote_code)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: there is no such folder here, and as a model of the hub: {error}"
        ) from error
