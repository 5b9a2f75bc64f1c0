"""Results that are kept, folders that are made room for, processes that are measured, tables and plots."""

from __future__ import annotations

import io
import json
import math
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from benchmarks import results
from benchmarks.results import (
    MARK,
    REPOSITORY,
    BenchmarkError,
    fit,
    kept,
    own_folder,
    plot,
    read_json,
    run,
    run_options,
    score_table,
    shown,
    spread,
    write_json,
)
from tests import forked
from tests.small import Small


def text_of(table: Any, width: int = 100) -> str:
    """What a console shows."""
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_a_spread_is_the_mean_and_the_sample_standard_deviation() -> None:
    summary = spread([0.70, 0.72, 0.68])
    assert summary.mean == pytest.approx(0.70)
    assert summary.deviation == pytest.approx(math.sqrt((0.02**2 + 0.02**2) / 2))
    assert spread([0.3]) == (0.3, 0.0, [0.3])
    assert shown(summary) == "0.700 ± 0.020"
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_result_is_kept_as_long_as_its_settings_are_the_same(tmp_path: Path, capsys: Any) -> None:
    path, calls = tmp_path / "new" / "run.json", []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"micro": len(calls)}

    settings = {"seed": 0, "noise": (1, 2)}
    assert kept(path, settings, measure)["micro"] == 1
    written = path.read_bytes(), path.stat().st_mtime_ns
    assert kept(path, settings, measure) == {"settings": {"seed": 0, "noise": [1, 2]}, "micro": 1}
    assert (path.read_bytes(), path.stat().st_mtime_ns) == written
    assert kept(path, {"seed": 1, "lr": 2}, measure)["micro"] == 2
    assert "measured again, as lr, noise, seed changed" in capsys.readouterr().out
    assert kept(path, {"seed": 1, "lr": 2}, measure)["micro"] == 2
    assert len(calls) == 2


def test_a_measurement_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    kept(path, {"seed": 0}, lambda: {"micro": 0.5})

    def fail() -> dict[str, Any]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        kept(path, {"seed": 1}, fail)
    assert read_json(path) == {"settings": {"seed": 0}, "micro": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_lists_of_numbers_take_one_line_and_texts_stay(tmp_path: Path) -> None:
    content = {
        "queries": {"hit_rate@1": [1, 0, None, 0.25], "none": []},
        "pairs": [[1, 2], [3.5]],
        "texts": ["a [\n  1,\n  2\n] b", "c", True],
        "rows": [{"a": [1e-7, -2]}],
    }
    write_json(tmp_path / "a.json", content)
    written = (tmp_path / "a.json").read_text()
    assert json.loads(written) == content
    lines = [line.strip() for line in written.splitlines()]
    assert '"hit_rate@1": [1, 0, null, 0.25],' in lines
    assert lines.count("[1, 2],") == lines.count("[3.5]") == 1
    assert '"a": [1e-07, -2]' in lines


def test_json_holds_spreads_as_objects_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"rows": {"ours": spread([1.0, 3.0])}})
    ours = json.loads(path.read_text())["rows"]["ours"]
    assert ours == {"mean": 2.0, "deviation": pytest.approx(math.sqrt(2)), "values": [1.0, 3.0]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rows": math.nan})
    assert json.loads(path.read_text())["rows"]["ours"] == ours
    assert read_json(tmp_path / "absent.json") == {}
    for content, said in (("{", "no JSON file"), ("[1]", "no JSON object")):
        path.write_text(content)
        with pytest.raises(BenchmarkError, match=f"a.json .*{said}|a.json {said}|{said}"):
            read_json(path)


def test_only_a_benchmarks_own_folder_is_replaced(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "debtags"
    own_folder(folder)
    (folder / "metrics.json").write_text("{}")
    own_folder(folder)
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert "is replaced" in capsys.readouterr().out

    (folder / MARK).unlink()
    (folder / "metrics.json").write_text("somebody's")
    (tmp_path / "debtags-2").mkdir()
    own_folder(folder)
    assert (tmp_path / "debtags-3" / "metrics.json").read_text() == "somebody's"
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert "is now called debtags-3" in capsys.readouterr().out


def test_memory_and_time_are_those_of_the_process(tmp_path: Path) -> None:
    def measured(mebibytes: int) -> results.Finished:
        code = f"import time; block = b'x' * ({mebibytes} << 20); time.sleep(0.2)"
        return run([sys.executable, "-c", code], log=tmp_path / "log")

    start = time.monotonic()
    small, large = measured(1), measured(200)
    both = time.monotonic() - start
    assert large.peak_memory - small.peak_memory == pytest.approx(199, abs=10)
    assert 0.4 <= small.seconds + large.seconds <= both
    assert min(small.seconds, large.seconds) >= 0.2


def test_a_process_that_fails_says_where_to_look(tmp_path: Path) -> None:
    code = "import sys; print('first'); sys.exit('no such column')"
    with pytest.raises(BenchmarkError, match=r"status 1; .*a\.log ends with: no such column"):
        run([sys.executable, "-c", code], log=tmp_path / "deep" / "a.log")
    with pytest.raises(BenchmarkError, match=r"exit\(3\).* ended with status 3$"):
        run([sys.executable, "-c", "exit(3)"])


def test_a_config_is_left_alone_where_it_names_the_folder_itself() -> None:
    assert run_options("configs/debtags.yaml", REPOSITORY / "runs" / "debtags") == []
    assert run_options("configs/debtags.yaml", Path("/data/out/seed-1")) == [
        "--trainer.logger=lit_metric.loggers.RunLogger",
        "--trainer.logger.save_dir=/data/out",
        "--trainer.logger.name=seed-1",
    ]


def test_a_fit_writes_to_its_folder_and_can_be_repeated(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "model": {
            "class_path": "lit_metric.MetricLearner",
            "init_args": {
                "encoder": {
                    "class_path": "lit_metric.TextEncoder",
                    "init_args": {"backbone": small / "backbone"},
                },
                "loss": {"class_path": "lit_metric.losses.InfoNCELoss"},
            },
        },
        "data": {
            "class_path": "lit_metric.MetricDataModule",
            "init_args": {"test": small / "test.csv", "cache_dir": small / "cache"},
        },
        "trainer": {
            "max_epochs": 1,
            "limit_train_batches": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "logger": [{"class_path": "lit_metric.loggers.RunLogger", "init_args": {"name": "elsewhere"}}],
            "callbacks": [{"class_path": "lit_metric.callbacks.RunReport"}],
        },
    }
    # Four classes of the six in a batch.
    config["data"]["init_args"]["planner"] = {
        "class_path": "lit_metric.batching.PKPlanner",
        "init_args": {"classes": 4, "per_class": 3},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    folder = tmp_path / "out" / "seed-0"
    metrics, finished = fit(str(path), folder, "--data.train", small / "train.csv", log=tmp_path / "log")
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["seconds"] < finished.seconds
    assert 50 < finished.peak_memory < 20_000
    assert not (REPOSITORY / "runs" / "elsewhere").exists()
    assert sorted(each.name for each in folder.parent.iterdir()) == ["seed-0"]

    def unwatched(command: list[str], **options: Any) -> Any:
        return forked.run(command[6:], **options)  # without what notes its memory

    monkeypatch.setattr("benchmarks.results.subprocess.run", unwatched)
    with pytest.raises(BenchmarkError, match=r"log ends with: .*nowhere\.csv"):
        fit(str(path), folder, "--data.train", "nowhere.csv", log=tmp_path / "log")
    assert [each.name for each in folder.iterdir() if each.name != MARK] in ([], ["config.yaml"])


def test_the_best_of_each_column_has_a_star() -> None:
    rows = {
        "one": {"macro": 0.7, "micro": spread([0.6, 0.7])},
        "two": {"macro": 0.6996, "micro": 0.64},
        "three": {"micro": 0.5},
    }
    lines = text_of(score_table("Accuracy", rows, ["macro", "micro"])).splitlines()
    assert lines[0].strip() == "Accuracy (* best)"
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
        for line in lines
        if line.startswith("│")
    }
    # 0.6996 is shown as 0.700, too, and a reader would not understand a star at one of them.
    assert cells == {
        "one": ["0.700 *", "0.650 ± 0.071 *"],
        "two": ["0.700 *", "0.640"],
        "three": ["", "0.500"],
    }
    assert "*" not in text_of(score_table("Costs", rows, ["macro", "micro"], stars=False))


def test_bars_are_as_long_as_the_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    rows = {"one": {"macro": spread([0.4, 0.6]), "micro": 0.3}, "two": {"macro": 0.2}}
    plot(tmp_path / "new" / "plot.png", "Title", {"left": rows, "right": {"one": {"macro": 0.9}}}, "accuracy")
    figure = plt.gcf()
    monkeypatch.undo()
    left, right = figure.axes
    assert sorted(bar.get_width() for bar in left.patches) == pytest.approx([0.2, 0.3, 0.5])
    assert [bar.get_width() for bar in right.patches] == [0.9]
    assert [list(line.get_xdata()) for line in left.lines] == [[0.4, 0.6]]
    assert left.yaxis_inverted()  # the first row is on top
    plt.close(figure)
    assert (tmp_path / "new" / "plot.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["demo", "banking77", "attention", "peer"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_lines_are_described(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert stopped.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out
