"""Imports run down through the layers and never in a circle. Lightning stays in the upper layers."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_metric"

# From the top; what stands in one line is independent of each other, but for the first two.
LAYERS = [
    {"__init__", "__main__", "cli", "commands"},
    {"report"},
    {"mteb", "neighbours"},
    {"hub", "search_index"},
    {"modules"},
    {"callbacks"},
    {"evaluation"},
    {"datamodule"},
    {"refresh", "loggers"},
    {"mining"},
    {"batching"},
    {"encoders", "metrics", "losses"},
    {"clusters"},
    {"index"},
    {"data"},
    {"configurable"},
    {"store", "before_after"},
    {"renamed"},
]
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}
MIXED = LAYERS[0]
"""Parts that may import others of their own layer."""
KNOWS_LIGHTNING = {"cli", "modules", "callbacks", "loggers", "datamodule"}
FRAMEWORK = {"lightning", "pytorch_lightning"}
KNOWN_OF_DATA = {f"lit_metric.data.ragged.{name}" for name in ("Ragged", "EncoderInput", "offsets_of")}


def part_of(path: Path) -> str:
    """The layer's part that a file belongs to: the first name below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """What a file imports anywhere: at its top, inside functions, and under ``TYPE_CHECKING``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


MODULES = {
    ".".join(["lit_metric", *path.relative_to(PACKAGE).with_suffix("").parts]): path
    for path in FILES
    if path.name != "__init__.py"
}
"""Files by the names of their modules. An ``__init__`` only gathers what others define."""


def test_no_module_imports_itself_through_others():
    graph = {}
    for module, path in MODULES.items():
        names = imported(path)
        graph[module] = MODULES.keys() & (names | {name.rpartition(".")[0] for name in names}) - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' <- '.join(error.args[1])}")


def test_every_part_has_its_layer():
    assert {part_of(path) for path in FILES} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    part = part_of(path)
    names = imported(path)
    for name in names:
        root, _, rest = name.partition(".")
        below = rest.split(".")[0]
        if root != "lit_metric" or below == part or below not in LEVELS:
            continue
        same = LEVELS[below] == LEVELS[part] and {below, part} <= MIXED
        assert LEVELS[below] > LEVELS[part] or same, f"{part} must not import {name}"
    if part not in KNOWS_LIGHTNING:
        assert not FRAMEWORK & {name.partition(".")[0] for name in names}, f"{part} must not know Lightning"


@pytest.mark.parametrize("part", ["encoders", "losses", "metrics"])
def test_encoders_metrics_and_losses_know_only_ragged_of_data(part):
    for path in FILES:
        if part_of(path) == part:
            of_data = {name for name in imported(path) if name.startswith("lit_metric.data")}
            assert of_data <= KNOWN_OF_DATA, path
