"""The model card of an export: ``README.md`` with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_metric.before_after import worse_than_before
from lit_metric.encoders import Encoder, SetEncoder, TextEncoder, TwoTowerEncoder
from lit_metric.encoders.pretrained import HUB_ID
from lit_metric.encoders.recipe import EXPORTED
from lit_metric.hub.check import Check
from lit_metric.hub.onnx import RUNNER, OnnxCheck
from lit_metric.store import PACKAGE

log = logging.getLogger(__name__)

CARD = "README.md"
TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "lit-metric"]
TASK = "sentence-similarity"

MAIN = ("map@r", "mrr", "ndcg@10", "spearman", "tot", "filtered_mrr", "knn10_accuracy")
"""Measures by which before and after are compared where a run doesn't name one, the first that it has."""

PATH = re.compile(
    r"[~.]?[/\\]|\.\.|[A-Za-z]:[/\\]|.*[/\\].*\.(csv|tsv|jsonl?|parquet|arrow|txt|npy|ckpt|gz|ya?ml)$"
)
"""What is a path and no id of the hub, as it is absolute, or is a file of data."""

SPLITS = ("train", "validation", "test")


def run_of(model: str | Path) -> Path | None:
    """The folder of the run that a model comes from, if it is a run, its ``model/`` or one of its
    checkpoints."""
    path = Path(model).expanduser()
    places = [
        path,
        *([path.parent] if path.name == "model" else []),
        *([path.parent.parent] * path.is_file()),
    ]
    return next((each for each in places if (each / "config.yaml").is_file()), None)


def write_card(
    folder: Path,
    encoder: Encoder,
    checks: Sequence[Check | OnnxCheck],
    run: str | Path | None = None,
    name: str | None = None,
    examples: Sequence[str] = (),
) -> None:
    """Write ``README.md`` into an exported folder; a failure is logged and costs nothing else.

    The card has names of files, counts, settings and metrics, and no texts of the data but ``examples``.

    Args:
        folder: that was exported.
        encoder: that was exported.
        checks: of its forms.
        run: the folder of the run that trained it.
        name: of the model, such as its id on the hub; that of the folder if None.
        examples: texts of the data to show.
    """
    try:
        text = card(
            name or folder.name, folder, encoder, checks, None if run is None else Path(run), examples
        )
        (folder / CARD).write_text(text, encoding="utf-8")
    except Exception as error:  # whatever a config or a report holds
        log.warning("The model card could not be written (%s: %s)", type(error).__name__, error)


def card(
    name: str,
    folder: Path,
    encoder: Encoder,
    checks: Sequence[Check | OnnxCheck],
    run: Path | None,
    examples: Sequence[str] = (),
) -> str:
    """The text of a model card; see :func:`write_card`."""
    config = _read(run, "config.yaml")
    report = _read(run, "metrics.json")
    body = [
        f"# {escaped(name)}",
        _what(encoder),
        "## Use",
        _usage(name, folder, encoder),
        "## Training",
        _training(config, report),
        *(
            ["Some of the training data:", "\n".join(f"- {escaped(text)}" for text in examples)]
            if examples
            else []
        ),
        "## Metrics",
        _metrics(config, report),
        "## Checks",
        "Each form was read back when it was exported. Its vectors, brought to length 1, were compared with "
        "those of the trained encoder:",
        "\n".join(f"- {escaped(str(check))}" for check in checks),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(encoder)),
    ]
    return f"---\n{_metadata(name, config, report)}\n---\n\n" + "\n\n".join(body) + "\n"


def escaped(text: str) -> str:
    r"""A text in one line of Markdown, with no meaning but itself, also in a table.

    Example:
        >>> print(escaped("a|b <i> `c`"))
        a\|b &lt;i> \`c\`
    """
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", line).replace("<", "&lt;")


def fenced(text: str, language: str = "") -> str:
    """A block of code, in a fence that the text can't close."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _read(run: Path | None, name: str) -> dict[str, Any]:
    path = None if run is None else run / name
    if path is None or not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    return content if isinstance(content, dict) else {}


def _metadata(name: str, config: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    # Here, as it takes time, and loading needs none of it.
    from huggingface_hub import EvalResult, ModelCardData

    after, split = _finite(report.get("after")), str(report.get("split") or "test")
    files = _files(config)
    data = files.get(split) or files.get("train") or "own data"
    results = [
        EvalResult(TASK, "custom", data, metric, round(value, 6), dataset_split=split)
        for metric, value in after.items()
    ]
    bases = dict.fromkeys(each for each in _backbones(config) if HUB_ID.fullmatch(each) and "/" in each)
    bases = dict.fromkeys(each for each in bases if not Path(each).exists())
    metadata = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=TASK,
        tags=TAGS,
        base_model=next(iter(bases)) if len(bases) == 1 else [*bases] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(metadata.to_yaml()).strip()


def _what(encoder: Encoder) -> str:
    towers = [encoder.query, encoder.document] if isinstance(encoder, TwoTowerEncoder) else [encoder]
    kinds = {True: "items of several texts, such as tags,", False: "texts"}
    lines = []
    for tower in towers:
        text = tower.text if isinstance(tower, SetEncoder) else tower
        who = "" if len(towers) == 1 else ("Queries: " if tower is towers[0] else "Documents: ")
        line = (
            f"{who}Encodes {kinds[isinstance(tower, SetEncoder)]} as vectors of {tower.dimension} components"
        )
        line += f" by a {type(tower).__name__}"
        if isinstance(text, TextEncoder):
            settings: Any = getattr(text.backbone.model, "config", None)
            kind = "a table of token vectors" if settings is None else f"a {settings.model_type} model"
            line += f" with {kind} and {type(text.pooling).__name__}"
            if isinstance(tower, SetEncoder):
                line += f", and {type(tower.pooling).__name__} of the texts of an item"
        lines.append(f"{line}.")
    count = sum(each.numel() for each in encoder.parameters())
    lines.append(f"{count:,} parameters. Trained with lit-metric, by deep metric learning.")
    return "\n\n".join(lines)


def _usage(name: str, folder: Path, encoder: Encoder) -> str:
    code = (folder / f"{EXPORTED}.py").is_file()
    tower = encoder.query if isinstance(encoder, TwoTowerEncoder) else encoder
    sets = isinstance(tower, SetEncoder)
    shown = json.dumps(name, ensure_ascii=False)
    roles = [*encoder.tokenizer.roles]
    calls = ["encode"] if not {"query", "document"} & {*roles} else ["encode_query", "encode_document"]
    lines = ["from sentence_transformers import SentenceTransformer", ""]
    lines.append(f"model = SentenceTransformer({shown}{', trust_remote_code=True' if code else ''})")
    for call in calls:
        one = encoder.document if isinstance(encoder, TwoTowerEncoder) and call != calls[0] else tower
        item = '"a tag | another tag"' if isinstance(one, SetEncoder) else '"a text"'
        lines.append(f"vectors = model.{call}([{item}])")
    item = '["a tag", "another tag"]' if sets else '"a text"'
    role = ', role="query"' if len(calls) > 1 else ""
    own = ["import lit_metric", "", f"encoder = lit_metric.load({shown})"]
    own.append(f"vectors = encoder.encode([{item}]{role})")
    command = f"lit-metric encode --model {shlex.quote(name)} --input items.csv --output vectors.parquet"
    command += " --role query" * (len(calls) > 1)
    parts = [f"In Python, with sentence-transformers:\n\n{fenced(chr(10).join(lines), 'python')}"]
    if code:
        parts.append(
            f"`trust_remote_code=True` runs `{EXPORTED}.py` of this model, which has what "
            "sentence-transformers lacks."
        )
    if isinstance(encoder, SetEncoder) or any(isinstance(each, SetEncoder) for each in encoder.children()):
        parts.append(
            "A set of texts is a list, or one string with ` | ` between the texts; a `|` or a backslash "
            "within a text gets a backslash before it."
        )
    parts.append(f"In Python, with lit-metric:\n\n{fenced(chr(10).join(own), 'python')}")
    parts.append(f"On the command line, with lit-metric:\n\n{fenced(command, 'sh')}")
    if graphs := sorted(path.parent.relative_to(folder) for path in folder.glob(f"onnx/**/{RUNNER}")):
        lines = [f"from {RUNNER.removesuffix('.py')} import OnnxEncoder", ""]
        lines.append(f'vectors = OnnxEncoder("{graphs[0].as_posix()}").encode([{item}])')
        parts.append(
            f"Without PyTorch, by onnxruntime, tokenizers, numpy and `{RUNNER}` beside the graphs:\n\n"
            + fenced("\n".join(lines), "python")
        )
    return "\n\n".join(parts)


def _training(config: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    if not config and not report:
        return "It was exported without the folder of its run, so the card can't say how it was trained."
    parts = []
    if files := _files(config):
        parts.append("\n".join(f"- {split}: {escaped(name)}" for split, name in files.items()))
    counted = {
        "texts": "{:,} texts encoded in training steps",
        "steps": "{:,} steps",
        "seconds": "{:,.0f} seconds",
    }
    facts = [
        form.format(report[key]) for key, form in counted.items() if isinstance(report.get(key), (int, float))
    ]
    if facts:
        parts.append("In all: " + ", ".join(facts) + ".")
    settings = {
        "seed_everything": config.get("seed_everything"),
        "model": config.get("model"),
        "data": config.get("data"),
        "trainer": {
            name: (config.get("trainer") or {}).get(name)
            for name in (
                "max_epochs",
                "max_steps",
                "precision",
                "gradient_clip_val",
                "accumulate_grad_batches",
            )
        },
    }
    shown = yaml.safe_dump(_short(settings), allow_unicode=True, sort_keys=False, width=100)
    parts.append(
        f"Settings of `lit-metric fit`, with names of files in place of paths:\n\n{fenced(shown, 'yaml')}"
    )
    return "\n\n".join(parts)


def _short(node: Any) -> Any:
    """Settings without those that are not given, and paths cut to the names of files."""
    if isinstance(node, Mapping):
        inner = {str(key): _short(value) for key, value in node.items()}
        return {key: value for key, value in inner.items() if value is not None and value != {}}
    if isinstance(node, list):
        return [_short(each) for each in node]
    if isinstance(node, str) and not node.startswith(PACKAGE) and PATH.match(node):
        return _base(node)
    return node


def _base(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _files(config: Mapping[str, Any]) -> dict[str, str]:
    """Names of the files of each split."""
    data = config.get("data") or {}
    data = data.get("init_args", data)
    files = {}
    for split in SPLITS:
        given = data.get(split)
        names = [_base(value) for value in _strings(given)]
        if names:
            files[split] = ", ".join(names)
    return files


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, tuple)):
        for each in node:
            yield from _strings(each)
    elif isinstance(node, Mapping):
        yield from _strings(
            [value for key, value in node.items() if key in ("path", "file", "files", "paths")]
        )


def _backbones(node: Any) -> Iterator[str]:
    """The values of all keys ``backbone``."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "backbone" and isinstance(value, str):
                yield value
            else:
                yield from _backbones(value)
    elif isinstance(node, list):
        for each in node:
            yield from _backbones(each)


def _finite(metrics: Any) -> dict[str, float]:
    given = metrics if isinstance(metrics, Mapping) else {}
    return {
        str(name): float(value)
        for name, value in given.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _metrics(config: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    before, after = _finite(report.get("before")), _finite(report.get("after"))
    if not after:
        return "Not measured."
    lines = ["| measure | before training | after | change |", "| --- | ---: | ---: | ---: |"]
    for name, value in after.items():
        old = before.get(name)
        shown = ("–", "–") if old is None else (f"{old:.4f}", f"{value - old:+.4f}")
        lines.append(f"| {escaped(name)} | {shown[0]} | {value:.4f} | {shown[1]} |")
    parts = [f"On the {escaped(report.get('split') or 'test')} split:", "\n".join(lines)]
    main = report.get("main_metric") or _monitored(config)
    if main not in after:
        main = next((name for name in MAIN if name in after), None)
    if warning := worse_than_before({"main_metric": main, "before": before, "after": after}):
        parts.insert(0, f"> **Warning:** {escaped(warning)}.")
    return "\n\n".join(parts)


def _monitored(config: Mapping[str, Any]) -> str | None:
    """The measure by which the best checkpoint was chosen."""
    for callback in (config.get("trainer") or {}).get("callbacks") or []:
        monitor = (callback.get("init_args") or {}).get("monitor") if isinstance(callback, Mapping) else None
        if isinstance(monitor, str):
            return monitor.partition("/")[2] or monitor
    return None


def _limits(encoder: Encoder) -> Iterator[str]:
    towers = [encoder.query, encoder.document] if isinstance(encoder, TwoTowerEncoder) else [encoder]
    lengths = sorted({getattr(tower.tokenizer, "max_length", 0) for tower in towers})
    yield f"Texts are cut to {' or '.join(map(str, lengths))} tokens, unless their role has another length."
    yield "Vectors are meant to be compared by cosine similarity."
    yield "Empty texts share one vector, which has no meaning."
    if any(isinstance(tower, SetEncoder) for tower in towers):
        yield "The order of the texts of an item has no meaning."
    yield "It was trained on texts of one kind: measure it on texts of another kind before you use it there."
