"""Load a run, a checkpoint, a folder or a model of the hub."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lit_metric.encoders import Encoder, SetEncoder, StaticEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.base import CONFIG
from lit_metric.encoders.description import encoder_in, read_checkpoint
from lit_metric.encoders.pretrained import ADAPTER, HUB_ID, locate
from lit_metric.encoders.recipe import Recipe, segment_pooling
from lit_metric.encoders.tokenizer import DOCUMENT_NAMES, QUERY
from lit_metric.store import PACKAGE

log = logging.getLogger(__name__)

RUN_FOLDER = "model"
TOWERS = (QUERY, DOCUMENT_NAMES[0])
"""Folders of an exported TwoTowerEncoder, and the roles of their texts."""


def load(path: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> Encoder:
    """Load an encoder.

    A run that was interrupted has no ``model/``: then its best checkpoint is taken, else its last, and the
    log says which.

    Args:
        path: a run's folder, a checkpoint file, what ``Encoder.save`` or :func:`export` wrote, a folder of a
            sentence-transformers or Hugging Face model or of an adapter of peft, or one that holds two of
            them, ``query`` and ``document``; ``package:NAME/folder`` inside an installed package, or the id
            of a model on the Hugging Face hub.
        trust_remote_code: allow classes outside lit_metric and transformers.
        revision: of a model on the hub: a branch, a tag or a commit; its main branch if None.

    Raises:
        FileNotFoundError: if there is no encoder in any of these forms, or the hub can't be reached.
        ValueError: if there is one that can't be used, or a revision is given for something else.
    """
    place = Path(path).expanduser()
    local = str(path).startswith(PACKAGE) or place.exists()
    if revision is not None and local:
        raise ValueError(f"revision={revision!r} is for models of the hub, and {path} is on this machine")
    if str(path).startswith(PACKAGE):
        return load(locate(str(path)), trust_remote_code)
    if place.is_file():
        return encoder_in(read_checkpoint(place), place, trust_remote_code)
    if not local:
        return load(_download(str(path), revision), trust_remote_code)
    for each in (place, place / RUN_FOLDER):
        if (each / CONFIG).is_file():
            if each != place:
                log.info("Loaded the encoder in %s", each)
            return Encoder.load(each, trust_remote_code)
    if (place / "modules.json").is_file():
        modules = json.loads((place / "modules.json").read_text(encoding="utf-8"))
        return _of_modules(place, modules, trust_remote_code)
    if all((place / tower / "modules.json").is_file() for tower in TOWERS):
        return TwoTowerEncoder(*(load(place / tower, trust_remote_code) for tower in TOWERS))
    if any((place / name).is_file() for name in ("config.json", ADAPTER)):
        return _of_source(str(place), trust_remote_code)
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


def _of_modules(place: Path, modules: list[dict[str, Any]], trust_remote_code: bool) -> Encoder:
    """A model of sentence-transformers by its modules: of texts, of sets, or the two towers of a Router."""
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:1] in (["Router"], ["Towers"]):
        return TwoTowerEncoder(*_routes(place, modules, trust_remote_code))
    for last, module in enumerate(modules):
        if kinds[last] != "SegmentPooling":
            continue
        config = json.loads((place / module["path"] / "config.json").read_text(encoding="utf-8"))
        if config["level"] != "texts":
            continue
        with _view(place, modules[:last]) as view:
            text = _of_source(str(view), trust_remote_code)
        assert isinstance(text, TextEncoder)
        if config["dimension"] < text.dimension:  # the pooling takes the leading components
            text.truncate_dim = text.dimension = config["dimension"]
        head = Recipe.read_head(str(place), modules[last + 1 :])
        pooling = segment_pooling(str(place), module["path"], config)
        return SetEncoder(
            text,
            pooling,
            head.projection or None,
            normalize_texts=config["normalize"],
            normalize=bool(head.normalize),
        )
    with _view(place, modules) as view:
        return _of_source(str(view), trust_remote_code)


def _routes(place: Path, modules: list[dict[str, Any]], trust_remote_code: bool) -> Iterator[Encoder]:
    """The towers of a Router, for queries and for documents; what follows the Router belongs to both."""
    folder = place / modules[0]["path"]
    router = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
    if set(router["structure"]) != set(TOWERS):
        raise ValueError(
            f"{place} has routes {', '.join(router['structure'])}; only those of a query and a document "
            "tower can be read"
        )
    for tower in TOWERS:
        names = router["structure"][tower]
        if names[:1] == [tower] and modules[1:] == []:  # as export writes it: a model of its own
            yield load(folder / tower, trust_remote_code)
            continue
        paths = {name: Path(modules[0]["path"], name).as_posix() for name in names}
        own = [{"type": router["types"][name], "path": path} for name, path in paths.items()]
        yield _of_modules(place, [*own, *modules[1:]], trust_remote_code)


@contextmanager
def _view(place: Path, modules: list[dict[str, Any]]) -> Iterator[Path]:
    """A folder like another one, but with these modules only."""
    if json.loads((place / "modules.json").read_text(encoding="utf-8")) == modules:
        yield place
        return
    with tempfile.TemporaryDirectory() as view:
        for path in place.resolve().iterdir():
            if path.name != "modules.json":
                os.symlink(path, Path(view, path.name), path.is_dir())
        Path(view, "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        yield Path(view)


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


NOT_READ = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx*", "*.gguf", "*.tflite"]
"""Files of a model on the hub that are other forms of its weights."""


def _download(name: str, revision: str | None) -> Path:
    """The files of a model on the hub, in the cache of huggingface_hub.

    Raises:
        FileNotFoundError: says what keeps them away: the name, the revision, the rights, or the network.
    """
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"{name}: there is no such file or folder")
    which = name if revision is None else f"{name} at revision {revision}"
    start = f"{which}: there is no such folder here, and the model of the hub could not be loaded: "
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_READ))
    except GatedRepoError as error:
        reason = f"its owner has to grant access: ask for it on huggingface.co/{name}, then `hf auth login`"
        raise FileNotFoundError(start + reason) from error
    except RepositoryNotFoundError as error:
        reason = "the hub has none of this name, or it is private: correct the name, or `hf auth login`"
        raise FileNotFoundError(start + reason) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{start}it has no revision {revision!r}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = (
            "the hub can't be reached (no network, or HF_HUB_OFFLINE is set), and it isn't in the cache of "
            "this machine: download it where there is a network, and name its folder"
        )
        raise FileNotFoundError(start + reason) from error
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise FileNotFoundError(start + (str(error).splitlines() or [type(error).__name__])[0]) from error
