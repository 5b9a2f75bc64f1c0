"""CSV files as spreadsheets and retrieval collections write them are read as they were meant."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_metric import MetricDataModule
from lit_metric.data import CsvOptions, DataError, Problems, read_table
from tests.data.formats.tables import labelled_items

ROWS = [
    ("wo ist meine Karte; und wann kommt sie?", "Karte"),
    ('er sagte "nein", zweimal', "Absage"),
    ("Zeile\numgebrochen\tund Tab", "Karte"),
    ("größer | kleiner, señor café", "Ähnlich"),
]


def excel(path: Path, separator: str, encoding: str, start: str = "") -> Path:
    """As Excel saves a sheet: quotes where needed, CRLF."""
    with path.open("w", encoding=encoding, newline="") as file:
        file.write(start)
        csv.writer(file, delimiter=separator).writerows([("text", "label"), *ROWS])
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_separator_and_byte_order_are_found(
    tmp_path: Path, separator: str, encoding: str, suffix: str
) -> None:
    table = read_table(excel(tmp_path / f"sheet{suffix}", separator, encoding))
    assert table.columns == ["text", "label"]
    assert [*zip(table.column("text"), table.column("label"), strict=True)] == ROWS


def test_what_is_unusual_is_said_in_one_line_and_what_is_usual_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        read_table(excel(tmp_path / "plain.csv", ",", "utf-8-sig"))
        read_table(excel(tmp_path / "semi.csv", ";", "utf-8"), csv=CsvOptions(separator=";"))
        assert not caplog.messages
        read_table(excel(tmp_path / "semi.csv", ";", "utf-8"))
        read_table(excel(tmp_path / "wide.csv", "\t", "utf-16"))
        for number in range(4):
            excel(tmp_path / f"part{number}.csv", "|", "utf-8")
        read_table(str(tmp_path / "part*.csv"))
    told = [message.replace(f"{tmp_path}/", "") for message in caplog.messages]
    assert told == [
        "semi.csv: read with the separator ';'",
        "wide.csv: read with the encoding utf-16, the separator tab, quotation marks around fields",
        "part0.csv, part1.csv, part2.csv and 1 more: read with the separator '|'",
    ]


def test_the_line_that_names_the_separator_to_excel(tmp_path: Path) -> None:
    table = read_table(excel(tmp_path / "a.csv", ";", "utf-8-sig", "sep=;\r\n"))
    assert table.column("label") == [label for _, label in ROWS]


def test_a_separator_in_texts_does_not_mislead(tmp_path: Path) -> None:
    texts = [f"one; two; {number}, three" for number in range(5)]
    pd.DataFrame({"text": texts, "label": "x"}).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "one.csv", index=False)
    pd.DataFrame({"a, b": texts, "c": "x", "d": "y"}).to_csv(tmp_path / "b.csv", index=False, sep=";")
    assert read_table(tmp_path / "a.csv").column("text") == texts
    assert read_table(tmp_path / "one.csv").column("text") == texts
    assert read_table(tmp_path / "b.csv").columns == ["a, b", "c", "d"]
    # Commas that nobody quoted are bad rows, not another separator.
    (tmp_path / "c.csv").write_text("text,label\none, two,x\nthree, four,y\n")
    with pytest.raises(DataError, match="3 fields where the header has 2 in rows 1, 2"):
        read_table(tmp_path / "c.csv")


def test_a_legacy_encoding_is_shown_and_asked_for_but_never_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = excel(tmp_path / "a.csv", ";", "cp1252")
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(
            DataError,
            match=r"broken characters .* row 4\. Save the file as UTF-8, or name its encoding: csv.encoding=",
        ),
    ):
        labelled_items(read_table(path))
    assert "it has 'größer': give csv.encoding='cp1252' if that is right" in caplog.text
    table = read_table(path, csv=CsvOptions(encoding="cp1252"))
    assert [*zip(table.column("text"), table.column("label"), strict=True)] == ROWS
    # A single damaged byte in a file of UTF-8 says nothing about an encoding.
    caplog.clear()
    (tmp_path / "b.csv").write_bytes("text,label\nnaïve,x\n".encode() + b"caf\xe9,y\n")
    with caplog.at_level(logging.INFO), pytest.raises(DataError, match="broken characters"):
        labelled_items(read_table(tmp_path / "b.csv"))
    assert "cp1252" not in caplog.text
    with pytest.raises(DataError, match=r"b.csv is not in the encoding ascii: .* \(line 2\); name another"):
        read_table(tmp_path / "b.csv", csv=CsvOptions(encoding="ascii"))


COLLECTIONS: dict[str, tuple[str, list[list[str]], bool]] = {
    # Two lines that would be one if the marks were quotes.
    "swallowed": (
        'text\tlabel\n"To be\tplay\nnot to be"\tplay\n',
        [['"To be', "play"], ['not to be"', "play"]],
        False,
    ),
    "whole": ('text\tlabel\n"quoted"\ta\nplain\tb\n', [['"quoted"', "a"], ["plain", "b"]], False),
    "open": ('text\tlabel\n"never closed\ta\nplain\tb\n', [['"never closed', "a"], ["plain", "b"]], False),
    "inner": ('text\tlabel\n"so" he said\ta\nb\tb\n', [['"so" he said', "a"], ["b", "b"]], False),
    "middle": ('text\tlabel\n5" pipe\ta\nb\tb\n', [['5" pipe', "a"], ["b", "b"]], False),
    "doubled": ('text\tlabel\n"he said ""no"""\ta\nb\tb\n', [['he said "no"', "a"], ["b", "b"]], True),
    "tab within": ('text\tlabel\n"a\tb"\tx\nc\ty\n', [["a\tb", "x"], ["c", "y"]], True),
    "break within": ('text\tlabel\n"a\nb"\tx\nc\ty\n', [["a\nb", "x"], ["c", "y"]], True),
    "all quoted": ('"text"\t"label"\n"a"\t"x"\n', [["a", "x"]], True),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_quotation_marks_of_tab_separated_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    content, rows, quoted = COLLECTIONS[name]
    (tmp_path / "a.tsv").write_text(content)
    with caplog.at_level(logging.INFO):
        table = read_table(tmp_path / "a.tsv")
    assert [list(row) for row in zip(table.column("text"), table.column("label"), strict=True)] == rows
    said = "quotation marks around fields" if quoted else "quotation marks as part of the texts"
    assert caplog.text.count(said) == (name != "middle")


def test_the_marks_of_a_file_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(COLLECTIONS["whole"][0])
    assert read_table(tmp_path / "a.tsv", csv=CsvOptions(quote='"')).column("text") == ["quoted", "plain"]
    (tmp_path / "a.csv").write_text('text,label\n"y",a\n"a,x\n')
    with pytest.raises(DataError, match=r"never closed, .* or give csv.quote='' if fields are not quoted"):
        read_table(tmp_path / "a.csv")
    assert read_table(tmp_path / "a.csv", csv=CsvOptions(quote="")).column("text") == ['"y"', '"a']
    (tmp_path / "b.csv").write_text("text,label\n'a, b',x\n")
    assert read_table(tmp_path / "b.csv", csv=CsvOptions(quote="'")).column("text") == ["a, b"]


def test_columns_of_a_file_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("3,first text\n4,second text\n")
    data = MetricDataModule(test=str(tmp_path / "a.csv"), csv=CsvOptions(columns=["label", "text"]))
    data.read()
    assert data.vocabulary.texts == ["first text", "second text"]


@pytest.mark.parametrize(
    "options", [{"separator": ";;"}, {"separator": ""}, {"quote": "''"}, {"encoding": "utf-9"}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ValueError, match=rf"csv\.{name}="):
        CsvOptions(**options)


@pytest.mark.parametrize("name", ["qrels.txt", "test.qrels", "qrels.dev.tsv"])
def test_judgements_of_trec_have_no_header(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / name).write_text("7 0 d12 1\n7\t0\td13\t0\r\n8 Q0 d12 -1\n")
    with caplog.at_level(logging.INFO):
        table = read_table(tmp_path / name)
    assert table.column("query-id") == ["7", "7", "8"]
    assert table.column("corpus-id") == ["d12", "d13", "d12"]
    assert table.column("score") == ["1", "0", "-1"]
    assert "as TREC writes judgements without a header" in caplog.text
    (tmp_path / name).write_text("7 0 d12 1\n" * 30 + "8 0 d 12 1\n")
    problems = Problems(skip=True)
    assert read_table(tmp_path / name, problems=problems).broken == {30}
    assert problems.rows()[0]["problem"] == "5 fields in place of 4"
    (tmp_path / "notes.txt").write_text("some text\n")
    with pytest.raises(DataError, match=r"notes.txt holds no judgements of TREC"):
        read_table(tmp_path / "notes.txt")


def test_files_of_a_pattern_that_differ_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, columns in (("a", {"text": ["x"], "label": ["y"]}), ("b", {"text": ["x"], "intent": ["y"]})):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"text": ["x"], "label": ["y"]}), tmp_path / "c.parquet")
    with caplog.at_level(logging.WARNING), pytest.raises(DataError) as error:
        MetricDataModule(train=str(tmp_path / "*.parquet")).read()
    told = f"'label' is not in {tmp_path}/b.parquet; 'intent' is in {tmp_path}/b.parquet only"
    assert caplog.messages == [f"the files have different columns: {told}"]
    assert str(error.value).endswith(f"the 3 files have 'text' in common; {told}")


def test_one_reader_for_one_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = ["007", "7", "01", "1", "NA", "None", "null", "1.50"]
    for folder, name in (("flat", "train.csv"), ("deep/train", "any.csv")):
        (tmp_path / folder).mkdir(parents=True)
        pd.DataFrame({"text": "a", "label": labels}).to_csv(tmp_path / folder / name, index=False)
    for source in ("flat/train.csv", "flat", "flat:train", "deep", "deep:train"):
        assert read_table(str(tmp_path / source)).column("label") == labels
    (tmp_path / "flat" / "test.csv").write_text("text;label\nb;c\n")
    table = read_table(f"{tmp_path / 'flat'}:test")
    assert (table.column("label"), table.place(0)) == (["c"], (str(tmp_path / "flat" / "test.csv"), 1))
    with pytest.raises(
        DataError, match=r"flat has several splits; name one of '.*flat:train', '.*flat:test'"
    ):
        read_table(tmp_path / "flat")
    with pytest.raises(DataError, match=r"flat has no split 'dev'; name one of"):
        read_table(f"{tmp_path / 'flat'}:dev")


def test_a_json_file_is_a_list_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n  {"text": "a", "label": 1},\n  {"text": "b"}\n]')
    (tmp_path / "b.json").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n', encoding="utf-16")
    for name in ("a.json", "b.json"):
        assert read_table(tmp_path / name).column("label") == [1, None]
    (tmp_path / "a.json").write_text('[{"text": "a"}')
    with pytest.raises(DataError, match="begins as a list, but is no valid JSON"):
        read_table(tmp_path / "a.json")
