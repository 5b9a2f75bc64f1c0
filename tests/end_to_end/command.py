"""The command line, called from within a test."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_metric.cli import main
from tests.small import Small

ROOT = Path(__file__).parents[2]
NAMES = {"hit_rate@1", "map@r", "knn1_accuracy", "knn10_accuracy", "knn10_accuracy_macro"}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))  # recipes add to one of these


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within ``folder``, and afterwards with the environment, loggers and warnings that there were before."""
    environment, here = dict(os.environ), Path.cwd()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        root.handlers[:], root.level = handlers, level


def run(folder: Path, *arguments: str) -> None:
    """``lit-metric ARGUMENTS`` in ``folder``."""
    with working_in(folder):
        main(list(arguments))


def options(**values: Any) -> list[str]:
    """``a__b=1`` as ``--a.b=1``."""
    return [f"--{name.replace('__', '.')}={value}" for name, value in values.items()]


def small_options(config: Path, small: Small) -> list[str]:
    """What lets a config of the project run on the small world, and says nothing else."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    places = [*_places(content["model"], "backbone")] or ["encoder.backbone"]
    given = [f"--model.{place}={small / 'deep'}" for place in places]
    sources = content["data"].get("init_args", content["data"])
    if "supervision" in sources:
        return [*given, *_supervised(config, small), *_everywhere(small)]
    for split in ("train", "test"):
        source = sources.get(split)
        if source is not None:
            assert source.startswith("package:"), f"{config}: {source} is no file that is installed"
        elif "train" not in sources:
            given.append(f"--data.{split}={small / f'many_{split}.csv'}")
            given.append("--data.validation_share=0.4")  # of five questions for each intent
    return [*given, *_everywhere(small)]


def _everywhere(small: Small) -> list[str]:
    return options(data__cache_dir=small / "cache", trainer__accelerator="cpu", trainer__devices=1)


def _supervised(config: Path, small: Small) -> list[str]:
    """The files that the first comment of the config names, in the folder of its name."""
    [train] = re.findall(r"--data\.train (\S+)", config.read_text(encoding="utf-8"))
    arguments = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["supervision"]
    files = {"train": train}
    for name, value in arguments["init_args"].items():
        if isinstance(value, str) and value.endswith(".parquet"):
            files[f"supervision.{name}"] = value
    return [f"--data.{name}={small / f'{config.stem}/{file}'}" for name, file in files.items()]


def _places(node: Any, name: str, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name:
                yield f"{path}{key}"
            else:
                yield from _places(value, name, f"{path}{key}.")


def metrics(folder: Path) -> dict[str, Any]:
    """What ``metrics.json`` says."""
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


def logged(folder: Path, name: str) -> dict[int, float]:
    """The values of a column of ``metrics.csv`` by step."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}
