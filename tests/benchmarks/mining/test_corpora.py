"""What is trained and tested on: which rows, without repeats, and samples that do not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.mining import corpora
from benchmarks.results import BenchmarkError
from lit_metric.data import LabelRelations


def write(path: Path, **columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def rows(path: Path) -> list[tuple[str, str]]:
    table = pq.read_table(path).to_pydict()
    return list(zip(table["text"], table["label"], strict=True))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    train = [f"question {n}" for n in range(40)]
    write(tmp_path / "banking77" / "train.parquet", text=[*train, "question 3"], label=["a"] * 40 + ["b"])
    write(tmp_path / "banking77" / "test.parquet", text=["question 1", "new"], label=["a", "b"])
    names = [f"package {n // 2}" for n in range(4000)]
    write(
        tmp_path / "debian" / "packages.parquet",
        name=[str(n) for n in range(4000)],
        synopsis=names,
        section=[f"s{n % 2}" for n in range(4000)],
    )
    return tmp_path


def test_no_text_comes_twice_or_in_both_parts(root: Path) -> None:
    found = corpora.prepare("banking77", None, root / "out")
    assert (found.name, found.texts, found.batches) == ("banking77", 40, 1)
    assert rows(found.train) == [(f"question {n}", "a") for n in range(40)]
    assert rows(found.test) == [("new", "b")]


def test_a_tenth_of_the_packages_is_for_the_test(root: Path) -> None:
    found = corpora.prepare("debian", None, root / "out")
    train, test = rows(found.train), rows(found.test)
    held = {
        f"package {n}"
        for n in range(2000)
        if int(hashlib.sha256(f"package {n}".encode()).hexdigest()[-13:], 16) < 0.1 * 16**13
    }
    assert {text for text, _ in test} == held
    assert sorted(text for text, _ in train + test) == sorted(f"package {n}" for n in range(2000))
    assert {label for _, label in train + test} == {"s0"}
    assert len(held) == pytest.approx(200, abs=4 * (2000 * 0.1 * 0.9) ** 0.5)
    assert found.batches == -(-len(train) // 128)


def test_a_sample_is_part_of_every_larger_one(root: Path) -> None:
    small = corpora.prepare("debian", 600, root / "out")
    before = small.settings
    large = corpora.prepare("debian", 900, root / "out")
    assert (small.name, small.texts, len(rows(small.train))) == ("debian-600", 600, 600)
    assert set(rows(small.train)) < set(rows(large.train))
    # The 600 whose last 13 digits are least: what measured runs were trained on must not change.
    texts = [text for text, _ in rows(corpora.prepare("debian", None, root / "out").train)]
    least = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest()[-13:])[:600]
    assert {text for text, _ in rows(small.train)} == {*least}
    assert corpora.prepare("debian", 600, root / "out").settings == before
    with pytest.raises(BenchmarkError, match=r"--texts 5000 are more than the \d+ that debian has"):
        corpora.prepare("debian", 5000, root / "out")
    (root / "debian" / "packages.parquet").unlink()
    with pytest.raises(BenchmarkError, match=r"a folder that holds debian/packages\.parquet"):
        corpora.prepare("debian", None, root / "out")


@pytest.mark.parametrize("kind", corpora.CORPORA)
def test_an_epoch_holds_nearly_all_texts_in_batches_of_one_size(kind: str) -> None:
    import torch

    # 77 classes of some 20 to 40, as questions have them.
    labels = [f"c{n % 77}" for n in range(1500)] + [f"c{n % 40}" for n in range(800)]
    ids = torch.arange(len(labels))
    relations = LabelRelations.from_names(labels, ids)
    plan = corpora.planner(kind, 128).plan(ids, relations, 0, 0)
    assert len(plan) == -(-len(labels) // 128)
    assert max(plan.anchors.lengths.tolist()) <= 128
    assert len(plan.anchors.values.unique()) > 0.97 * len(labels)
