"""The name of a run, the folder that it gets, and the checkpoint that it resumes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from lit_metric.callbacks.untrained import UNTRAINED
from lit_metric.cli import is_first
from lit_metric.data.errors import REJECTED

log = logging.getLogger(__name__)

RUN = "LIT_METRIC_RUN"
UNNAMED = (None, "", "lightning_logs")
EVENTS = "events.out.tfevents.*"
PRELIMINARY = ("config.yaml", "hparams.yaml", "metrics.csv", "metrics.json", UNTRAINED, EVENTS, REJECTED)
CHECKPOINTS = "checkpoints"
KEYWORDS = ("last", "best")


def name_run(config: Any, fit: bool) -> Path | None:
    """Give a run its name and its folder: all loggers of a config get the same.

    The name is that of ``--name``, else of a logger, else of the config's file, else of the data's file. A
    ``fit`` whose ``ckpt_path`` lies in the folder of a run continues there; another one gets the first of
    ``NAME``, ``NAME-2``, … whose folder holds no config yet.

    Args:
        config: parsed options of ``fit | validate | test | predict``; names, folders and ``ckpt_path`` in it
            are changed.
        fit: whether it is the first of these.

    Returns:
        The folder, if there is one and this process is the first of the run.

    Raises:
        ValueError: when names contradict each other or have no effect, or there is no such checkpoint.
    """
    given = config.trainer.get("logger")
    arguments = [getattr(each, "init_args", None) for each in (given if isinstance(given, list) else [given])]
    # Those loggers whose folder is SAVE_DIR/NAME.
    loggers: list[Any] = [each for each in arguments if each and each.get("save_dir") and "name" in each]
    if not loggers:
        if config.get("name"):
            raise ValueError(f"--name {config.name} has no effect, as no logger has a folder to name")
        if config.get("ckpt_path") in KEYWORDS:
            raise ValueError(f"--ckpt_path {config.ckpt_path} needs a run; give the path of a checkpoint")
        return None
    first = loggers[0]
    named = list(dict.fromkeys(each.name for each in loggers if each.name not in UNNAMED))
    if config.get("name") is None and len(named) > 1:
        raise ValueError(
            f"the loggers name the run {' and '.join(map(repr, named))}, and it has one: give it by --name"
        )
    name = config.get("name") or (named[0] if named else default_name(config))
    if Path(name).name != name:
        raise ValueError(f"--name {name} must be the name of a folder; give the folder around it by save_dir")
    root = Path(first.save_dir)
    if config.get("ckpt_path") in KEYWORDS:
        config["ckpt_path"] = str(_known(root / name, config.ckpt_path))
    checkpoint = Path(config.ckpt_path) if config.get("ckpt_path") else None
    own = None
    if checkpoint is not None and "://" not in str(checkpoint) and checkpoint.name not in ("hpc", "registry"):
        if not checkpoint.is_file():
            others = (
                ", ".join(sorted(path.name for path in checkpoint.parent.glob("*.ckpt"))) or "no checkpoint"
            )
            raise ValueError(f"--ckpt_path {checkpoint}: there is no such file; its folder holds {others}")
        own = run_of(checkpoint)
    if own is not None:
        if own.parent.resolve() != root.resolve():
            root = own.parent
        name = own.name
    elif fit:
        name = _free(root, name)
    former = first.save_dir
    for logger in loggers:
        logger["name"] = name
        if logger.save_dir == former:
            logger["save_dir"] = str(root)
    config["name"] = name
    return root / name if is_first() else None


def default_name(config: Any) -> str:
    """The stem of the config's file, else of that of the data."""
    files = [str(path) for path in config.get("config") or []]
    stems = [Path(path).stem for path in files if Path(path).stem != "config"]
    data = config.get("data")
    source = data.init_args.get("train") if data and data.get("init_args") else None
    if isinstance(source, list):
        source = source[0] if source else None
    stems += [Path(source.partition(":")[0]).stem] if isinstance(source, str) else []
    return next(filter(None, map(plain_name, stems)), "run")


def plain_name(stem: str) -> str:
    """The stem of a file as the name of a folder.

    Example:
        >>> plain_name("my questions (1)")
        'my-questions-1'
    """
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, if it lies in one."""
    if not checkpoint.is_file():
        return None
    for folder in [*checkpoint.parents][:3]:
        if folder.name == CHECKPOINTS:
            return folder.parent if folder.parent.resolve().name else None
        if (folder / "config.yaml").is_file():
            return folder
    return None


def remove_unused(folder: Path) -> None:
    """Remove the folder of a run that has trained nothing, and the one around it if that is then empty.

    It stays if it holds more than is written before training, and so does a list of rejected rows.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not all(any(map(path.match, PRELIMINARY)) for path in files):
        return
    for path in files:
        if path.name != REJECTED:
            path.unlink()
    for empty in [*sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True), folder]:
        with contextlib.suppress(OSError):  # not empty, or never made
            empty.rmdir()
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _known(folder: Path, keyword: str) -> Path:
    """The checkpoint that a keyword means in the folder of a run."""
    path = folder / CHECKPOINTS / f"{keyword}.ckpt"
    if path.is_file():
        return path
    others = sorted(each.name for each in (folder / CHECKPOINTS).glob("*.ckpt"))
    there = f"it holds {', '.join(others)}: give the path of one" if others else "there is no checkpoint"
    raise ValueError(
        f"--ckpt_path {keyword}: there is no {path}; {there}, name another run by --name, or start a new one "
        "without --ckpt_path"
    )


def _free(root: Path, name: str) -> str:
    if not is_first() and RUN in os.environ:
        return os.environ[RUN]  # rank zero looked before it wrote anything
    number, candidate = 1, name
    while (root / candidate / "config.yaml").exists():
        number += 1
        candidate = f"{name}-{number}"
    if candidate != name and is_first():
        log.warning("%s holds a run already; this one writes to %s", root / name, root / candidate)
    os.environ[RUN] = candidate
    return candidate
