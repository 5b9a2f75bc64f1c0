"""What tests of a page in Chromium share: looking for elements, figures, saved files and places on the map.

Importing it skips a module of tests where there is no browser.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chromium import Browser, why_not
from lit_metric.report.page import write_page
from lit_metric.report.structure import Items, Report

if why_not():
    pytest.skip(why_not(), allow_module_level=True)

from selenium.common.exceptions import ElementClickInterceptedException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

__all__ = [
    "ROOM",
    "ActionChains",
    "By",
    "Keys",
    "Select",
    "alone",
    "assert_neighbours",
    "figures",
    "find",
    "find_all",
    "labels_of",
    "on_map",
    "press",
    "rows_of",
    "saved",
    "searched",
    "shown",
    "waiting",
]

ROOM = 16  # pixels around a map


def shown(opened: Browser, report: Report, folder: Path) -> Any:
    """Write another page into the folder, and open it; nothing is decided on it yet."""
    write_page(report, folder / "other.html")
    opened.open(folder / "other.html").execute_script("localStorage.clear()")
    return opened.open(folder / "other.html")


def find(driver: Any, selector: str) -> Any:
    """The first element."""
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver: Any, selector: str) -> list[Any]:
    """All elements."""
    return driver.find_elements(By.CSS_SELECTOR, selector)


def figures(driver: Any, selector: str) -> list[list[float | None]]:
    """Exact numbers behind the figures of each row of a table."""
    script = """return [...document.querySelectorAll(arguments[0] + ' tbody tr:not(.detail)')].map(row =>
        [...row.querySelectorAll('[data-value]')].map(each => each.dataset.value))"""
    rows = driver.execute_script(script, selector)
    return [[float(value) if value else None for value in row] for row in rows]


def saved(opened: Browser, name: str) -> bytes:
    """The file, as soon as it is whole; the next one of the name is another."""
    path = opened.downloads / name
    WebDriverWait(opened.driver, 300, 0.05).until(
        lambda _: path.exists() and not [*opened.downloads.glob("*.crdownload")] and path.stat().st_size > 0
    )
    content = path.read_bytes()
    path.unlink()
    return content


def rows_of(content: bytes) -> list[list[str]]:
    """The rows of a saved CSV file."""
    assert content.startswith(b"\xef\xbb\xbf")
    return [*csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))]


def press(driver: Any, element: Any) -> None:
    """Click on an element that may be out of sight, or that what was opened before moves below the bar."""

    def pressed(_: Any) -> bool:
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        return True

    WebDriverWait(driver, 300, 0.05, [ElementClickInterceptedException]).until(pressed)


def on_map(driver: Any, items: Items, item: int) -> tuple[Any, int, int]:
    """The canvas of the second map, and where the item is, from the middle of the canvas."""
    canvas = find(driver, "[data-when=after] .overlay")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    unit = min(canvas.size["width"], canvas.size["height"]) - 2 * ROOM
    assert items.map_after is not None
    x, y = ((items.map_after[item] - 0.5) * unit).tolist()
    return canvas, round(x), round(y)


def alone(items: Items) -> int:
    """The item whose point is farthest from all others, with room around it on the map."""
    places = items.map_after
    assert places is not None
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places))
    return int(apart.min(axis=1).argmax())


def waiting(driver: Any) -> Browser:
    """Only to wait with."""
    found = object.__new__(Browser)
    found.driver = driver
    return found


def searched(items: Items, item: int) -> str:
    """What the search box looks through."""
    return f"{items.texts[item]} {' '.join(labels_of(items, item))}".lower()


def labels_of(items: Items, item: int) -> list[str]:
    """The names of an item's labels."""
    return [
        items.labels[i] for i in items.label_ids[items.label_offsets[item] : items.label_offsets[item + 1]]
    ]


def assert_neighbours(driver: Any, selector: str, items: Items, item: int) -> None:
    """Both lists hold the report's neighbours, scores, and which share a label."""
    lists = find_all(driver, f"{selector} .near")
    pairs = (
        (items.neighbours_before, items.scores_before),
        (items.neighbours_after, items.scores_after),
    )
    for found, (neighbours, scores) in zip(lists, pairs, strict=True):
        assert neighbours is not None
        assert scores is not None
        near = [place for place in neighbours[item].tolist() if place >= 0]
        rows = found.find_elements(By.TAG_NAME, "li")
        assert [
            int(row.find_element(By.CSS_SELECTOR, ".item").get_attribute("data-place")) for row in rows
        ] == near
        assert [float(row.find_element(By.CSS_SELECTOR, ".score").text) for row in rows] == pytest.approx(
            scores[item][: len(near)], abs=0.00051
        )
        for row, place in zip(rows, near, strict=True):
            share = {*labels_of(items, item)} & {*labels_of(items, place)}
            assert ("✓ same label" if share else "✗ other label") in row.text
