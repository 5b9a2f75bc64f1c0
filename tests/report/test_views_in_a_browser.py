"""Neighbours, confusions, negatives, attention, problems and flips, with the numbers of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chromium import Browser
from lit_metric import MetricDataModule
from lit_metric.report.structure import Report
from tests.report.browsing import (
    By,
    Keys,
    Select,
    assert_neighbours,
    figures,
    find,
    find_all,
    press,
    rows_of,
    saved,
    searched,
    shown,
    waiting,
)
from tests.report.made import HOSTILE, made_report
from tests.small import write_csv


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
    Browser.until(waiting(page), "return !document.getElementById('search-options').hidden")
    places = (
        "return [...document.querySelectorAll('#search-options li')].map(each => Number(each.dataset.place))"
    )
    has_words = [
        i for i in range(len(items)) if all(word in searched(items, i) for word in ("question", "5"))
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
        facts = find(page, "#version-body dl").text.split("\n")
        use = "none: a later version came first" if version.batch is None else str(version.batch)
        assert facts[:2] == ["First used at batch", use]
        assert ("Age of its weights then" in facts) == (version.batch is not None)
        slider.send_keys(Keys.ARROW_LEFT)
    Select(find(page, "#anchor-choice")).select_by_value("2")
    table = find(page, "#anchor").text
    assert "0.900 at best, 0.800 on average, 0.700 at worst" in table
    assert "dropped: RelativeMargin" in table
    assert "⚠ yes: scores above the mean positive" in table


def test_advice_with_a_number_is_a_whole_command(page: Any, report: Report) -> None:
    assert [each.option for each in report.advice] == ["--data.exclude exclude.csv", "--trainer.max_epochs 6"]
    begin = f"lit-metric fit --config {report.run.folder}/config.yaml --name {Path(report.run.folder).name}"
    assert [each.text for each in find_all(page, "#advice .option code")] == [
        f"{begin}-corrected --data.exclude exclude.csv",
        f"{begin}-again --trainer.max_epochs 6",
    ]


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
    for summary in find_all(page, "#problems .problem:not([open]) > summary"):
        press(page, summary)
    Select(find(page, "[data-name='near duplicates'] .of-texts")).select_by_value("")  # not only equal ones
    for each in report.problems[:2]:
        press(page, find(page, f"[data-file='{each.export}']"))
        rows = rows_of(saved(opened, each.export))
        assert rows[0] == each.columns
        kinds = [{bool: "true".__eq__}.get(type(cell), type(cell)) for cell in each.rows[0]]
        assert [[kind(cell) for kind, cell in zip(kinds, row, strict=True)] for row in rows[1:]] == each.rows


def decide(driver: Any, row: int, value: str, name: str = "suspected labels") -> Any:
    """Choose what to do with a row of a list, counted from 0."""
    line = find_all(driver, f"[data-name='{name}'] tbody tr")[row]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", line)
    Select(line.find_element(By.CSS_SELECTOR, ".decision")).select_by_value(value)
    return line


def test_a_list_is_filtered_and_saved_as_it_is_shown(opened: Browser, report: Report, tmp_path: Path) -> None:
    driver, suspects = shown(opened, report, tmp_path), report.problems[0]
    split, suspicion = suspects.columns.index("of_split"), suspects.columns.index("suspicion")
    Select(find(driver, "[data-name='suspected labels'] .of-split")).select_by_value("test")
    wanted = [row for row in suspects.rows if row[split] == "test"]
    assert 0 < len(wanted) < len(suspects.rows)
    press(driver, find(driver, "[data-file='suspects.csv']"))
    assert [int(row[1]) for row in rows_of(saved(opened, "suspects.csv"))[1:]] == [row[1] for row in wanted]
    slider = find(driver, "[data-name='suspected labels'] .least")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    least = float(slider.get_attribute("value"))
    wanted = [row for row in wanted if row[suspicion] >= least]
    assert 0 < len(wanted) < len(suspects.rows) / 2
    press(driver, find(driver, "[data-file='suspects.csv']"))
    assert [int(row[1]) for row in rows_of(saved(opened, "suspects.csv"))[1:]] == [row[1] for row in wanted]
    # All that are shown are left out at once, and taken back.
    press(driver, find(driver, "[data-name='suspected labels'] .leave-all"))
    assert f"{len(wanted)} rows left out, 0 kept, 0 labelled anew" in find(driver, ".total").text
    assert f"This changes {len(wanted)} rows of a split that is measured" in find(driver, ".warned").text
    press(driver, find(driver, "[data-file='exclude.csv']"))
    assert [int(row[1]) for row in rows_of(saved(opened, "exclude.csv"))[1:]] == [row[1] for row in wanted]
    press(driver, find(driver, ".undo"))
    assert "0 rows left out" in find(driver, ".total").text
    assert not find(driver, "[data-file='exclude.csv']").is_enabled()
    assert opened.console() == []


def test_decisions_make_a_list_to_leave_out_and_a_list_of_corrections(
    opened: Browser, report: Report, tmp_path: Path
) -> None:
    driver, suspects = shown(opened, replace(report, kind="labels"), tmp_path), report.problems[0]
    exclude, corrections = (find(driver, f"[data-file='{name}.csv']") for name in ("exclude", "corrections"))
    assert not exclude.is_enabled()  # nothing is left out that nobody decided about
    assert not corrections.is_enabled()
    decide(driver, 0, "stays")
    decide(driver, 1, "suggested")
    line = decide(driver, 2, "other")
    typed, hint = (line.find_element(By.CSS_SELECTOR, each) for each in (".new-label", ".label-hint"))
    assert hint.text == "Undecided until you type a label."
    assert driver.switch_to.active_element == typed
    typed.send_keys("a new, better label")
    assert hint.text == "No item has this label: it makes a new class."
    line = decide(driver, 5, "other")  # misspelt, and put right by the button
    line.find_element(By.CSS_SELECTOR, ".new-label").send_keys(f"{report.items.labels[2].upper()}x")
    assert f"Did you mean {report.items.labels[2]}?" in line.text
    press(driver, line.find_element(By.CSS_SELECTOR, ".similar"))
    line = decide(driver, 6, "other")
    line.find_element(By.CSS_SELECTOR, ".new-label").send_keys(suspects.rows[6][3])
    assert "That is its label: it is kept." in line.text
    decide(driver, 3, "other").find_element(By.CSS_SELECTOR, ".new-label").send_keys(
        "never mind", Keys.ESCAPE
    )
    decide(driver, 4, "suggested")
    decide(driver, 4, "out")
    said = "Decided: 1 row left out, 2 kept, 3 labelled anew (1 new class: a new, better label). All others "
    assert find(driver, ".total").text == f"{said}stay as they are."
    # Decisions outlive another order of the rows, and the page.
    press(driver, find_all(driver, "[data-name='suspected labels'] .sort")[1])
    press(driver, find_all(driver, "[data-name='suspected labels'] .sort")[1])
    driver = opened.open(tmp_path / "other.html")
    assert find(driver, ".total").text == f"{said}stay as they are."
    press(driver, find(driver, "[data-file='suspects.csv']"))  # what is kept or labelled anew isn't listed
    left = rows_of(saved(opened, "suspects.csv"))
    rest = [suspects.rows[row] for row in range(20) if row not in (0, 1, 2, 5, 6)]
    assert [row[:2] for row in left[1:]] == [[row[0], str(row[1])] for row in rest]
    press(driver, find(driver, "[data-file='exclude.csv']"))
    header, out = rows_of(saved(opened, "exclude.csv"))
    assert header == ["file", "row", "of_split", "list", "given_label", "shown_text"]
    row = suspects.rows[4]
    assert out[:5] == [row[0], str(row[1]), row[2], "suspected labels; near duplicates", row[3]]
    press(driver, find(driver, "[data-file='corrections.csv']"))
    header, *found = rows_of(saved(opened, "corrections.csv"))
    assert header == ["file", "row", "of_split", "given_label", "new_label", "shown_text"]
    labels = {1: suspects.rows[1][4], 2: "a new, better label", 5: report.items.labels[2]}
    for line, (place, label) in zip(found, labels.items(), strict=True):
        row = suspects.rows[place]
        assert line == [row[0], str(row[1]), row[2], row[3], label, row[7]]
    press(driver, find(driver, ".again summary"))
    command = find(driver, ".again code").text
    assert command.startswith("lit-metric fit --config ")
    assert command.endswith("-corrected --data.exclude exclude.csv --data.corrections corrections.csv")
    assert opened.console() == []


def test_a_row_has_one_decision_in_all_lists(opened: Browser, report: Report, tmp_path: Path) -> None:
    driver = shown(opened, replace(report, kind="labels"), tmp_path)
    press(driver, find(driver, "[data-name='near duplicates'] summary"))
    decide(driver, 4, "other").find_element(By.CSS_SELECTOR, ".new-label").send_keys("another", Keys.ENTER)
    line = find_all(driver, "[data-name='near duplicates'] tbody tr")[4]
    assert "also in suspected labels" in line.text
    chosen = Select(line.find_element(By.CSS_SELECTOR, ".decision")).first_selected_option
    assert chosen.text == "label it …"
    decide(driver, 4, "out", "near duplicates")
    line = find_all(driver, "[data-name='suspected labels'] tbody tr")[4]
    chosen = Select(line.find_element(By.CSS_SELECTOR, ".decision")).first_selected_option
    assert chosen.text == "leave out"
    # Of this list, only equal texts are shown until somebody asks for the others.
    press(driver, find(driver, "[data-name='near duplicates'] .leave-all"))
    assert find(driver, ".total").text.startswith("Decided: 30 rows left out, 0 kept, 0 labelled anew")
    assert find(driver, "[data-name='near duplicates'] .count").text == "30 equal of 500"
    for said in ("1 row left out, 0 kept, 0", "0 rows left out, 0 kept, 1", "0 rows left out, 0 kept, 0"):
        press(driver, find(driver, ".undo"))
        assert find(driver, ".total").text.startswith(f"Decided: {said} labelled anew")
    assert opened.console() == []


def test_all_of_a_filter_get_the_suggested_label(opened: Browser, report: Report, tmp_path: Path) -> None:
    driver, suspects = shown(opened, replace(report, kind="labels"), tmp_path), report.problems[0]
    decide(driver, 0, "stays")
    Select(find(driver, "[data-name='suspected labels'] .of-state")).select_by_value("undecided")
    press(driver, find(driver, "[data-name='suspected labels'] .label-all"))
    press(driver, find(driver, "[data-file='corrections.csv']"))
    found = rows_of(saved(opened, "corrections.csv"))[1:]
    assert [row[1] for row in found] == [str(row[1]) for row in suspects.rows[1:]]
    assert {row[4] for row in found} == {suspects.rows[0][4]}


def test_an_item_of_no_list_is_decided_about_beside_its_neighbours(
    opened: Browser, report: Report, tmp_path: Path
) -> None:
    items = report.items
    driver = shown(opened, replace(report, kind="labels", problems=[], queries=[]), tmp_path)
    place = int(find(driver, "#neighbour-view").get_attribute("data-place"))
    choice = find(driver, "#neighbour-view .decision")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", choice)
    Select(choice).select_by_value("out")
    press(driver, find(driver, "[data-file='exclude.csv']"))
    (found,) = rows_of(saved(opened, "exclude.csv"))[1:]
    assert found[:4] == [
        items.files[items.file[place]],
        str(items.row[place]),
        items.splits[items.split[place]],
        "",
    ]
    assert opened.console() == []


def test_a_row_is_found_by_its_number_and_a_list_is_found_again(page: Any, report: Report) -> None:
    items = report.items
    wanted = next(i for i in range(len(items)) if items.splits[items.split[i]] == "test")
    box = find(page, "#search")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.send_keys(f"test row {items.row[wanted]}", Keys.ENTER)
    view = find(page, "#neighbour-view")
    assert view.get_attribute("data-place") == str(wanted)
    # Enter takes what all letters find, also where fewer were looked for before.
    box.clear()
    box.send_keys("train row 2")
    found = "return document.querySelector('#search-options:not([hidden]) [data-place=\"1\"]') !== null"
    Browser.until(waiting(page), found)
    page.execute_script(
        "const [box] = arguments; box.value += '9'; box.dispatchEvent(new Event('input'));"
        "box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))",
        box,
    )
    assert items.row[int(view.get_attribute("data-place"))] == 29
    box.clear()
    box.send_keys(f"test row {items.row[wanted]}", Keys.ENTER)
    near = next(int(place) for place in items.neighbours_after[wanted] if place >= 0)  # type: ignore[index]
    split = items.splits[items.split[near]]
    assert f"{split} row {items.row[near]}" in find_all(page, "#neighbour-view .near")[1].text
    opener = find(page, "[data-name='suspected labels'] tbody .opener")
    press(page, opener)
    assert view.get_attribute("data-place") == "0"
    assert "which is in suspected labels" in view.text
    press(page, find(page, "#neighbour-view .back"))
    assert page.switch_to.active_element == opener


def test_a_filter_shows_strong_suspicions_first_and_its_left_end_all_rows(
    opened: Browser, report: Report, tmp_path: Path
) -> None:
    given = report.problems[0]
    place = given.columns.index("suspicion")
    rows = sorted(given.rows, key=lambda row: -row[place])
    rows[-1] = [*rows[-1][:place], None, *rows[-1][place + 1 :]]
    strong = sum(row[place] >= 0.7 for row in rows[:-1])
    problem = replace(given, rows=rows, certain=strong, certain_means="strong", items=[-1] * len(rows))
    driver = shown(opened, replace(report, kind="labels", problems=[problem]), tmp_path)

    def offered() -> str:
        return str(find(driver, ".leave-all").text)

    assert 0 < strong < len(rows) - 1
    assert offered() == f"Leave out all {strong} undecided rows of this filter"
    slider = find(driver, ".least")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    slider.send_keys(Keys.HOME)
    assert offered() == f"Leave out all {len(rows)} undecided rows of this filter"
    press(driver, find(driver, ".leave-all"))
    assert find(driver, ".done").text == f", {len(rows)} decided"
    assert find(driver, ".undo").text == f"Undo ({len(rows)} rows)"
    press(driver, find(driver, ".back-all"))
    assert find(driver, ".total").text.startswith("Decided: 0 rows left out")
    assert opened.console() == []


def test_training_rows_of_a_mixture_are_of_no_measured_split(
    opened: Browser, report: Report, tmp_path: Path
) -> None:
    given = report.problems[0]
    place = given.columns.index("of_split")
    rows = [[*row[:place], f"one/{row[place]}", *row[place + 1 :]] for row in given.rows]
    problem = replace(given, rows=rows, items=[-1] * len(rows))
    driver = shown(opened, replace(report, kind="several data sets", problems=[problem]), tmp_path)
    kinds = [row[place] for row in rows]
    decide(driver, kinds.index("one/train"), "out")
    assert "measured" not in find(driver, ".warned").text
    decide(driver, kinds.index("one/test"), "out")
    assert "This changes 1 row of a split that is measured" in find(driver, ".warned").text


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
    press(driver, find(driver, "[data-file='suspects.csv']"))
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


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pairs", ("known pair", "no known pair", "are known pairs")),
        ("judgements", ("relevant", "not judged relevant", "are relevant")),
        ("several data sets", ("belongs together", "not known to", "belong together")),
    ],
)
def test_items_without_labels_are_judged_by_what_is_known(
    opened: Browser, tmp_path: Path, kind: str, words: tuple[str, str, str]
) -> None:
    report = made_report(items=50)
    items, draw = report.items, np.random.default_rng(0)
    items.labels, items.label_ids, items.label_offsets = [], items.label_ids[:0], np.zeros(51, np.int32)
    items.together_before, items.together_after = draw.integers(-1, 2, (2, 50, 10)).astype(np.int8)
    splits = [replace(each, classes=0, class_sizes=[]) for each in report.splits]
    driver = shown(
        opened,
        replace(report, kind=kind, splits=splits, confusions=[], classes=[], queries=[], problems=[]),
        tmp_path,
    )
    item = int(find(driver, "#neighbour-view").get_attribute("data-place"))
    lists = find_all(driver, "#neighbour-view .near")
    heads = [each.text for each in find_all(driver, "#neighbour-view .list h4")]
    for near, neighbours, together, head in zip(
        lists,
        (items.neighbours_before, items.neighbours_after),
        (items.together_before, items.together_after),
        heads,
        strict=True,
    ):
        assert neighbours is not None
        given = together[item][neighbours[item] >= 0]
        for row, answer in zip(near.find_elements(By.TAG_NAME, "li"), given.tolist(), strict=True):
            signs = {1: f"✓ {words[0]}", 0: f"✗ {words[1]}"}
            assert [sign in row.text for sign in signs.values()] == [answer == 1, answer == 0]
        assert head.endswith(f"{(given == 1).sum()} of {(given >= 0).sum()} {words[2]}")
    for name in ("map", "neighbours"):
        text = driver.execute_script("return document.getElementById(arguments[0]).textContent", name)
        assert "label" not in text.lower()
    assert "classes" not in find(driver, "#splits thead").text
    assert opened.console() == []
