"""``lit-metric inspect``, ``fit --report``, and what a page can say of runs in which something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lit_metric
import lit_metric.commands.inspect as command
from lit_metric import MetricDataModule
from lit_metric.commands.inspect import build_again, inspected_run, typed
from lit_metric.commands.mine import read_data
from lit_metric.evaluation import encode_split
from lit_metric.hub import load
from lit_metric.report import vectors as report_vectors
from lit_metric.report.gather import gather
from lit_metric.report.structure import Report
from tests.end_to_end.command import metrics, options, run
from tests.small import Small, distance, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def fit(root: Path, small: Small, *more: str, **values: Any) -> Path:
    """A short fit by the command line, with a projection whose first weights are random."""
    given = {
        "name": "one",
        "data__train": small / "train.csv",
        "data__test": small / "test.csv",
        "data__cache_dir": small / "cache",
        "data__validation_share": 0.3,
        "data__planner": "PKPlanner",
        "data__planner__classes": 4,
        "data__planner__per_class": 3,
        "model__encoder__backbone": small / "backbone",
        "model__encoder__projection": 8,
        "model__lr": 0.003,
        "trainer__accelerator": "cpu",
        "trainer__log_every_n_steps": 1,
        "trainer__max_epochs": 3,
        **values,
    }
    run(root, "fit", *options(**given), *more)
    return root / "runs" / str(given["name"])


@pytest.fixture(scope="module")
def trained(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its page."""
    return fit(tmp_path_factory.mktemp("trained"), small, "--report")


@pytest.fixture(scope="module")
def second(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run on the same data."""
    return fit(tmp_path_factory.mktemp("second"), small, name="two", trainer__max_epochs=1)


def report_of(
    folder: Path, compare: Path | None = None, data: MetricDataModule | None = None, **how: Any
) -> Report:
    own = data is None
    inspected = inspected_run(
        folder, str(folder), data or read_data(str(folder)), own, str(compare) if compare else None, False
    )
    return gather(inspected, shown=False, **how)


def test_a_fit_writes_its_page_and_keeps_no_untrained_weights(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert not list(trained.glob("untrained*"))
    assert not (trained / "plots").exists()


def test_a_fit_encodes_nothing_twice_for_its_page(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(encoder: Any, data: Any, ids: torch.Tensor, **more: Any) -> Any:
        encoded.extend(ids.tolist())
        return encode_split(encoder, data, ids, **more)

    monkeypatch.setattr(report_vectors, "encode_split", counted)
    folder = fit(tmp_path, small, "--report", trainer__max_epochs=1)
    held_out = read_data(str(folder))
    held_out.read()
    # Test items and the training items that vote for them were measured; those for validation were not.
    assert sorted(encoded) == sorted([*held_out.splits["validation"].tolist()] * 2)


def test_bfloat16_is_taken_where_it_is_faster_and_no_metric_comes_from_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inspected = inspected_run(trained, str(trained), read_data(str(trained)), True, None, False)
    assert command.precision_for(inspected, trained) == "bfloat16"
    report, written = gather(inspected, precision="bfloat16", shown=False), metrics(trained)
    assert report.precision == "bfloat16"
    assert report.run.warnings == []
    for row in report.metrics:
        assert (row.before.value, row.after.value) == (
            written["before"][row.name],
            written["after"][row.name],
        )
        if row.name in written["intervals"]:
            own = written["intervals"][row.name]
            assert [row.after.low, row.after.high, row.change.low] == [*own["after"], own["change"][0]]
    inspected.written = {**written, "intervals": {}}
    assert command.precision_for(inspected, trained) == "float32"
    inspected.written = written
    monkeypatch.setattr(command, "multiplies_bfloat16", lambda: False)
    assert command.precision_for(inspected, trained) == "float32"


def test_other_commands_read_the_config_of_a_run_with_a_page(trained: Path) -> None:
    assert "\nreport: true\n" in (trained / "config.yaml").read_text()
    folder = trained.parents[1]
    run(
        folder, "test", "--config", "runs/one/config.yaml", "--ckpt_path", "best", "--trainer.accelerator=cpu"
    )


def test_the_metrics_of_a_report_are_those_of_the_run(trained: Path) -> None:
    report, written = report_of(trained), metrics(trained)
    assert report.run.warnings == []
    assert (report.title, report.kind, report.measured_split) == ("one", "labels", "test")
    rows = {row.name: row for row in report.metrics}
    assert set(rows) == set(written["after"])
    for name, row in rows.items():
        old, new = written["before"][name], written["after"][name]
        assert (row.before.value, row.after.value) == (old, new)
        assert row.change.value == new - old
        interval = written["intervals"].get(name)
        assert (interval is None) == (row.change.low is None)
        if interval is not None and row.change.low is not None:
            assert [row.change.low, row.change.high] == pytest.approx(interval["change"], abs=1e-5)
            assert row.queries == interval["queries"]
    right = report.items.correct_after
    assert (right == 1).sum() / (right >= 0).sum() == pytest.approx(written["after"]["hit_rate@1"])
    right = report.items.correct_before
    assert (right == 1).sum() / (right >= 0).sum() == pytest.approx(written["before"]["hit_rate@1"])
    assert [part.name for part in report.run.parts] == ["train", "validate"]
    assert sum(part.seconds for part in report.run.parts) == pytest.approx(written["seconds"])
    assert {"train/loss", "val/map@r"} <= {curve.name for curve in report.run.curves}


def test_the_untrained_encoder_is_that_of_the_run(trained: Path, small: Small, tmp_path: Path) -> None:
    again, _ = build_again(trained)
    assert again is not None
    more, _ = build_again(trained)
    assert more is not None
    assert distance(weights(again.encoder), weights(more.encoder)) == 0
    copy = tmp_path / "one"
    shutil.copytree(trained, copy)
    config = copy / "config.yaml"
    # Other random weights, and the same items for validation.
    changed = config.read_text().replace("seed_everything: 0", "seed_everything: 7")
    config.write_text(changed.replace("\n    seed: null", "\n    seed: 0"))
    [warning] = report_of(copy).run.warnings
    assert "was built again from config.yaml and isn't exactly that of the run" in warning
    config.write_text(config.read_text().replace(small / "backbone", "/nowhere"))
    report = report_of(copy)
    assert "Nothing is known of the untrained encoder" in report.run.warnings[0]
    assert report.items.neighbours_before is None
    assert report.metrics[0].before.value == metrics(trained)["before"]["map@r"]
    assert report.metrics[0].change.low == metrics(trained)["intervals"]["map@r"]["change"][0]


def test_neighbours_are_those_of_a_loop_and_those_that_were_measured(trained: Path) -> None:
    report = report_of(trained)
    items = report.items
    encoder = load(trained)
    vectors = encoder.encode(items.texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert items.neighbours_after is not None
    assert items.scores_after is not None
    for place in range(len(items)):
        others = [
            other
            for other in range(len(items))
            if other != place and items.split[other] == items.split[place]
        ]
        cosines = unit[others] @ unit[place]
        assert items.scores_after[place][: len(others)] == pytest.approx(
            np.sort(cosines)[::-1][: len(items.scores_after[place])], abs=1e-5
        )
        found = items.neighbours_after[place]
        assert unit[found] @ unit[place] == pytest.approx(items.scores_after[place], abs=1e-5)
    assert (len(items), sorted({*items.splits})) == (102, ["test", "train", "validation"])
    # Each item is called by the row that it was read from.
    for place in (0, 50, 101):
        lines = Path(items.files[items.file[place]]).read_text().splitlines()
        assert lines[items.row[place]].startswith(items.texts[place] + ",")
    # Confusions and classes are about the measured items.
    wrong = int((items.correct_after == 0).sum())
    assert sum(each.count for each in report.confusions) == wrong
    assert sum(each.size for each in report.classes) == 30
    train = [
        items.label_ids[place] for place in range(len(items)) if items.splits[items.split[place]] == "train"
    ]
    assert [each.train_size for each in report.classes] == np.bincount(train).tolist()


def test_fewer_items_are_those_measured_first_and_classes_in_proportion(trained: Path) -> None:
    whole, report = report_of(trained), report_of(trained, max_items=48)
    names = [report.items.splits[each] for each in report.items.split]
    assert (names.count("test"), names.count("train")) == (30, 18)
    train = [report.items.label_ids[place] for place, name in enumerate(names) if name == "train"]
    assert np.bincount(train).tolist() == [3] * 6
    assert [row.after.value for row in report.metrics] == [row.after.value for row in whole.metrics]
    assert [split.items_shown for split in report.splits if split.name == "train"] == [18]
    with pytest.raises(ValueError, match="--max_items 5"):
        report_of(trained, max_items=5)


def test_two_runs_are_compared_item_by_item(trained: Path, second: Path) -> None:
    report = report_of(trained, second)
    assert report.names == ("one", "two")
    found = report.comparison
    assert found is not None
    first, last = report.items.correct_before, report.items.correct_after
    assert found.gained == int(((first == 0) & (last == 1)).sum())
    assert found.lost == int(((first == 1) & (last == 0)).sum())
    assert sorted(flip.item for flip in found.flips) == np.flatnonzero(first != last).tolist()
    for flip in found.flips:
        assert (flip.first_right, flip.second_right) == (first[flip.item] == 1, last[flip.item] == 1)
    rows = {row.name: row for row in report.metrics}
    assert rows["map@r"].before.value == pytest.approx(metrics(trained)["after"]["map@r"], abs=1e-5)
    assert rows["map@r"].after.value == pytest.approx(metrics(second)["after"]["map@r"], abs=1e-5)


def test_an_encoder_without_a_run_is_shown_on_given_data(
    texts: tuple[Any, str], small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data.train", small / "train.csv", "--data.test", small / "test.csv"]
    given += ["--data.cache_dir", small / "cache"]
    run(tmp_path, "inspect", "--model", texts[1], *given, "--output", "page.html", "--query", "w4 w5")
    assert (tmp_path / "page.html").stat().st_size > 1000
    data = small.data()
    report = report_of(Path(texts[1]), data=data)
    assert report.items.neighbours_before is None
    assert report.metrics[0].before.value is None
    assert "no config.yaml" in report.run.warnings[0]
    assert "RunLogger" in report.missing["curves"]
    for arguments, message in (
        (["--model", texts[1]], "is no folder of a run, so say where the page goes"),
        (["--model", texts[1], "--output", "page.html"], "give them by --data.train FILE"),
        (["--model", "nowhere", *given, "--output", "page.html"], "nowhere"),
        (["--model", texts[1], *given, "--output", "page.txt"], "must end in"),
    ):
        with pytest.raises(SystemExit):
            run(tmp_path, "inspect", *arguments)
        assert message in capsys.readouterr().err


def test_typed_queries_find_what_the_encoder_says(trained: Path) -> None:
    encoder = load(trained)
    report = report_of(trained, queries=typed(encoder, ["w4 w5 w30"]))
    [query] = report.queries
    searched = [place for place, each in enumerate(report.items.split) if report.items.splits[each] == "test"]
    vectors = encoder.encode([report.items.texts[place] for place in searched])
    cosines = vectors @ encoder.encode("w4 w5 w30")
    cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(encoder.encode("w4 w5 w30"))
    assert query.scores_after == pytest.approx(np.sort(cosines)[::-1][:10], abs=1e-5)
    assert query.after[0] == searched[int(cosines.argmax())]
    with pytest.raises(ValueError, match="--query is empty"):
        typed(encoder, [" "])


def test_an_interrupted_run_shows_what_there_is(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "one"
    shutil.copytree(trained, copy)
    written = metrics(copy)
    del written["after"]
    (copy / "metrics.json").write_text(json.dumps({**written, "ended": "SIGINT"}))
    shutil.rmtree(copy / "model")
    report = report_of(copy)
    assert "isn't complete (SIGINT)" in report.run.warnings[0]
    rows = {row.name: row.after.value for row in report.metrics}
    assert rows["map@r"] == pytest.approx(metrics(trained)["after"]["map@r"], abs=1e-5)
    (copy / "metrics.json").unlink()
    (copy / "metrics.csv").unlink()
    report = report_of(copy)
    assert (report.run.seconds, report.run.parts) == (0.0, [])
    assert report.metrics[0].before.value == pytest.approx(metrics(trained)["before"]["map@r"], abs=1e-5)


def test_parts_that_a_run_cannot_have_say_why(trained: Path) -> None:
    report = report_of(trained)
    assert report.missing["negatives"].startswith("The run mined no negatives.")
    assert "without weights" in report.missing["attention"]
    assert not any("could not be made" in why for why in report.missing.values())
    assert report.items.map_before is not None
    assert all(each.columns[:2] == ["file", "row"] for each in report.problems)


def test_attention_is_shown_of_sets_and_negatives_of_a_run_that_mined(small: Small, tmp_path: Path) -> None:
    sets = {
        "data__train": small / "train.parquet",
        "data__test": small / "test.parquet",
        "data__tags": "tags",
    }
    folder = fit(
        tmp_path, small, "--data.miner=Miner", "--data.refresh.mode=inline", **sets, trainer__max_epochs=1
    )
    report = report_of(folder)
    assert not any("could not be made" in why for why in report.missing.values())
    assert report.run.warnings == []
    assert report.negatives is not None
    assert report.negatives.versions[0].anchors
    assert len(report.attention) == 40
    for each in report.attention:
        assert each.kind == "tags"
        assert " | ".join(each.parts) == report.items.texts[each.item]
        assert each.before is not None
        assert np.sum(each.before, axis=1) == pytest.approx(1, abs=1e-5)
        assert np.sum(each.after, axis=1) == pytest.approx(1, abs=1e-5)
    assert "mine" in [part.name for part in report.run.parts]


def test_plots_are_drawn_beside_the_page(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run(tmp_path, "inspect", "--model", str(trained), "--output", "page.html", "--plots")
    for name in ("map", "curves", "confusions"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "plots" / f"{name}.svg").read_text(encoding="utf-8")


def test_a_page_that_fails_does_not_cost_the_run(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no room\nat all")

    monkeypatch.setattr(command, "write_page", fail)
    folder = fit(tmp_path, small, "--report", trainer__max_epochs=1)
    assert "The report could not be written (OSError: no room)" in caplog.text
    assert metrics(folder)["after"]
    # What a later call can't make up is still there, and exactly what the run began with.
    monkeypatch.undo()
    again, _ = build_again(folder)
    assert again is not None
    inspected = inspected_run(folder, str(folder), read_data(str(folder)), True, None, False)
    assert inspected.before is not None
    assert inspected.exact
    assert distance(weights(inspected.before), weights(again.encoder)) == 0
    assert distance(weights(inspected.before), weights(lit_metric.load(folder))) > 0
