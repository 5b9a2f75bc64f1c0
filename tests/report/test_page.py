"""The file of the page: what is in it, without a browser."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_metric.report.page import write_page
from tests.report.made import HOSTILE, made_report


class Scripts(HTMLParser):
    """What a browser would find: elements by name, and the content of each script with an id."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.inside: str | None = None
        self.title = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = str(dict(attrs).get("id", "code")) if tag == "script" else tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, text: str) -> None:
        if self.inside == "title":
            self.title += text
        elif self.inside is not None:
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + text

    def bulk(self, name: str) -> bytes:
        """Inflated bytes."""
        return zlib.decompress(base64.b64decode(self.scripts[f"bulk-{name}"]))

    def array(self, name: str) -> np.ndarray:
        """Numbers, whose bytes are stored plane by plane, the lowest first."""
        (attributes,) = [found for _, found in self.elements if found.get("id") == f"bulk-{name}"]
        dtype = np.dtype(str(attributes["data-kind"])).newbyteorder("<")
        planes = np.frombuffer(self.bulk(name), np.uint8).reshape(dtype.itemsize, -1)
        return (
            np.array([int.from_bytes(bytes(each), "little") for each in planes.T], np.uint64)
            .astype(f"u{dtype.itemsize}")
            .view(dtype)
        )


def written(folder: Path, **options: Any) -> tuple[Any, str]:
    report = made_report(**options)
    write_page(report, folder / "report.html")
    return report, (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("hostile", [False, True])
def test_arrays_and_texts_are_those_of_the_report(tmp_path: Path, hostile: bool) -> None:
    report, text = written(tmp_path, items=120, classes=20, hostile=hostile)
    page, items = Scripts(text), report.items
    for name in (
        "neighbours_before",
        "neighbours_after",
        "label_offsets",
        "label_ids",
        "row",
        "split",
        "file",
    ):
        assert page.array(name).tolist() == getattr(items, name).reshape(-1).tolist(), name
    for when in ("before", "after"):
        assert page.array(f"correct_{when}").tolist() == getattr(items, f"correct_{when}").tolist()
        scores = getattr(items, f"scores_{when}").reshape(-1)
        assert page.array(f"scores_{when}") / 1000 == pytest.approx(scores, abs=0.00051)
        places = getattr(items, f"map_{when}").reshape(-1)
        assert page.array(f"map_{when}") / 65535 == pytest.approx(places, abs=1e-5)
    ends = page.array("lengths").cumsum()
    joined = page.bulk("texts").decode("utf-8").encode("utf-16-le")
    found = [
        joined[2 * start : 2 * end].decode("utf-16-le") for start, end in zip([0, *ends], ends, strict=False)
    ]
    assert found == [each.replace("\ud800", "\ufffd") for each in items.texts]
    late = json.loads(page.bulk("late"))
    assert late["labels"] == [each.replace("\ud800", "\ufffd") for each in items.labels]
    assert late["keys"] is None
    assert [column["name"] for column in late["columns"]] == list(items.columns)
    ages = page.array("column-2")
    assert [None if np.isnan(age) else age for age in ages] == items.columns["age"]
    names = next(each for each in late["columns"] if each["name"] == "channel")["strings"]
    assert [names[code] for code in page.array("column-1")] == items.columns["channel"]


def test_the_file_is_inert_whatever_the_texts_are(tmp_path: Path) -> None:
    report, text = written(tmp_path, items=60, classes=20, hostile=True)
    page = Scripts(text)
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"img", "b", "iframe", "object", "embed", "form", "base"}
    )
    assert len(re.findall("</script", text, re.I)) == len(re.findall("<script", text, re.I))
    assert not re.search("[\u2028\u2029]", text)
    assert page.title == f"{report.title} – lit-metric"
    assert json.loads(page.scripts["first"])["title"] == report.title
    assert HOSTILE[0] not in text


def test_the_file_names_no_other_and_its_policy_forbids_them(tmp_path: Path) -> None:
    _, text = written(tmp_path)
    page = Scripts(text)
    (policy,) = [found["content"] for tag, found in page.elements if found.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not [
        found for _, found in page.elements if {"src", "href"} & {*found} and found.get("href", "")[:1] != "#"
    ]


def test_what_is_no_number_becomes_none(tmp_path: Path) -> None:
    report = made_report(items=50)
    report.metrics[0].change.value = float("nan")
    report.metrics[1].before.low = float("inf")
    report.problems[0].rows[0][5] = np.float32(0.25)
    write_page(report, tmp_path / "report.html")
    page = Scripts((tmp_path / "report.html").read_text(encoding="utf-8"))
    first = json.loads(page.scripts["first"])
    assert first["metrics"][0]["change"]["value"] is None
    assert first["metrics"][1]["before"]["low"] is None
    assert json.loads(page.bulk("late"))["problems"][0]["rows"][0][5] == 0.25


def test_keys_that_are_no_file_and_row_are_kept(tmp_path: Path) -> None:
    report = made_report(items=50)
    report.items.keys[3] = "my key"
    write_page(report, tmp_path / "report.html")
    late = json.loads(Scripts((tmp_path / "report.html").read_text(encoding="utf-8")).bulk("late"))
    assert late["keys"] == report.items.keys


def test_arrays_of_another_length_are_refused(tmp_path: Path) -> None:
    report = made_report(items=50)
    report.items.row = report.items.row[:49]
    report.items.scores_after = report.items.scores_after[:10]
    with pytest.raises(ValueError, match="has 50 texts, but row has 49, scores_after has 10; give one value"):
        write_page(report, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
