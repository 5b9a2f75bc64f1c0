"""Every entry of the recipe book trains its arms for a few batches, on small tables and a tiny backbone."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.methods.entries import entries
from benchmarks.methods.runs import Runs
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


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_in_a_few_batches(key: str, world: Path, tmp_path: Path) -> None:
    entry = ENTRIES[key]
    runs = Runs(entry, tmp_path, seeds=1, budget=300, backbone="package:tiny_backbone/model")
    for arm in entry.arms:
        found = runs.run(arm, 1e-3, 0, final=False)
        assert (found["items"] > 0) == (entry.budget_of(arm) > 0), arm
        assert found["validation"].keys() & {*entry.measures}, arm
        assert (found.get("logged", {}).keys() == {*entry.logged}) or not entry.budget_of(arm), arm


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
