"""Write one page about a run: what was learned, what was mined, and what is wrong with the data."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from lit_metric.callbacks.untrained import UNTRAINED
from lit_metric.commands.items import RoleEncoder, check_output, split_tags
from lit_metric.commands.mine import read_data
from lit_metric.data import DataError
from lit_metric.data.progress import stage
from lit_metric.datamodule import MetricDataModule
from lit_metric.encoders import Encoder
from lit_metric.encoders.base import CONFIG as ENCODER
from lit_metric.encoders.base import Precision
from lit_metric.encoders.inference import multiplies_bfloat16
from lit_metric.hub import load
from lit_metric.index import Embeddings
from lit_metric.modules.evaluated import EvaluatedModule
from lit_metric.report.gather import Inspected, gather
from lit_metric.report.page import write_page
from lit_metric.report.plots import check_matplotlib, draw_plots
from lit_metric.report.run_folder import CONFIG, METRICS, read_run
from lit_metric.report.structure import Report, Run

log = logging.getLogger(__name__)

PAGE, PLOTS, MODEL = "report.html", "plots", "model"
EVALUATED = ("ks", "knn", "knn_temperature", "space")
"""Options of a learner that its evaluation takes."""


def inspect(
    model: str,
    data: MetricDataModule | None = None,
    compare: str | None = None,
    output: str | None = None,
    query: list[str] | None = None,
    max_items: int = 20_000,
    precision: Precision | None = None,
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
        precision: of matrix products behind the vectors (that in which the run measured, float32 if unknown;
            or bfloat16, if the metrics of the page are those that the run wrote, and the processor multiplies
            bfloat16 in hardware).
        plots: also draw the map, the curves and the confusions, as PNG and SVG, into the folder plots next to
            the page.
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
    if plots:
        check_matplotlib()
    path = folder / PAGE if output is None else check_output(output, [".html"])
    if data is None:
        if not (folder / CONFIG).is_file():
            raise DataError(
                f"--model {model} has no {CONFIG}, which names the data of a run: give them by "
                "--data.train FILE, --data.test FILE and the like"
            )
        data, own = read_data(str(folder)), True
    else:
        own = False
    inspected = inspected_run(folder, model, data, own, compare, trust_remote_code)
    asked = typed(inspected.after, query or [])
    report = gather(inspected, asked, max_items, precision or precision_for(inspected, folder), seed)
    finish(report, path, path.parent / PLOTS if plots else None, started)


PRECISIONS: dict[str, Precision] = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
"""In which precision a run measures, by that of its trainer; the others measure in float32."""


def precision_of(options: dict[str, Any]) -> Precision:
    """The precision in which a run with these options measured."""
    trainer = options.get("trainer")
    return PRECISIONS.get(str(trainer.get("precision") if isinstance(trainer, dict) else None), "float32")


def precision_for(inspected: Inspected, folder: Path) -> Precision:
    """The precision of a page's vectors, if none was asked for: that of the run, or bfloat16 where it is
    faster and no metric of the page comes from it."""
    own = precision_of(run_options(folder))
    written = all(inspected.written.get(each) for each in ("before", "after", "intervals"))
    if own != "float32" or not written or inspected.compared or torch.cuda.is_available():
        return own
    return "bfloat16" if multiplies_bfloat16() else own


def run_options(folder: Path) -> dict[str, Any]:
    """The options of a run, ``{}`` if its folder has no ``config.yaml``.

    Raises:
        DataError: when the file is no YAML of a run.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no YAML of a run")
    return content


def inspect_fit(
    folder: Path,
    data: MetricDataModule,
    learner: EvaluatedModule,
    precision: str,
    page: bool,
    plots: bool,
    known: Mapping[str, Embeddings] = MappingProxyType({}),
) -> Path | None:
    """Write the page of a run that has just been trained, its plots, or both.

    Args:
        folder: of the run, with what ``RunReport`` wrote and the untrained weights.
        data: of the run.
        learner: that was trained.
        precision: of the trainer.
        page: whether to write the page.
        plots: whether to draw plots.
        known: the vectors that were measured ``"before"`` and ``"after"``.

    Returns:
        The page, if it is written.
    """
    started = time.perf_counter()
    run, written = read_run(folder)
    options = {name: getattr(learner, name) for name in EVALUATED}
    inspected = Inspected(
        folder.resolve().name, run, data, load(folder, True), None, written, options, folder
    )
    add_untrained(inspected, folder, True)
    inspected.known = known.get("before"), known.get("after")
    report = gather(inspected, precision=PRECISIONS.get(precision, "float32"), shown=False)
    return finish(report, folder / PAGE if page else None, folder / PLOTS if plots else None, started)


def add_untrained(inspected: Inspected, folder: Path, trust: bool) -> None:
    """Give what is inspected the untrained encoder and the options of its evaluation, as far as they are
    known, or a warning that says why not.

    Args:
        inspected: is changed.
        folder: of the run.
        trust: allow classes outside lit_metric and transformers.
    """
    kept = (folder / UNTRAINED).is_file() and (folder / MODEL / ENCODER).is_file()
    learner, why = (None, "") if kept and inspected.options else build_again(folder)
    if learner is not None:
        inspected.options = {name: getattr(learner, name) for name in EVALUATED}
    if inspected.compared:
        return
    if kept:
        inspected.before = Encoder.load(folder / MODEL, trust, load_file(folder / UNTRAINED))
        inspected.exact = True
    elif learner is not None:
        inspected.before = learner.encoder
    else:
        inspected.run.warnings.append(f"Nothing is known of the untrained encoder: {why}.")


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
    is_folder = folder.is_dir()
    run, written = read_run(folder) if is_folder else (Run(model, "", "", "unknown", 0, 0, 0, 0, [], []), {})
    inspected = Inspected(
        folder.resolve().name, run, data, load(model, trust), folder=folder if is_folder else None
    )
    inspected.written = written if own else {}
    if compare is not None:
        other = Path(compare).expanduser().resolve().name
        inspected.names = (model, compare) if inspected.title == other else (inspected.title, other)
        inspected.before, inspected.after = inspected.after, load(compare, trust)
        inspected.compared, inspected.title = True, " and ".join(inspected.names)
    add_untrained(inspected, folder, trust)
    return inspected


def build_again(folder: Path) -> tuple[EvaluatedModule | None, str]:
    """The learner of a run as it was before training, or why it can't be built.

    Weights that are drawn at random are those of the run, if nothing else has drawn from the same seed.

    Args:
        folder: of the run.
    """
    try:
        content = run_options(folder)
        section, seed = content.get("model"), content.get("seed_everything")
        if not isinstance(section, dict):
            return None, f"there is no {CONFIG} that describes it"
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


def finish(report: Report, page: Path | None, plots: Path | None, started: float) -> Path | None:
    """Write the page, draw plots, and say so.

    Args:
        report: to be shown.
        page: its path, None for none.
        plots: folder of the plots, None for none.
        started: time of ``perf_counter``.

    Returns:
        ``page``.
    """
    for warning in report.run.warnings:
        log.warning("%s", warning)
    if plots is not None:
        log.info("Drew %s", ", ".join(str(path) for path in draw_plots(report, plots)) or "no plots")
    if page is None:
        return None
    with stage("writing the page"):
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(report, page)
    spent, projection = time.perf_counter() - started, report.seconds_to_write.get("project", 0.0)
    log.info(
        "Wrote %s (%.1f MB), with %d of %d items, in %.0f s, of which the projection took %.0f s",
        page,
        page.stat().st_size / 1e6,
        len(report.items),
        sum(each.items for each in report.splits if each.name != "predict"),
        spent,
        projection,
    )
    return page
