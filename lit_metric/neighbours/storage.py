"""Classifiers on disk: safetensors, JSON and the folder of an encoder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_metric.encoders import Encoder
from lit_metric.hub.loading import RUN_FOLDER
from lit_metric.store import StoredError, sha256, sync_folder, write_json

CONFIG = "classifier.json"
VECTORS = "vectors.safetensors"
FORMAT = 1


class StoredClassifierError(StoredError):
    """A saved classifier is missing, damaged, or of another format."""

    remedy = "fit the classifier and save it again"


def write_classifier(
    folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor], encoder: Encoder | None
) -> None:
    """Write a classifier, in place of an earlier one in the same folder, once all of it is written.

    Args:
        folder: must be new, empty, or hold a classifier.
        state: what JSON can hold.
        tensors: by name.
        encoder: for the folder ``model``, or None.

    Raises:
        FileExistsError: there is something else in ``folder``.
        TypeError: JSON can't hold the state.
    """
    replaced = (folder / CONFIG).is_file()
    if not replaced and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and holds no classifier; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    unfinished.mkdir()
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished / VECTORS)
        if encoder is not None:
            encoder.save(unfinished / RUN_FOLDER)
        content = {"format": FORMAT, "sha256": sha256(unfinished / VECTORS), "encoder": encoder is not None}
        write_json(unfinished / CONFIG, {**content, **state})
        if replaced:
            folder.rename(before)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(before, ignore_errors=True)
    sync_folder(folder.parent)


def read_classifier(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path | None]:
    """What :func:`write_classifier` wrote: the state, the tensors, and the folder of the encoder, if any.

    Raises:
        StoredClassifierError: there is no classifier, one of another format, or a damaged one.
    """
    path, remedy = folder / CONFIG, StoredClassifierError.remedy
    if not path.is_file():
        raise StoredClassifierError(f"{folder} holds no {CONFIG}, so no classifier was saved there; {remedy}")
    try:
        state = dict(json.loads(path.read_text(encoding="utf-8")))
        found, digest, has_encoder = state.pop("format"), state.pop("sha256"), state.pop("encoder")
    except (ValueError, KeyError, TypeError) as error:
        raise StoredClassifierError(f"{path} is damaged ({error!r}); {remedy}") from error
    if found != FORMAT:
        raise StoredClassifierError(f"{path} has format {found}, this version reads {FORMAT}; {remedy}")
    vectors = folder / VECTORS
    if not vectors.is_file() or sha256(vectors) != digest:
        raise StoredClassifierError(
            f"{vectors} is missing or damaged: its sha256 is not that of {CONFIG}; {remedy}"
        )
    return state, load_file(vectors), folder / RUN_FOLDER if has_encoder else None
