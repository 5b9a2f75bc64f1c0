"""Plots of a report, with labels that a plotting library could take for something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lit_metric.report.plots import check_matplotlib, draw_plots
from tests.report.made import made_report

pytest.importorskip("matplotlib")


def test_each_plot_is_drawn_with_its_labels_as_they_are(tmp_path: Path) -> None:
    report = made_report(items=200, classes=6)
    worst = report.confusions[0]
    report.items.labels[worst.first] = "$x_1$ <b>&"
    files = draw_plots(report, tmp_path / "plots")
    names = [f"{name}.{ending}" for name in ("map", "curves", "confusions") for ending in ("png", "svg")]
    assert [path.name for path in files] == names
    assert all(path.stat().st_size > 2000 for path in files)
    svg = (tmp_path / "plots" / "confusions.svg").read_text(encoding="utf-8")
    assert "$x_1$ &lt;b&gt;&amp;" in svg


def test_what_is_missing_is_not_drawn(tmp_path: Path) -> None:
    report = made_report(items=50, classes=3)
    report = replace(report, confusions=[], run=replace(report.run, curves=[]))
    report.items.map_before = None
    assert [path.name for path in draw_plots(report, tmp_path)] == ["map.png", "map.svg"]


def test_without_the_library_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        check_matplotlib()
