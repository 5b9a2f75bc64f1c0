"""The page as a person meets it: views, keys, pointer, saved files; and nothing that it asks for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chromium import Browser, browser, why_not
from lit_metric import MetricDataModule
from lit_metric.report.page import write_page
from lit_metric.report.structure import Items, Report
from tests.report.made import HOSTILE, made_report
from tests.small import write_csv

if why_not():
    pytest.skip(why_not(), allow_module_level=True)

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

SECTIONS = ("glance", "map", "neighbours", "confusions", "negatives", "attention", "problems", "advice")
ROOM = 16  # pixels around a map


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def report() -> Report:
    return made_report(items=120)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(report, path)
    return path


@pytest.fixture
def page(opened: Browser, path: Path) -> Iterator[Any]:
    """The page, freshly loaded; afterwards it has said nothing on the console and asked nobody."""
    driver = opened.open(path)
    yield driver
    assert opened.console() == []
    assert opened.requests() == []


def shown(opened: Browser, report: Report, folder: Path) -> Any:
    write_page(report, folder / "other.html")
    return opened.open(folder / "other.html")


def find(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def find_all(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements(By.CSS_SELECTOR, selector)


def figures(driver: Any, selector: str) -> list[list[float | None]]:
    """Exact numbers behind the figures of each row of a table."""
    script = """return [...document.querySelectorAll(arguments[0] + ' tbody tr:not(.detail)')].map(row =>
        [...row.querySelectorAll('[data-value]')].map(each => each.dataset.value))"""
    rows = driver.execute_script(script, selector)
    return [[float(value) if value else None for value in row] for row in rows]


def saved(opened: Browser, name: str) -> bytes:
    """The file, as soon as it is whole; the next one of the name is another."""
    from selenium.webdriver.support.ui import WebDriverWait

    path = opened.downloads / name
    WebDriverWait(opened.driver, 300, 0.05).until(
        lambda _: path.exists() and not [*opened.downloads.glob("*.crdownload")] and path.stat().st_size > 0
    )
    content = path.read_bytes()
    path.unlink()
    return content


def rows_of(content: bytes) -> list[list[str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return [*csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))]


def press(driver: Any, element: Any) -> None:
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


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


def test_confusions_and_classes_sort(page: Any, report: Report) -> None:
    rows = [[each.count, each.rate, each.before_count] for each in report.confusions]
    assert figures(page, "#confusion-table") == sorted(rows, reverse=True)
    press(page, find(page, "#confusion-table th:nth-child(4) button"))
    assert figures(page, "#confusion-table") == sorted(rows, key=lambda row: -row[1])
    assert find(page, "#confusion-table th:nth-child(4)").get_attribute("aria-sort") == "descending"
    press(page, find(page, "#confusion-table tbody button"))
    worst = max(report.confusions, key=lambda each: each.rate)
    sides = [each.text for each in find_all(page, "#confusion-table .pairs .side p:nth-child(2)")]
    assert sides == [report.items.texts[place] for pair in worst.examples for place in pair]
    names = ("size", "train_size", "recall", "precision", "recall_before", "precision_before", "spread")
    worst_first = sorted(report.classes, key=lambda row: row.recall or 0)
    assert figures(page, "#class-table") == [
        [getattr(row, name) or (0 if name in ("train_size", "spread") else None) for name in names]
        + [row.nearest_cosine]
        for row in worst_first
    ]


def test_search_by_keys_shows_neighbours_before_and_after(page: Any, report: Report) -> None:
    items = report.items
    wanted = [i for i, text in enumerate(items.texts) if "question 5" in text]
    box = find(page, "#search")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.send_keys("question 5")
    found = page.execute_script
    Browser.until(_driver(page), "return !document.getElementById('search-options').hidden")
    places = (
        "return [...document.querySelectorAll('#search-options li')].map(each => Number(each.dataset.place))"
    )
    has_words = [
        i for i in range(len(items)) if all(word in _searched(items, i) for word in ("question", "5"))
    ]
    assert found(places) == has_words[:50]
    assert {*wanted} <= {*has_words}
    box.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert box.get_attribute("aria-activedescendant") == "option-1"
    box.send_keys(Keys.ESCAPE)
    assert box.get_attribute("aria-expanded") == "false"
    box.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    chosen = int(find(page, "#neighbour-view").get_attribute("data-place"))
    assert chosen == has_words[0]
    assert_neighbours(page, "#neighbour-view", items, chosen)


def _driver(driver: Any) -> Browser:
    """Only to wait with."""
    found = object.__new__(Browser)
    found.driver = driver
    return found


def _searched(items: Items, item: int) -> str:
    return f"{items.texts[item]} {' '.join(labels_of(items, item))}".lower()


def labels_of(items: Items, item: int) -> list[str]:
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


def test_a_typed_query_shows_what_it_was_given(page: Any, report: Report) -> None:
    query = report.queries[1]
    press(page, find_all(page, ".query")[1])
    assert find(page, "#neighbour-view .full").text == query.text
    lists = find_all(page, "#neighbour-view .near")
    for found, places, scores in zip(
        lists, (query.before, query.after), (query.scores_before, query.scores_after), strict=True
    ):
        assert [
            int(each.get_attribute("data-place")) for each in found.find_elements(By.CSS_SELECTOR, ".item")
        ] == places
        assert [float(each.text) for each in found.find_elements(By.CSS_SELECTOR, ".score")] == pytest.approx(
            scores, abs=0.0006
        )


def test_pointer_on_the_map_shows_an_item_and_a_click_its_neighbours(page: Any, report: Report) -> None:
    item = alone(report.items)
    canvas, x, y = on_map(page, report.items, item)
    ActionChains(page).move_to_element_with_offset(canvas, x, y).perform()
    _driver(page).until("return !document.getElementById('tip').hidden")
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
        i for i in range(len(report.items)) if all(w in _searched(report.items, i) for w in ("class", "3"))
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
        _driver(page).until(
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


def test_mined_negatives_by_version(page: Any, report: Report) -> None:
    negatives = report.negatives
    assert negatives is not None
    share = float(find(page, "#false-share [data-value]").get_attribute("data-value"))
    assert share == negatives.false_negative_share
    assert negatives.rule in find(page, "#negatives").text
    slider = find(page, "#version")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    for version in reversed(negatives.versions):
        assert f"version {version.version} " in find(page, "#version-name").text
        counts = [
            int(each.get_attribute("data-count")) for each in find_all(page, "#version-body rect[data-count]")
        ]
        assert counts == version.positive_histogram + version.negative_histogram
        scores = [row[0] for row in figures(page, "#anchor")]
        assert scores == [each.score for each in version.anchors[0].candidates]
        slider.send_keys(Keys.ARROW_LEFT)
    Select(find(page, "#anchor-choice")).select_by_value("2")
    table = find(page, "#anchor").text
    assert "0.900 at best, 0.800 on average, 0.700 at worst" in table
    assert "dropped: RelativeMargin" in table
    assert "⚠ yes: scores above the mean positive" in table


def test_attention_by_head(page: Any, report: Report) -> None:
    weights = (
        "return [...document.querySelectorAll('#attention-view .piece')].map(e => Number(e.dataset.weight))"
    )
    tags, tokens = report.attention
    assert tags.before is not None
    means = [*np.mean(tags.before, axis=0), *np.mean(tags.after, axis=0)]
    assert page.execute_script(weights) == pytest.approx(means)
    Select(find(page, "#attention-head")).select_by_value("1")
    assert page.execute_script(weights) == tags.before[1] + tags.after[1]
    Select(find(page, "#attention-item")).select_by_value("1")
    assert page.execute_script(weights) == tokens.after[0]
    assert "unknown" in find(page, "#attention-view").text


def test_lists_of_problems_are_saved_as_given(page: Any, opened: Browser, report: Report) -> None:
    counts = [int(each.get_attribute("data-value")) for each in find_all(page, "#problems .count")]
    assert counts == [max(each.total, len(each.rows)) for each in report.problems]
    for summary in find_all(page, "#problems details:not([open]) summary"):
        press(page, summary)
    for each in report.problems[:2]:
        press(page, find(page, f"[data-file='{each.export}']"))
        rows = rows_of(saved(opened, each.export))
        assert rows[0] == each.columns
        kinds = [type(cell) for cell in each.rows[0]]
        assert [[kind(cell) for kind, cell in zip(kinds, row, strict=True)] for row in rows[1:]] == each.rows


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
    for element in find_all(driver, "#problems details:not([open]) summary"):
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
        "return [...document.querySelectorAll('[data-name=\"label errors\"] tbody tr')]"
        ".map(row => row.cells[2].textContent)"
    )
    assert texts[0] == HOSTILE[0]
    assert "\u2400" in texts[7]


def test_a_saved_list_is_inert_in_a_spreadsheet_and_still_excludes(opened: Browser, tmp_path: Path) -> None:
    """Every cell but file and row is a text that could be a formula; all rows but the listed ones remain."""
    texts = [text.replace("\ud800", "\ufffd") for text in HOSTILE if text and "\x00" not in text]
    texts = [text.replace("\r", "").replace("\x0b", "").replace("\x1b", "") for text in texts]
    rows = [(text, f"class {i % 2}") for i, text in enumerate(texts)]
    rows += [(f"other {i}", f"class {i % 2}") for i in range(6)]
    given = write_csv(tmp_path / "given.csv", rows)
    report = made_report(items=60, hostile=True)
    listed = [[given, i + 1, text, label] for i, (text, label) in enumerate(rows[:-6])]
    problem = replace(
        report.problems[0], columns=["file", "row", "text", "label"], rows=listed, items=[-1] * len(listed)
    )
    report.problems = [problem]
    driver = shown(opened, report, tmp_path)
    press(driver, find(driver, ".export"))
    content = saved(opened, "suspects.csv")
    for row in rows_of(content)[1:]:
        assert row[2][0] not in "=+-@\t\r"
    assert "'=HYPERLINK" in content.decode("utf-8")
    (tmp_path / "suspects.csv").write_bytes(content)
    data = MetricDataModule(
        train=given,
        exclude=str(tmp_path / "suspects.csv"),
        cache_dir=str(tmp_path / "cache"),
    )
    data.read()
    assert [data.texts_of(i)[0] for i in range(len(data.items))] == [f"other {i}" for i in range(6)]


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
    for part in parts:
        assert f"No {part} here: <b>." in words, part
    assert "could not be shown" not in words
    assert len(find_all(driver, "#neighbour-view .near")) == 1
    assert opened.console() == []


def test_two_runs_have_their_names_and_flips(opened: Browser, tmp_path: Path) -> None:
    report = made_report(items=50, compared=True)
    driver = shown(opened, report, tmp_path)
    heads = [each.text for each in find_all(driver, "#metrics th")]
    assert heads[1:3] == ["first", "second"]
    assert report.comparison is not None
    values = [float(each.get_attribute("data-value")) for each in find_all(driver, "#mcnemar [data-value]")]
    assert values == [report.comparison.gained, report.comparison.lost, report.comparison.p_value]
    cells = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")][0::2]
        for row in find_all(driver, "#flip-table tbody tr")
    ]
    assert cells == [
        [report.items.texts[flip.item], "✓ right" if flip.first_right else "✗ wrong"]
        for flip in report.comparison.flips
    ]
    assert opened.console() == []
