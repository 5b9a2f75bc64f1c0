"""Results that a second run keeps, the settings they depend on, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.engine import __main__ as command
from benchmarks.engine import measures
from benchmarks.engine.measures import compared, growth, in_turn, measured, processor
from benchmarks.results import BenchmarkError

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx512f avx512_bf16

processor\t: 1
vendor_id\t: another
"""


def test_the_processor_is_named_with_its_bfloat16(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(AMD)
    found = processor(tmp_path / "cpuinfo")
    assert (found["make"], found["model"], found["bf16"]) == (
        "AuthenticAMD",
        "AMD EPYC 9R14",
        ["avx512_bf16"],
    )
    assert processor(tmp_path / "nothing")["bf16"] is None


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    now, order = [0.0], []

    def work(name: str, seconds: list[float]) -> Any:
        def do() -> None:
            order.append(name)
            now[0] += seconds[order.count(name) - 1]

        return do

    contenders = {"a": work("a", [100, 1, 2]), "b": work("b", [100, 5, 10])}
    assert in_turn(contenders, 2, clock=lambda: now[0]) == {"a": [1, 2], "b": [5, 10]}
    assert order == ["a", "b"] * 3


def test_a_ratio_is_higher_where_we_are_better() -> None:
    assert compared([10.0, 30.0, 20.0], [5.0, 5.0, 4.0])["ratio"] == 4.0
    lower = compared([2.0], [8.0], target=1.3, higher=False)
    assert (lower["ratio"], lower["spread"], lower["target"]) == (4.0, [4.0, 4.0], 1.3)
    with pytest.raises(ValueError, match=r"ours has 1 rounds and peer 2"):
        compared([1.0], [1.0, 2.0])


def test_growth_has_the_power_of_each_contender() -> None:
    found = growth(
        "rows", "s", {"linear": {1: 2.0, 2: 4.0, 4: 8.0}, "square": {1: 1.0, 3: 9.0}, "one": {5: 1.0}}
    )
    assert found["exponent"]["linear"] == pytest.approx(1.0)
    assert found["exponent"]["square"] == pytest.approx(2.0)
    assert found["exponent"]["one"] is None


def test_a_result_is_measured_again_only_if_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def work() -> dict[str, Any]:
        calls.append(len(calls))
        return compared([3.0], [1.0])

    for _ in range(2):
        found = measured(tmp_path, "speed", "texts/s", {"ours": {"batch": 8}}, work)
    assert calls == [0]
    assert (found["ratio"], found["title"], found["settings"]["ours"]) == (3.0, "texts/s", {"batch": 8})
    assert found["settings"]["versions"]["torch"]
    measured(tmp_path, "speed", "texts/s", {"ours": {"batch": 16}}, work)
    monkeypatch.setattr(measures, "processor", lambda: {"make": "another"})
    measured(tmp_path, "speed", "texts/s", {"ours": {"batch": 16}}, work)
    assert calls == [0, 1, 2]
    with pytest.raises(BenchmarkError, match="wrong has measured no peer, ratio"):
        measured(tmp_path, "wrong", "", {}, lambda: {"ours": 1.0})


def test_the_command_goes_on_after_a_failure_and_writes_tables_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
        assert quick
        found = {**compared([3.0], [1.0], target=2.0), "growth": growth("rows", "s", {"a": {1: 1.0, 2: 2.0}})}
        return [measured(out, "good", "texts/s", {"ours": "ragged"}, lambda: found)]

    def fail(out: Path, quick: bool) -> list[dict[str, Any]]:
        raise BenchmarkError("set LIT_METRIC_DATA")

    def crash(out: Path, quick: bool) -> list[dict[str, Any]]:
        raise RuntimeError("broken")

    modules = {"bad": fail, "worse": crash, "good": measure}
    monkeypatch.setattr(command, "MODULES", tuple(modules))
    monkeypatch.setattr(
        command,
        "importlib",
        SimpleNamespace(import_module=lambda name: SimpleNamespace(measure=modules[name.split(".")[-1]])),
    )
    with pytest.raises(SystemExit, match="failed: bad, worse"):
        command.main(["--out", str(tmp_path), "--quick", "--only", *modules])
    shown = capsys.readouterr()
    assert "bad: set LIT_METRIC_DATA" in shown.out
    assert "RuntimeError: broken" in shown.err
    assert "'ours': 'ragged'" in shown.out
    assert json.loads((tmp_path / "good.json").read_text())["ratio"] == 3.0
    assert "| texts/s | 3 | 1 | 3 | 3 – 3 | 2 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "good.png").stat().st_size > 1000
