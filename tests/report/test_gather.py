"""Reports of data of each kind, by an encoder that nobody has trained."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lit_metric import MetricDataModule, TextEncoder, TwoTowerEncoder
from lit_metric.batching import MixturePart
from lit_metric.commands.inspect import inspected_run, typed
from lit_metric.data import Judgements, Labels, Pairs
from lit_metric.hub import load
from lit_metric.report.gather import gather
from lit_metric.report.page import write_page
from lit_metric.report.structure import Report
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def report_of(folder: Path, data: MetricDataModule, **how: Any) -> Report:
    """The report of data by the encoder in a folder."""
    return gather(inspected_run(folder, str(folder), data, False, None, False), shown=False, **how)


@pytest.mark.parametrize("kind", ["pairs", "cranfield", "movies"])
def test_pairs_judgements_and_several_labels_have_a_report(small: Small, tmp_path: Path, kind: str) -> None:
    supervision: Any = {
        "pairs": lambda: Pairs("words", "definition", split="split"),
        "cranfield": lambda: Judgements(
            small / "cranfield/queries.parquet", small / "cranfield/corpus.parquet", folds=5
        ),
        "movies": lambda: Labels(text="title", labels="genres", split="split"),
    }[kind]()
    files = {"pairs": "pairs", "cranfield": "qrels", "movies": "movies"}
    data = MetricDataModule(
        train=small / f"{kind}/{files[kind]}.parquet", supervision=supervision, cache_dir=small / "cache"
    )
    encoder = small.learner().encoder
    encoder.save(tmp_path / "model")
    report = report_of(tmp_path, data=data, max_items=1000)
    items = report.items
    expected = {"pairs": "pairs", "cranfield": "judgements", "movies": "several labels"}
    assert report.kind == expected[kind]
    values = {row.name: row.after.value for row in report.metrics}
    asked = items.correct_after >= 0
    assert (items.correct_after[asked] == 1).mean() == pytest.approx(values["hit_rate@1"])
    assert items.neighbours_after is not None
    first = items.neighbours_after[asked, 0]
    roles = {items.splits[items.split[place]] for place in first.tolist()}
    if kind == "movies":
        bounds = itertools.pairwise(items.label_offsets.tolist())
        own = [{*items.label_ids[start:end].tolist()} for start, end in bounds]
        pairs = zip(np.flatnonzero(asked).tolist(), first.tolist(), strict=True)
        right = [bool(own[place] & own[other]) for place, other in pairs]
        assert right == (items.correct_after[asked] == 1).tolist()
        assert report.classes
    else:
        assert roles <= {"test_corpus", "corpus"}
        assert "no labels" in report.missing["confusions"]


def test_a_mixture_has_a_report_whose_data_sets_stay_apart(small: Small, tmp_path: Path) -> None:
    pairs = Pairs("words", "definition", split="split")
    sets = {
        "intents": MixturePart(small / "train.csv", test=small / "test.csv"),
        "pairs": MixturePart(small / "pairs/pairs.parquet", supervision=pairs),
    }
    data = MetricDataModule(mixture=sets, validation_share=0.2, cache_dir=small / "cache")
    small.learner().encoder.save(tmp_path / "model")
    report = report_of(tmp_path, data=data, queries=typed(load(tmp_path), ["w4 w5 w30"]))
    assert not any("could not be made" in why for why in report.missing.values()), report.missing
    items, values = report.items, {row.name: row.after.value for row in report.metrics}
    assert report.kind == "several data sets"
    assert [row.name for row in report.metrics][:3] == ["mean", "intents/map@r", "pairs/mrr"]
    assert [each.name for each in report.splits][:3] == [
        "intents/train",
        "intents/validation",
        "intents/test",
    ]
    own = items.columns["data set"]
    assert [own.count(name) for name in sets] == [102, len(items) - 102]
    assert items.neighbours_after is not None
    assert items.together_after is not None
    for place, found in enumerate(items.neighbours_after):
        assert {own[other] for other in found[found >= 0]} <= {own[place]}
    for name in sets:
        asked = (np.array(own) == name) & (items.correct_after >= 0)
        assert (items.correct_after[asked] == 1).mean() == pytest.approx(values[f"{name}/hit_rate@1"])
        assert (items.together_after[asked, 0] == items.correct_after[asked]).all()
    # Each item is called by the row that it was read from.
    lines = Path(small / "train.csv").read_text().splitlines()
    rows = pq.read_table(small / "pairs/pairs.parquet").to_pylist()
    for place in range(len(items)):
        file, row = items.files[items.file[place]] if items.file[place] >= 0 else "", items.row[place]
        if file.endswith("train.csv"):
            labels = items.label_ids[items.label_offsets[place] : items.label_offsets[place + 1]]
            [label] = [items.labels[each] for each in labels]
            assert lines[row] == f"{items.texts[place]},{label.removeprefix('intents: ')}"
        elif file.endswith("pairs.parquet"):
            assert items.texts[place] in rows[row - 1].values()
    assert sum(each.count for each in report.confusions) == int(
        ((items.correct_after == 0) & (np.array(own) == "intents")).sum()
    )
    assert {items.labels[each.label] for each in report.classes} == {*items.labels}
    assert {
        own[place] for each in report.problems if each.name == "suspected labels" for place in each.items
    } <= {"intents"}
    fewer = report_of(tmp_path, data=data, max_items=40)
    counts = [fewer.items.columns["data set"].count(name) for name in sets]
    assert counts == [20, 20]
    write_page(report, tmp_path / "page.html")


def test_two_towers_have_a_report(small: Small, tmp_path: Path) -> None:
    backbone = small / "backbone"
    encoder = TwoTowerEncoder(TextEncoder(backbone), TextEncoder(backbone, prompts={"document": "w42 "}))
    encoder.save(tmp_path / "model")
    files = [small / f"cranfield/{name}.parquet" for name in ("queries", "corpus")]
    data = MetricDataModule(
        train=small / "cranfield/qrels.parquet",
        supervision=Judgements(*files, folds=5),
        cache_dir=small / "cache",
    )
    report = report_of(tmp_path, data=data, queries=typed(load(tmp_path), ["w4 w5 w30"]))
    assert not any("could not be made" in why for why in report.missing.values())
    items = report.items
    documents = [place for place, role in enumerate(items.role) if items.roles[role] == "document"]
    vectors = encoder.encode([items.texts[place] for place in documents], role="document")
    query = encoder.encode("w4 w5 w30", role="query")
    cosines = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    found = report.queries[0]
    assert all(items.splits[items.split[place]] == "corpus" for place in found.after)
    assert found.scores_after == pytest.approx(np.sort(cosines)[::-1][:10], abs=1e-5)
