"""One pass of mining by each side, on the tiny model: what is counted."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.mining import offline
from benchmarks.results import Finished, write_json
from lit_metric import TextEncoder
from lit_metric.hub import export
from tests.small import Small


def data(small: Small) -> tuple[list[str], list[str]]:
    with open(small / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


@pytest.mark.filterwarnings("ignore")
def test_both_mine_and_what_is_false_is_counted(small: Small, tmp_path: Path) -> None:
    texts, labels = data(small)
    export(TextEncoder(small / "backbone"), tmp_path / "model")
    ours = offline.ours(texts, labels, 3, str(tmp_path / "model"))
    peer = offline.peer(texts, labels, 3, str(tmp_path / "model"))
    # Who knows the labels draws no member of the class; the peer knows of one pair each.
    assert ours["false_negatives"] == 0.0
    assert 0 < peer["false_negatives"] < 1
    for found in (ours, peer):
        assert 0 < found["negatives"] <= 3 * 72
        assert 0.3 < found["anchors"] <= 1
        assert found["texts"] == 72
    assert ours["seconds"] == pytest.approx(ours["encode_seconds"] + ours["search_seconds"])


def test_shares_are_those_of_the_pairs() -> None:
    told = offline._told([(0, 1), (0, 2), (3, 1), (3, 4)], ["a", "a", "b", "c", "c"], 10)
    assert told == {"texts": 10, "negatives": 4, "anchors": 0.2, "false_negatives": 0.5}


def test_means_over_repeats_and_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), train)
    order = []

    def fake(command: list[str], log: Path) -> Finished:
        given = dict(zip(command[3::2], command[4::2], strict=True))
        order.append(given["--by"])
        extra = {"search_seconds": 1.0, "encode_seconds": 2.0} if given["--by"] == "ours" else {}
        seconds = 3.0 if given["--by"] == "ours" else 5.0 + len(order)
        report = {"seconds": seconds, "texts": 1, "negatives": 4, "false_negatives": 0.0, **extra}
        write_json(Path(given["--report"]), report)
        return Finished(1.0, 9.0)

    monkeypatch.setattr(offline, "run", fake)
    found = offline.measure(tmp_path / "out", {"versions": {}}, train, 2, 1)
    assert order == ["ours", "peer", "ours", "peer"]
    assert found["peer"]["seconds"].mean == 8.0  # 7 and 9
    assert (found["ratio"], found["ratio_search"]) == (3 / 8, 1 / 8)
    offline.measure(tmp_path / "out", {"versions": {}}, train, 2, 1)
    assert len(order) == 4
