"""The map by pointer and keys: what is shown, selected, coloured and saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.chromium import Browser
from lit_metric.report.structure import Report
from tests.report.browsing import (
    ROOM,
    ActionChains,
    Keys,
    Select,
    alone,
    assert_neighbours,
    find,
    find_all,
    labels_of,
    on_map,
    press,
    rows_of,
    saved,
    searched,
    waiting,
)


def test_pointer_on_the_map_shows_an_item_and_a_click_its_neighbours(page: Any, report: Report) -> None:
    item = alone(report.items)
    canvas, x, y = on_map(page, report.items, item)
    ActionChains(page).move_to_element_with_offset(canvas, x, y).perform()
    waiting(page).until("return !document.getElementById('tip').hidden")
    tip = find(page, "#tip")
    assert report.items.texts[item] in tip.text
    for label in labels_of(report.items, item):
        assert label in tip.text
    ActionChains(page).click().perform()
    assert int(find(page, "#map-picked").get_attribute("data-place")) == item
    assert_neighbours(page, "#map-picked", report.items, item)
    canvas.send_keys(Keys.ESCAPE)
    assert find(page, "#map-picked").text == ""
    assert not find(page, "#tip").is_displayed()


def test_a_box_selects_and_the_selection_is_saved(page: Any, opened: Browser, report: Report) -> None:
    items = report.items
    item = alone(items)
    press(page, find(page, "[data-value=box]"))
    canvas, x, y = on_map(page, items, item)
    corner = ActionChains(page).move_to_element_with_offset(canvas, x - 40, y - 40)
    corner.click_and_hold().move_by_offset(50, 50).move_by_offset(30, 30).release().perform()
    unit = min(canvas.size["width"], canvas.size["height"]) - 2 * ROOM
    assert items.map_after is not None
    middle = items.map_after[item]
    inside = np.flatnonzero((np.abs(items.map_after - middle) * unit < 40).all(axis=1)).tolist()
    listed = [int(each.get_attribute("data-place")) for each in find_all(page, "#map-list .item")]
    assert item in listed
    edge = (np.abs(np.abs(items.map_after - middle) * unit - 40) < 2).any(axis=1)  # a pixel more or less
    assert [i for i in listed if not edge[i]] == [i for i in inside if not edge[i]]
    press(page, find(page, "#map-export"))
    rows = rows_of(saved(opened, "selection.csv"))
    assert rows == [["file", "row", "shown_text", "shown_labels", "shown_split"]] + [
        [
            items.files[items.file[i]],
            str(items.row[i]),
            items.texts[i],
            " | ".join(labels_of(items, i)),
            items.splits[items.split[i]],
        ]
        for i in listed
    ]


def test_a_lasso_and_words_select(page: Any, report: Report) -> None:
    press(page, find(page, "[data-value=lasso]"))
    canvas = find(page, "[data-when=before] .overlay")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = canvas.size["width"] - 20, canvas.size["height"] - 20  # within the rounded corners
    ActionChains(page).move_to_element_with_offset(
        canvas, -width // 2, -height // 2
    ).click_and_hold().move_by_offset(width, 0).move_by_offset(0, height).move_by_offset(
        -width, 0
    ).release().perform()
    assert int(find(page, "#map-count").get_attribute("data-count")) == len(report.items)
    find(page, "#map-search").send_keys("class 3", Keys.ENTER)
    wanted = [
        i for i in range(len(report.items)) if all(w in searched(report.items, i) for w in ("class", "3"))
    ]
    assert int(find(page, "#map-count").get_attribute("data-count")) == len(wanted)
    press(page, find(page, "#map-clear"))
    assert find(page, "#map-count").text == "Nothing is selected"


def test_the_map_is_coloured_by_anything(page: Any, report: Report) -> None:
    chooser = Select(find(page, "#map-colour"))
    names = [each.get_attribute("value") for each in chooser.options]
    assert names == [
        *("label", "split", "correct_after", "correct_before", "changed"),
        *("column-0", "column-1", "column-2"),
    ]
    pictures = set()
    for name in names:
        chooser.select_by_value(name)
        waiting(page).until(
            "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        )
        pictures.add(
            page.execute_script("return document.querySelector('[data-when=after] .points').toDataURL()")
        )
    assert len(pictures) == len(names)
    chooser.select_by_value("split")
    texts = [each.text for each in find_all(page, "#map-legend li")]
    assert texts == [
        f"{name} {int((report.items.split == place).sum())}" for place, name in enumerate(report.items.splits)
    ]


def test_keys_move_the_map_and_pick(page: Any) -> None:
    canvas = find(page, "[data-when=after] .overlay")
    zoom = "return document.querySelector('[data-when=before] .overlay').__zoom"
    page.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys("+")
    assert page.execute_script(zoom)["k"] == pytest.approx(1.5)
    before = page.execute_script(zoom)["x"]
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert page.execute_script(zoom)["x"] == pytest.approx(before - 60)
    canvas.send_keys("0")
    assert page.execute_script(zoom)["k"] == 1
    canvas.send_keys(Keys.ENTER)
    assert find(page, "#map-picked .near").is_displayed()
