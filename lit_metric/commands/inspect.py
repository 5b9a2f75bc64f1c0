"""Write one page about a run: what was learned, what was mined, and what is wrong with the data."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from lit_metric.commands.items import RoleEncoder, check_output, split_tags
from lit_metric.commands.mine import read_data
from lit_metric.data import DataError
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import CONFIG as ENCODER
from lit_metric.encoders.base import Precision
from lit_metric.hub import load
from lit_metric.modules.evaluated import EvaluatedModule
from lit_metric.report.gather import Inspected, gather
from lit_metric.report.page import write_page
from lit_metric.report.run_folder import CONFIG, METRICS, read_run
from lit_metric.report.structure import Report, Run

log = logging.getLogger(__name__)

PAGE, PLOTS, MODEL, UNTRAINED = "report.html", "plots", "model", "untrained.safetensors"


def inspect(
    model: str,
    data: MetricDataModule | None = None,
    compare: str | None = None,
    output: str | None = None,
    query: list[str] | None = None,
    max_items: int = 20_000,
    precision: Precision = "float32",
    plots: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> None:
    """Write one page about a run: what was learned, what was mined, and what is wrong with the data.

    The page is one HTML file. It needs no network, so it can be sent to somebody else. It holds texts and
    labels of your data.

    Args:
        model: run folder; or another encoder, with --data.
        data: other data than those of the run, by the options of fit, such as --data.train and --data.test.
        compare: a second run; before and after are then the first and the second, on the data of the first.
        output: file to write, .html (report.html in the run folder).
        query: a text, or tags with commas between them, whose neighbours the page shows; may be repeated.
        max_items: items that the page shows: those measured, what they search, then training items.
        precision: of matrix products.
        plots: also write the map, the curves and the confusions as PNG and SVG into the folder plots of the
            run, or next to the page.
        seed: of the choice of items, the intervals and the map.
        trust_remote_code: allow classes outside lit_metric and transformers.

    Raises:
        DataError: when the data can't be used, or there are none.
        ValueError: when an option is out of range, or model and data don't fit together.

    Example:
        lit-metric inspect --model runs/questions --query "my card has not arrived"
    """
    started, folder = time.perf_counter(), Path(model).expanduser()
    is_run = (folder / CONFIG).is_file() or (folder / METRICS).is_file()
    if output is None and not is_run:
        raise ValueError(
            f"--model {model} is no folder of a run, so say where the page goes: --output FILE.html"
        )
    path = folder / PAGE if output is None else check_output(output, [".html"])
    if data is None:
        if not (folder / CONFIG).is_file():
            raise DataError(
                f"--model {model} has no {CONFIG}, which names the data of a run: give them by --data.train FILE, "
                "--data.test FILE and the like"
            )
        data, own = read_data(str(folder)), True
    else:
        own = False
    inspected = inspected_run(folder, model, data, own, compare, trust_remote_code)
    asked = typed(inspected.after, query or [])
    report = gather(inspected, asked, max_items, precision, seed)
    finish(report, path, plots, started)


def inspected_run(
    folder: Path, model: str, data: MetricDataModule, own: bool, compare: str | None, trust: bool
) -> Inspected:
    """What a report of a run is made of.

    Args:
        folder: of the run.
        model: as it was named.
        data: to look at.
        own: whether these are the data of the run.
        compare: the second run, if two are compared.
        trust: allow classes outside lit_metric and transformers.
    """
    run, written = read_run(folder) if folder.is_dir() else (unknown(model), {})
    first = load(model, trust)
    inspected = Inspected(folder.resolve().name, run, data, first, folder=folder if folder.is_dir() else None)
    inspected.written = written if own else {}
    module, why = (
        build_again(folder, trust) if (folder / CONFIG).is_file() else (None, "it has no config.yaml")
    )
    if module is not None:
        names = ("ks", "knn", "knn_temperature", "space")
        inspected.options = {name: getattr(module, name) for name in names}
    if compare is not None:
        other = Path(compare).expanduser().resolve().name
        distinct = inspected.title != other
        inspected.names = (inspected.title, other) if distinct else (model, compare)
        inspected.before, inspected.after, inspected.compared = first, load(compare, trust), True
        inspected.title = " and ".join(inspected.names)
    elif (folder / UNTRAINED).is_file() and (folder / MODEL / ENCODER).is_file():
        inspected.before = Encoder.load(folder / MODEL, trust, load_file(folder / UNTRAINED))
        inspected.exact = True
    elif module is not None:
        inspected.before = module.encoder
    else:
        run.warnings.append(f"The untrained encoder can't be built again: {why}.")
    return inspected


def unknown(model: str) -> Run:
    """The run of an encoder of which nothing else is known."""
    return Run(model, "", "", "unknown", 0.0, 0, 0, 0.0, [], [])


def build_again(folder: Path, trust: bool = False) -> tuple[EvaluatedModule | None, str]:
    """The learner of a run as it was before training, and why it can't be built.

    Weights that are drawn at random are those of the run, if nothing else has drawn from the same seed.

    Args:
        folder: of the run, with ``config.yaml``.
        trust: allow classes outside lit_metric and transformers.
    """
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        section, seed = content["model"], content.get("seed_everything")
        if "class_path" not in section:
            section = {"class_path": "lit_metric.MetricLearner", "init_args": section}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--model", type=EvaluatedModule)
        parsed = parser.parse_object({"model": section})
        with torch.random.fork_rng(), stage("building the untrained encoder"):
            if isinstance(seed, int) and not isinstance(seed, bool):
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                torch.manual_seed(seed)
            module = parser.instantiate(parsed).model
    except Exception as error:  # of any class that the config names
        return None, (str(error).splitlines() or [type(error).__name__])[0]
    return module, ""


def typed(encoder: Encoder, queries: Sequence[str]) -> list[tuple[str, Any]]:
    """Texts that were asked for, as they are shown and as the encoder takes them.

    Raises:
        ValueError: when one is empty.
    """
    if not queries:
        return []
    kind = RoleEncoder(encoder, None, "--query", "query").kind
    asked: list[tuple[str, Any]] = [
        (each, list(dict.fromkeys(split_tags(each, None))) if kind == "set" else each) for each in queries
    ]
    if not all(item if isinstance(item, list) else item.strip() for _, item in asked):
        raise ValueError("--query is empty: give a text, or tags with commas between them")
    return asked


def finish(report: Report, path: Path, plots: bool, started: float) -> None:
    """Write the page, and plots if asked, and say so.

    Args:
        report: to be shown.
        path: of the page.
        plots: whether to draw plots, in the folder of that name next to the page.
        started: time of ``perf_counter``.
    """
    with stage("writing the page"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(report, path)
    spent, projection = time.perf_counter() - started, report.seconds_to_write.get("project", 0.0)
    shown, every = len(report.items), sum(each.items for each in report.splits)
    for warning in report.run.warnings:
        log.warning("%s", warning)
    if plots:
        log.info("Drew plots into %s", path.parent / PLOTS)
    log.info(
        "Wrote %s (%.1f MB) about %d of %d items in %.0f s, of which the projection took %.0f s",
        path,
        path.stat().st_size / 1e6,
        shown,
        every,
        spent,
        projection,
    )
