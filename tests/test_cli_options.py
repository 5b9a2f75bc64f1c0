"""Values of options arrive as typed, at every level; short names; own classes; start without torch."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError

import lit_metric
from lit_metric import batching, callbacks, data, encoders, index, losses, mining
from lit_metric.cli import COMMANDS, main
from lit_metric.cli.defaults import CONFIGS
from lit_metric.cli.parser import Parser, parser_of
from lit_metric.cli.training import resolved
from lit_metric.loggers import RunLogger

PACKAGES = (batching, callbacks, data, encoders, index, losses, mining)
BASES = (
    batching.BatchPlanner,
    callbacks.BestCheckpoint,
    callbacks.StopEarly,
    data.Supervision,
    encoders.Encoder,
    encoders.Pooling,
    encoders.Projection,
    index.Index,
    losses.Loss,
    mining.Draw,
    mining.Miner,
    mining.NegativeFilter,
    mining.Proposer,
    RunLogger,
    lit_metric.MetricDataModule,
    lit_metric.MetricLearner,
    lit_metric.TwoTowerLearner,
)


TEXT = '{"class_path": "TextEncoder", "init_args": {"backbone": "b"}}'
REQUIRED = {
    "backbone": "b",
    "corpus": "c.csv",
    "dimension": "3",
    "dimensions": "[3]",
    "document": TEXT,
    "encoder": TEXT,
    "entities": "e.csv",
    "loss": "lit_metric.losses.InfoNCELoss",
    "losses": '{"a": {"class_path": "lit_metric.losses.InfoNCELoss"}}',
    "planners": '[{"class_path": "lit_metric.batching.PKPlanner"}]',
    "queries": "q.csv",
    "query": TEXT,
    "text": TEXT,
}
"""Values of arguments without a default."""
FROZEN = {losses.GuidedLoss, losses.DeduplicatedLoss, mining.EncoderProposer}
"""Classes whose ``encoder`` is the id or folder of a frozen one."""


def optional(cls: type) -> list[str]:
    """The arguments of a class whose default is None."""
    found = inspect.signature(cls).parameters.values()
    return [each.name for each in found if each.default is None]


def public() -> list[tuple[type, type]]:
    """Each public class that can be named on the command line, with the kind that it is asked for as."""
    named = [getattr(package, name) for package in PACKAGES for name in package.__all__]
    named += [RunLogger, lit_metric.MetricDataModule, lit_metric.MetricLearner, lit_metric.TwoTowerLearner]
    pairs = []
    for cls in dict.fromkeys(
        each for each in named if inspect.isclass(each) and not inspect.isabstract(each)
    ):
        base = next((base for base in BASES if issubclass(cls, base)), None)
        if base is not None and optional(cls):
            pairs.append((cls, base))
    return pairs


@pytest.mark.parametrize(("cls", "base"), public(), ids=lambda each: each.__name__)
def test_null_reaches_every_optional_argument(cls: type, base: type) -> None:
    """Within two classes around it, after another value, by both forms of the option."""

    class Inner:
        def __init__(self, thing: Any = None) -> None: ...

    class Outer:
        def __init__(self, inner: Inner | None = None) -> None: ...

    Inner.__init__.__annotations__["thing"] = base | None
    Outer.__init__.__annotations__["inner"] = Inner | None
    parser = Parser(exit_on_error=False)
    parser.add_argument("--outer", type=Outer)
    names = optional(cls)
    path = f"{cls.__module__}.{cls.__name__}"
    places = {"thing": ".thing", "explicit": ".init_args.thing.init_args"}
    globals().update(Inner=Inner, Outer=Outer)
    Inner.__module__ = Outer.__module__ = __name__
    Inner.__qualname__, Outer.__qualname__ = "Inner", "Outer"
    parameters = inspect.signature(cls).parameters.values()
    values = {**REQUIRED, **({"encoder": "b"} if cls in FROZEN else {})}
    required = [
        each for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    arguments = {each.name: values[each.name] for each in required}
    thing = json.dumps(
        {"class_path": path, "init_args": {k: yaml.safe_load(v) for k, v in arguments.items()}}
    )
    start = [f"--outer={__name__}.Outer", f"--outer.inner={__name__}.Inner", f"--outer.inner.thing={thing}"]
    for place in places.values():
        given = [f"--outer.inner{place}.{name}=null" for name in names]
        parsed = parser.parse_args([*start, *given])
        arguments = parsed.outer.init_args.inner.init_args.thing.init_args
        assert {name: arguments[name] for name in names} == dict.fromkeys(names)


def of(section: str, *options: str) -> dict[str, Any]:
    content: dict[str, Any] = resolved(*options)[section]["init_args"]
    return content


def test_null_undoes_what_a_config_says(tmp_path: Path) -> None:
    supervision = {"class_path": "Labels", "init_args": {"split": "part", "fields": {"a": "b"}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"data": {"supervision": supervision}}))
    config = f"--config={tmp_path / 'own.yaml'}"
    assert of("data", config)["supervision"]["init_args"]["split"] == "part"
    for option in ("--data.supervision.split", "--data.supervision.init_args.split"):
        given = of("data", config, option, "null", "--data.supervision.fields=null")["supervision"][
            "init_args"
        ]
        assert given["split"] is None
        assert given["fields"] is None


@pytest.mark.parametrize("typed", ["007", "true", "None", "2024-01-01", "a: b", "[x", "ja"])
def test_names_of_columns_arrive_as_they_were_typed(typed: str) -> None:
    given = of("data", "--data.supervision=Labels", f"--data.supervision.label={typed}")
    assert given["supervision"]["init_args"]["label"] == typed
    assert of("data", f"--data.label={typed}")["label"] == typed


def test_short_names_without_a_config() -> None:
    model = of("model", "--model=MetricLearner", "--model.loss=TripletLoss", "--model.loss.margin=0.3")
    assert model["loss"]["class_path"] == "lit_metric.losses.TripletLoss"
    assert model["loss"]["init_args"]["margin"] == 0.3
    assert of("model", "--model.encoder.backbone=x")["encoder"]["init_args"]["backbone"] == "x"
    for option in ("--model.lr", "--model.init_args.lr"):
        assert of("model", option, "0.5")["lr"] == 0.5
    planner = of("data", "--data.planner=PKPlanner", "--data.planner.classes=3")["planner"]
    assert planner["class_path"] == "lit_metric.batching.PKPlanner"
    assert planner["init_args"]["classes"] == 3


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ([], 1e-4),
        (["StaticEncoder"], 1e-2),
        (["StaticEncoder", "--model.encoder.freeze=true"], 1e-4),
        (["SetEncoder", "--model.encoder.text=StaticEncoder", "--model.encoder.text.backbone=x"], 1e-2),
        (["SetEncoder", "--model.encoder.text=TextEncoder", "--model.encoder.text.backbone=x"], 1e-4),
        (["StaticEncoder", "--model.lr=1e-4"], 1e-4),
    ],
)
def test_the_learning_rate_suits_the_encoder_unless_it_is_given(options: list[str], rate: float) -> None:
    """In what is shown, saved and run with."""
    encoder = [f"--model.encoder={each}" for each in options[:1]]
    assert of("model", *encoder, *options[1:])["lr"] == rate


def test_what_is_given_replaces_the_default(tmp_path: Path) -> None:
    trainer = resolved()["trainer"]
    names = [each["class_path"].rpartition(".")[2] for each in trainer["callbacks"]]
    assert names == ["RunReport", "BestCheckpoint", "LastCheckpoint", "StopEarly", "LearningRateMonitor"]
    assert [each["class_path"].rpartition(".")[2] for each in trainer["logger"]] == [
        "RunLogger",
        "TensorBoardLogger",
    ]
    assert (trainer["gradient_clip_val"], trainer["num_sanity_val_steps"], trainer["max_epochs"]) == (
        1.0,
        0,
        10,
    )
    own = resolved("--trainer.callbacks=RunReport", "--trainer.gradient_clip_val=null")["trainer"]
    assert [each["class_path"].rpartition(".")[2] for each in [own["callbacks"]]] == ["RunReport"]
    assert own["gradient_clip_val"] is None
    (tmp_path / "c.yaml").write_text("trainer: {callbacks: [RunReport, LastCheckpoint]}\n")
    read = resolved(f"--config={tmp_path / 'c.yaml'}")["trainer"]["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in read] == ["RunReport", "LastCheckpoint"]


def test_shipped_configs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert of("model", "--config", "banking77")["lr"] == 4e-4
    assert of("model", "--config=cranfield")["lr"] == 5e-5
    added = of("model", "--config", "banking77", "--config", "recipes/batch-hard")
    assert (added["lr"], added["loss"]["init_args"]["mining"]) == (4e-4, "hard")
    Path("banking77").write_text("model: {lr: 1.0}\n")  # a file here goes first
    assert of("model", "--config", "banking77")["lr"] == 1.0
    with pytest.raises(
        ValueError, match=r"--config bankin: there is no such file, .* nearest are 'banking77'"
    ):
        resolved("--config", "bankin")
    assert {path.stem for path in CONFIGS.glob("*.yaml")} > {"banking77", "debtags", "pairs"}


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("encode", ["--tag-separator", ";"], "--tag-separator is called --tag_separator now"),
        ("encode", ["--imput", "f"], "there is no option --imput; nearest are --input,"),
        ("mine", ["--filter", "x"], "--filter is called --filters now"),
        ("runs", ["--fodler", "x"], "there is no option --fodler; nearest are --folder,"),
    ],
)
def test_unknown_options_name_those_that_exist(command: str, options: list[str], expected: str) -> None:
    parser = parser_of(command)
    required = [f"--{action.dest}=x" for action in parser._actions if action.required]
    with pytest.raises(ArgumentError, match=expected):
        parser.parse_args([*required, *options])
    named = {word.rstrip(",;") for word in expected.split() if word.startswith("--")} - {options[0]}
    assert named <= {*parser._option_string_actions}


def call(folder: Path, *arguments: str, code: str = "from lit_metric.cli import main; main()") -> Any:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


LOADED = """
import sys
from lit_metric.cli import main
try:
    main()
except SystemExit as end:
    print(end.code)
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "lightning", "transformers", "yaml"}))
"""


@pytest.mark.parametrize("given", [["--help"], ["-h"], ["--version"], ["serach"], []])
def test_help_and_version_import_nothing(tmp_path: Path, given: list[str]) -> None:
    done = call(tmp_path, *given, code=LOADED)
    status, loaded = done.stdout.splitlines()[-2:]
    assert loaded == "[]"
    assert int(status) == (0 if given and given[0].startswith("-") else 2)
    if given == ["--version"]:
        assert done.stdout.splitlines()[0] == f"lit-metric {lit_metric.__version__}"
    elif given == ["serach"]:
        assert "did you mean 'search'?" in done.stderr
    else:
        assert all(name in done.stdout for name in COMMANDS)


def test_runs_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").write_text("model: {lr: 1.0}\n")
    done = call(tmp_path, "runs", code=LOADED)
    assert "torch" not in done.stdout.splitlines()[-1]
    assert done.stdout.splitlines()[0].startswith("name")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: lit-metric {command} ")
    assert f"lit-metric {command}" in told.partition("example:")[2]


def test_help_of_a_class_without_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.loss.help", "TripletLoss"])
    assert "margin" in capsys.readouterr().out


def test_a_class_in_a_file_here_is_found(tmp_path: Path) -> None:
    """By the console script, whose ``sys.path`` has no current folder."""
    (tmp_path / "mymod.py").write_text(
        "from lit_metric.losses import TripletLoss\n\n\nclass MyLoss(TripletLoss):\n    pass\n"
    )
    done = call(tmp_path, "fit", "--model.loss=mymod.MyLoss", "--model.loss.margin=0.25", "--print_config")
    assert done.returncode == 0, done.stderr
    loss = yaml.safe_load(done.stdout)["model"]["init_args"]["loss"]
    assert loss["class_path"] == "mymod.MyLoss"
    assert loss["init_args"]["margin"] == 0.25
