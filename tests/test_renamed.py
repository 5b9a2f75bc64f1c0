"""Every old name is refused with the new one, in Python, YAML and options. Every new name exists."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import pytest

import lit_metric
from lit_metric import renamed
from lit_metric.callbacks import BestCheckpoint
from lit_metric.callbacks.checkpoints import check_monitors
from lit_metric.cli.messages import mistake, with_options
from lit_metric.cli.parser import Parser, parser_of
from lit_metric.losses import InfoNCELoss
from lit_metric.refresh import Refresh

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = [(command, old, new) for command, names in renamed.OPTIONS.items() for old, new in names.items()]


def rows(table: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    return [(place, old, new) for place, names in table.items() for old, new in names.items()]


def at(path: str) -> Any:
    """What a dotted path names."""
    names = path.split(".")
    for count in range(len(names), 0, -1):
        try:
            module = importlib.import_module(".".join(names[:count]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, names[count:], module)
    raise AssertionError(path)


def is_name(new: str) -> bool:
    """Whether it is a name, and not a sentence that says what to do."""
    return " " not in new


def refused_by_parser(cls: type, value: Any) -> set[str]:
    """The messages for ``value`` where a class is asked for: as YAML has it, and as options."""
    told = set()
    content = value if isinstance(value, dict) else {"class_path": value}
    path, arguments = content["class_path"], content.get("init_args", {})
    options = [f"--thing={path}", *(f"--thing.{name}={each}" for name, each in arguments.items())]
    for door, given in (("parse_object", {"thing": content}), ("parse_args", options)):
        parser = Parser(exit_on_error=False)
        parser.add_argument("--thing", type=cls)
        with pytest.raises(jsonargparse.ArgumentError) as refused:
            getattr(parser, door)(given)
        told.add(mistake(refused.value) or "")
    return told


@pytest.mark.parametrize(("package", "old", "new"), rows(renamed.NAMES))
def test_names(package: str, old: str, new: str) -> None:
    message = renamed.refusal(old, new)
    module = importlib.import_module(package)
    with pytest.raises(ImportError, match=f"^{package}.{old} is "):
        exec(f"from {package} import {old}")
    with pytest.raises(ImportError) as refused:
        getattr(module, old)
    assert str(refused.value) == f"{package}.{message}"
    if not is_name(new):
        return
    found = at(new if new.startswith("lit_metric.") else f"{package}.{new}")
    if inspect.isclass(found) and not dataclasses.is_dataclass(found):  # which has no class path
        for path in (old, f"{package}.{old}"):
            assert all(told.endswith(message) for told in refused_by_parser(found, path))


@pytest.mark.parametrize(("place", "old", "new"), rows(renamed.ARGUMENTS))
def test_arguments(place: str, old: str, new: str) -> None:
    thing = at(place)
    name, _, value = old.partition("=")
    with pytest.raises(TypeError) as refused:
        thing(**{name: value or 1})
    message = str(refused.value)
    assert name in message
    assert new in message
    if value:
        assert value in message
    elif is_name(new):
        owners = inspect.getmro(thing) if inspect.isclass(thing) else [thing]
        offered = {each for owner in owners for each in inspect.signature(owner).parameters}
        assert old not in offered
        if new.startswith("data.refresh."):
            offered = {f"data.refresh.{each}" for each in inspect.signature(Refresh).parameters}
        assert new in offered
    if inspect.isclass(thing):
        given = {"class_path": place, "init_args": {name: value or 1}}
        assert all(told.endswith(with_options(message)) for told in refused_by_parser(thing, given))


@pytest.mark.parametrize(("place", "old", "new"), rows(renamed.METHODS))
def test_methods(place: str, old: str, new: str) -> None:
    cls = at(place)
    with pytest.raises(AttributeError, match=re.escape(new)):
        vars(cls)[old].__get__(object(), cls)
    assert vars(cls)[old] is getattr(cls, old)
    assert not is_name(new) or hasattr(cls, new)


@pytest.mark.parametrize(("old", "new"), renamed.METRICS.items())
def test_metrics(old: str, new: str) -> None:
    module: Any = InfoNCELoss()  # any object of the project
    for prefix in ("knn1", "knn10"):
        trainer: Any = SimpleNamespace(callbacks=[BestCheckpoint(monitor=f"val/{prefix}_{old}")])
        told = f"^val/{prefix}_{old} is called val/{prefix}_{new} now$"
        with pytest.raises(ValueError, match=told):
            check_monitors(trainer, module, ["map@r"])
    assert f"`knn10_{new}`" in (DOCS / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("command", "old", "new"), COMMANDS)
def test_options(command: str, old: str, new: str) -> None:
    parser = parser_of(command)
    required = [f"--{action.dest}=x" for action in parser._actions if action.required]
    with pytest.raises(jsonargparse.ArgumentError, match=f"{old} is "):
        parser.parse_args([*required, old, "x"])
    assert not is_name(new) or new.partition(".")[0] in parser._option_string_actions


def test_other_names_are_refused_as_ever() -> None:
    with pytest.raises(AttributeError, match=r"module 'lit_metric.mining' has no attribute 'Nothing'"):
        _ = lit_metric.mining.Nothing
    assert not hasattr(lit_metric, "nothing")
    assert renamed.refused_name("Nothing") is None
    assert renamed.refused_argument(lit_metric.MetricDataModule, "train") is None
    assert renamed.refused_metric("val/map@r") is None


def test_a_value_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "lit_metric.datamodule.MetricDataModule"
    monkeypatch.setitem(renamed.ARGUMENTS, path, {"bad_rows=drop": "skip", "seed": "give it to the trainer"})
    with pytest.raises(TypeError, match=r"^'drop' as bad_rows of MetricDataModule is called skip now$"):
        lit_metric.MetricDataModule(bad_rows="drop")
    with pytest.raises(TypeError, match=r"^seed of MetricDataModule is gone: give it to the trainer$"):
        lit_metric.MetricDataModule(seed=1)
    given = {"class_path": path, "init_args": {"bad_rows": "drop"}}
    assert all("is called skip now" in told for told in refused_by_parser(lit_metric.MetricDataModule, given))
