"""The page as a person meets it: all views, keys and themes; and nothing that it asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chromium import Browser
from lit_metric.report.structure import Report
from tests.report.browsing import By, Keys, Select, figures, find, find_all, press, shown
from tests.report.made import HOSTILE, made_report

SECTIONS = ("glance", "map", "neighbours", "confusions", "negatives", "attention", "problems", "advice")


def test_each_view_is_there(page: Any) -> None:
    assert [each.get_attribute("id") for each in find_all(page, "main > section") if each.is_displayed()] == [
        *SECTIONS
    ]
    for name in SECTIONS:
        assert len(find(page, f"#{name}").text) > 100, name
        assert "could not be shown" not in find(page, f"#{name}").text
    links = [each.get_attribute("href").split("#")[1] for each in find_all(page, "#contents a")]
    assert links == [*SECTIONS]


def test_metrics_and_data_are_those_of_the_report(page: Any, report: Report) -> None:
    assert figures(page, "#metrics") == [
        [row.before.value, row.after.value, row.change.value, row.queries] for row in report.metrics
    ]
    bounds = find(page, "#metrics tbody tr").find_elements(By.CSS_SELECTOR, "[data-low]")
    first = report.metrics[0]
    assert [
        (float(each.get_attribute("data-low")), float(each.get_attribute("data-high"))) for each in bounds
    ] == [(each.low, each.high) for each in (first.before, first.after, first.change)]
    words = find(page, "#metrics tbody tr").text
    assert "0.4123" in words
    assert "0.6240" in words
    assert "+0.2116 (+0.1950 … +0.2290)" in words
    judged = [row.find_elements(By.TAG_NAME, "td")[4].text for row in find_all(page, "#metrics tbody tr")]
    assert judged == ["▲ better", "no clear change", "▲ better (no interval)", "–"]
    assert figures(page, "#splits") == [
        [split.items, split.items_shown, split.classes, split.cut] for split in report.splits
    ]
    health = report.health
    assert health is not None
    assert figures(page, "#health") == [
        [*health.mean_cosine],
        [*health.effective_dimensions],
        [*health.hubness],
        [*health.never_found],
    ]
    assert report.run.command in page.execute_script("return document.getElementById('glance').textContent")


def test_all_controls_are_reached_by_tab(page: Any) -> None:
    controls = page.execute_script(
        "const names = 'main button, main input, main select, main summary, .overlay';"
        "return [...document.querySelectorAll(names)]"
        ".filter(e => e.checkVisibility() && !e.disabled && e.tabIndex !== 0).length"
    )
    assert controls == 0
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    find(page, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the report"
    names = page.execute_script(
        "const named = e => e.getAttribute('aria-label') || e.textContent.trim() || (e.labels || []).length;"
        "return [...document.querySelectorAll('button, input, select, .overlay')]"
        ".filter(e => e.checkVisibility() && !named(e))"
        ".map(e => e.outerHTML)"
    )
    assert names == []


def test_light_dark_and_small_screens(page: Any) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    button = find(page, "#theme")
    seen = {}
    for _ in range(3):
        button.click()
        seen[button.text] = page.execute_script(paper)
    assert seen["Theme: light"] != seen["Theme: dark"]
    size = page.get_window_size()
    try:
        page.set_window_size(500, 800)
        script = "return [document.documentElement.scrollWidth, window.innerWidth]"
        width, room = page.execute_script(script)
        assert width <= room
    finally:
        page.set_window_size(size["width"], size["height"])


def test_hostile_texts_do_nothing(opened: Browser, tmp_path: Path) -> None:
    report = made_report(items=60, classes=20, hostile=True)
    driver = shown(opened, report, tmp_path)
    for element in find_all(driver, "#problems .problem:not([open]) > summary"):
        press(driver, element)
    for name in [each.get_attribute("value") for each in Select(find(driver, "#map-colour")).options]:
        Select(find(driver, "#map-colour")).select_by_value(name)
    find(driver, "#map-search").send_keys("o", Keys.ENTER)
    driver.execute_script(
        "document.querySelectorAll('#confusions tbody button, .chip.query').forEach(e => e.click())"
    )
    for item in range(len(HOSTILE)):
        driver.execute_script("document.querySelectorAll('#map-list .item')[arguments[0]]?.click()", item)
    assert driver.execute_script("return window.pwned ?? null") is None
    assert (
        driver.execute_script("return document.querySelectorAll('main img, main b, main script').length") == 0
    )
    assert opened.console() == []
    assert opened.requests() == []
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    texts = driver.execute_script(
        "return [...document.querySelectorAll('[data-name=\"suspected labels\"] tbody tr')]"
        ".map(row => row.cells[1].textContent)"
    )
    assert texts[0] == HOSTILE[0]
    assert "\u2400" in texts[7]


def strays(driver: Any) -> list[str]:
    """Texts that are values of JavaScript, which nobody meant to show."""
    found: list[str] = driver.execute_script(
        "const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];"
        "while (walk.nextNode()) if (/^(null|undefined|false|true|NaN|\\[object .*\\])$/.test("
        "walk.currentNode.data.trim())) found.push(walk.currentNode.parentNode.outerHTML);"
        "return found"
    )
    return found


def test_no_value_of_the_program_is_shown(opened: Browser, tmp_path: Path) -> None:
    for number, report in enumerate((made_report(items=50), made_report(items=50, compared=True))):
        (folder := tmp_path / str(number)).mkdir()
        assert strays(shown(opened, report, folder)) == []


def test_parts_that_are_missing_say_why(opened: Browser, tmp_path: Path) -> None:
    report = made_report(items=50)
    items = replace(
        report.items, map_before=None, map_after=None, neighbours_before=None, scores_before=None, labels=[]
    )
    items.label_ids, items.label_offsets = items.label_ids[:0], np.zeros(51, np.int32)
    parts = ("metrics", "curves", "health", "splits", "map", "confusions", "classes", "negatives")
    parts += ("attention", "problems", "advice")
    driver = shown(
        opened,
        replace(
            report,
            items=items,
            metrics=[],
            splits=[],
            health=None,
            queries=[],
            confusions=[],
            classes=[],
            negatives=None,
            attention=[],
            problems=[],
            advice=[],
            run=replace(report.run, curves=[], parts=[], seconds=0.0, command="", config=""),
            missing={part: f"No {part} here: <b>." for part in parts},
        ),
        tmp_path,
    )
    words = driver.execute_script("return document.querySelector('main').textContent")
    for part in parts:  # without labels there are neither confusions nor classes, which is said once
        assert (f"No {part} here: <b>." in words) == (part != "classes"), part
    assert "could not be shown" not in words
    assert strays(driver) == []
    assert len(find_all(driver, "#neighbour-view .near")) == 1
    assert opened.console() == []
