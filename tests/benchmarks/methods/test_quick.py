"""Each class, corpus and probe of the recipe book is in a fit of a few batches, with a tiny backbone."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.methods.entries import Entry, entries
from benchmarks.methods.runs import Runs
from lit_metric import MetricLearner
from lit_metric.data import Supervision
from lit_metric.encoders import Encoder
from lit_metric.losses import CandidateBank
from tests.small import Small, questions

ENTRIES = entries()
pytestmark = pytest.mark.filterwarnings("ignore")


def write(path: Path, columns: dict[str, list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module")
def world(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small tables in place of ``LIT_METRIC_DATA``, and the tiny backbone as a package."""
    root = tmp_path_factory.mktemp("methods")
    for name, count in (("train", 960), ("test", 480)):
        texts, labels = (list(column) for column in zip(*questions(count, 5, classes=80), strict=True))
        write(root / "banking77" / f"{name}.parquet", {"text": texts, "label": labels})
    words = [text for text, _ in questions(600, 6)]
    draw = random.Random(0)
    write(
        root / "movies" / "movies.parquet",
        {
            "title": words,
            "year": [2001] * 600,
            "cast": [text.split()[:3] for text in words],
            "genres": [draw.sample(["drama", "comedy", "crime", "war"], 2) for _ in words],
            "extract": [
                f"{' '.join(draw.sample(words, 2))}. {' '.join(draw.sample(words, 2))}." for _ in words
            ],
        },
    )
    ids = [f"e{number}" for number in range(600)]
    definitions = [text for text, _ in questions(600, 7)]
    write(
        root / "wn18rr" / "entities.parquet",
        {"id": ids, "lemmas": [text.split()[:2] for text in words], "definition": definitions},
    )
    write(
        root / "debian" / "packages.parquet",
        {
            "name": ids,
            "synopsis": words,
            "tags": [
                [
                    f"a::{draw.randrange(6)}",
                    f"b::{draw.randrange(6)}",
                    f"implemented-in::{draw.randrange(2)}",
                    f"role::{draw.randrange(2)}",
                ]
                for _ in words
            ],
        },
    )
    subsets = [f"{kind}_{what}" for kind in ("replace", "swap") for what in ("att", "obj")] * 20
    write(
        root / "sugarcrepe_pp" / "triplets.parquet",
        {
            "subset": subsets,
            "caption": words[:80],
            "caption2": [" ".join(reversed(text.split())) for text in words[:80]],
            "negative": [f"{text.rpartition(' ')[0]} {draw.choice('uvw')}" for text in words[:80]],
        },
    )
    package = root / "tiny_backbone"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(small / "backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_METRIC_DATA", str(root))
        patch.setenv("LIT_METRIC_CACHE", str(root / "cache"))
        patch.syspath_prepend(str(root))
        yield root
    sys.modules.pop("tiny_backbone", None)


PLACES = (
    "lit_metric",
    *(f"lit_metric.{each}" for each in ("losses", "batching", "mining", "encoders", "data")),
)


def objects(options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The class and the arguments of all that options name, from the inside out."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            if name in OF_CLASS and isinstance(value, str):
                yield value, {}
            yield from objects(value)
        if "class_path" in options:
            yield options["class_path"], options.get("init_args", {})
    elif isinstance(options, list):
        for value in options:
            yield from objects(value)


OF_CLASS = ("loss", "planner", "pooling", "supervision", "proposer", "draw", "index")


def parts(entry: Entry, arm: str) -> set[str]:
    """What a fit of an arm tries: the classes that it names, its corpus and its probe."""
    found = {name.rpartition(".")[2] for name, _ in objects([*entry.parts(arm)])}
    return found | {f"corpus {entry.corpus_of(arm)}", f"probe {entry.probe}"}


def chosen() -> dict[str, list[str]]:
    """For each entry the arms to fit, so that each class, corpus and probe of all entries is in some fit."""
    known: set[str] = set()
    arms: dict[str, list[str]] = {}
    for key, entry in ENTRIES.items():
        arms[key] = []
        while new := {arm: parts(entry, arm) - known for arm in entry.arms if parts(entry, arm) - known}:
            arms[key].append(max(new, key=lambda arm: len(new[arm])))
            known |= new[arms[key][-1]]
    return {key: each for key, each in arms.items() if each}


CHOSEN = chosen()


@pytest.mark.parametrize("key", CHOSEN)
def test_an_entry_in_a_few_batches(key: str, world: Path) -> None:
    entry = ENTRIES[key]
    runs = Runs(entry, world / "out", seeds=1, budget=300, backbone="package:tiny_backbone/model")
    for arm in CHOSEN[key]:
        found = runs.run(arm, 1e-3, 0, final=False)
        assert (found["items"] > 0) == (entry.budget_of(arm) > 0), arm
        assert found["validation"].keys() & {*entry.measures}, arm
        assert (found.get("logged", {}).keys() == {*entry.logged}) or not entry.budget_of(arm), arm


def class_of(name: str) -> type:
    """The class of a full or a short name."""
    module, _, own = name.rpartition(".")
    for place in [module] if module else PLACES:
        if hasattr(importlib.import_module(place), own):
            found: type = getattr(importlib.import_module(place), own)
            return found
    raise AssertionError(f"there is no class {name}")


@pytest.mark.parametrize("key", ENTRIES)
def test_all_arms_name_classes_and_arguments_that_exist(key: str) -> None:
    for arm in ENTRIES[key].arms:
        for name, arguments in objects([*ENTRIES[key].parts(arm)]):
            found = class_of(name)
            inspect.signature(found).bind_partial(**arguments)
            reads = issubclass(found, Encoder | MetricLearner | CandidateBank | Supervision)
            if not reads and not [*objects(dict(arguments))]:
                found(**arguments)  # which refuses values out of range


def test_an_entry_from_its_fits_to_its_claims(world: Path, tmp_path: Path) -> None:
    entry = ENTRIES["B1"]
    runs = Runs(entry, tmp_path, seeds=1, budget=300, lrs=(1e-3,), backbone="package:tiny_backbone/model")
    found = runs.measure()
    assert found["arms"].keys() == entry.arms.keys()
    assert all({*row["test"]} == {*entry.measures} for row in found["arms"].values())
    assert [claim["words"] for claim in found["claims"]] == [claim.words for claim in entry.claims]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    runs.measure()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == kept
