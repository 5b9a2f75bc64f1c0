"""One HTML file that shows a :class:`~lit_metric.report.structure.Report`.

The file asks nobody for anything: a policy in it forbids every request, and only its own script and style
run, by their hashes. What is few is JSON, which is shown at once. What there are many of (texts, places,
neighbours, scores) is deflated, in base64, and read after the first paint. Texts of the data never become
HTML: the script puts them in as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lit_metric.report.structure import Floats, Ints, Items, Report
from lit_metric.store import replacing

ASSETS = Path(__file__).parent / "assets"
LIBRARY = "d3.min.js"
SCRIPTS = (
    "tools.js",
    "table.js",
    "data.js",
    "charts.js",
    "glance.js",
    "scatter.js",
    "colours.js",
    "map.js",
    "neighbours.js",
    "confusions.js",
    "negatives.js",
    "attention.js",
    "decisions.js",
    "problems.js",
    "main.js",
)
"""In the order in which they run."""
PIECE = 3 << 18
"""Bytes encoded at a time; base64 takes three by three."""
AT_ONCE = (
    "title",
    "version",
    "made",
    "names",
    "measured_split",
    "kind",
    "run",
    "splits",
    "metrics",
    "health",
    "precision",
)
SHOWN_CLASS_SIZES = 1000


def write_page(report: Report, path: Path) -> None:
    """Write the report as one HTML file that opens from a disk, and needs nothing else.

    Scores are kept to a thousandth, places on the map to 1/65,535 of its width. Memory beyond the report
    stays flat.

    Args:
        report: what the page shows.
        path: the file; replaced as a whole.

    Raises:
        ValueError: when an array of ``report.items`` has another length than its texts.

    Example:
        >>> write_page(report, Path("runs/banking77/report.html"))  # doctest: +SKIP
    """
    _check(report.items)
    script = _script()
    style = _asset("page.css")
    values = {
        "policy": _policy(script, style),
        "title": html.escape(_valid(report.title)),
        "style": style,
        "first": _json(_first(report)),
        "script": script,
    }
    before, after = _asset("page.html").split("{{bulk}}")
    with replacing(Path(path)) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        # One pass over the template: what is filled in isn't searched for places to fill.
        file.write(re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], before))
        for name, kind, count, chunks in _bulk(report):
            file.write(f'<script type="text/plain" id="bulk-{name}" data-kind="{kind}" data-count="{count}">')
            for piece in _deflated(chunks):
                file.write(base64.b64encode(piece).decode("ascii"))
            file.write("</script>\n")
        file.write(after)


def _check(items: Items) -> None:
    """Raise if arrays differ in length."""
    count = len(items)
    lengths = {name: len(getattr(items, name)) for name in ("keys", "file", "row", "split", "role")}
    lengths |= {name: len(getattr(items, name)) for name in ("correct_before", "correct_after")}
    lengths |= {f"columns[{name!r}]": len(values) for name, values in items.columns.items()}
    lengths["label_offsets"] = len(items.label_offsets) - 1
    for name in ("map", "neighbours", "scores", "together"):
        for when in ("before", "after"):
            array = getattr(items, f"{name}_{when}")
            if array is not None:
                lengths[f"{name}_{when}"] = len(array)
    wrong = [f"{name} has {length}" for name, length in lengths.items() if length != count]
    if wrong:
        raise ValueError(
            f"the report has {count} texts, but {', '.join(wrong)}; give one value for each text"
        )


def _asset(name: str) -> str:
    """A file of the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def _script() -> str:
    """All scripts as one, whose names nothing else sees."""
    own = "\n".join(_asset(name) for name in SCRIPTS)
    return f'{_asset(LIBRARY)}\n(() => {{\n"use strict";\n{own}\n}})();\n'


def _policy(script: str, style: str) -> str:
    """No request to anyone, no script and no style but those of the page."""
    script_hash, style_hash = (
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        for text in (script, style)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _first(report: Report) -> dict[str, Any]:
    """What the page shows before it reads the rest."""
    first = {name: getattr(report, name) for name in AT_ONCE}
    first |= {"advice": report.advice, "missing": report.missing, "seconds_to_write": report.seconds_to_write}
    first["comparison"] = report.comparison
    first["problems"] = [
        {
            "name": each.name,
            "explanation": each.explanation,
            "total": max(each.total, len(each.rows)),
            "certain": each.certain,
            "certain_means": each.certain_means,
        }
        for each in report.problems
    ]
    first["items"] = len(report.items)
    return first


def _bulk(report: Report) -> Iterator[tuple[str, str, int, Iterable[bytes]]]:
    """Name, kind, number of values and bytes of all that is read after the first paint."""
    items = report.items
    texts = [_valid(text) for text in items.texts]
    columns = {name: _coded(values) for name, values in items.columns.items()}
    late = {
        "queries": report.queries,
        "confusions": report.confusions,
        "classes": report.classes,
        "negatives": report.negatives,
        "attention": report.attention,
        "problems": report.problems,
        "files": items.files,
        "labels": items.labels,
        "splits": items.splits,
        "roles": items.roles,
        "projection": items.projection,
        "columns": [{"name": name, "strings": strings} for name, (strings, _) in columns.items()],
        "keys": _keys(items),
    }
    yield "late", "json", 1, [_json(late).encode("utf-8")]
    lengths = np.array([len(text.encode("utf-16-le")) // 2 for text in texts], np.int32)
    yield from _arrays("lengths", lengths)
    yield "texts", "text", len(texts), (text.encode("utf-8") for text in texts)
    for name in ("map_before", "map_after"):
        yield from _arrays(name, _quantised(getattr(items, name)))
    yield from _arrays("label_offsets", items.label_offsets, np.int32)
    yield from _arrays("label_ids", items.label_ids, np.int32)
    for name in ("split", "role", "file", "correct_before", "correct_after"):
        yield from _arrays(name, getattr(items, name), np.int16)
    yield from _arrays("row", items.row, np.int32)
    for name in ("neighbours_before", "neighbours_after"):
        yield from _arrays(name, getattr(items, name), np.int32)
    for name in ("together_before", "together_after"):
        yield from _arrays(name, getattr(items, name), np.int8)
    for name in ("scores_before", "scores_after"):
        scores = getattr(items, name)
        thousandths = None if scores is None else np.rint(np.nan_to_num(scores) * 1000.0).clip(-32000, 32000)
        yield from _arrays(name, thousandths, np.int16)
    for place, (_, codes) in enumerate(columns.values()):
        yield from _arrays(f"column-{place}", codes)


def _arrays(
    name: str, array: NDArray[Any] | None, dtype: DTypeLike | None = None
) -> Iterator[tuple[str, str, int, Iterable[bytes]]]:
    """One array, byte planes apart from each other, which deflate better; nothing without an array."""
    if array is None:
        return
    array = np.ascontiguousarray(array, dtype=dtype)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1)
    planes = little.view(np.uint8).reshape(len(little), little.itemsize)
    yield name, array.dtype.name, array.size, (planes[:, i].tobytes() for i in range(little.itemsize))


def _quantised(places: Floats | None) -> NDArray[np.uint16] | None:
    """Places on the map in 65,536 steps."""
    if places is None:
        return None
    return np.rint(np.nan_to_num(places, nan=0.5).clip(0, 1) * 65535.0).astype(np.uint16)


def _coded(values: list[Any]) -> tuple[list[str] | None, NDArray[Any]]:
    """A column as numbers, or as places among its distinct strings; NaN and -1 for cells without a value."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in known):
        return None, np.array([math.nan if v is None else v for v in values], np.float64)
    strings = sorted({_valid(str(value)) for value in known})
    places = {string: place for place, string in enumerate(strings)}
    codes: Ints = np.array([-1 if v is None else places[_valid(str(v))] for v in values], np.int32)
    return strings, codes


def _keys(items: Items) -> list[str] | None:
    """Keys of items, None if each is its file and row."""
    files = [*items.files, ""]
    usual = (f"{files[f]}:{r}" for f, r in zip(items.file.tolist(), items.row.tolist(), strict=True))
    return None if all(key == other for key, other in zip(items.keys, usual, strict=True)) else items.keys


def _deflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Deflated bytes, in pieces that base64 takes without padding but for the last."""
    packer = zlib.compressobj(6)
    ready = bytearray()
    for chunk in chunks:
        ready += packer.compress(chunk)
        while len(ready) >= PIECE:
            yield bytes(ready[:PIECE])
            del ready[:PIECE]
    ready += packer.flush()
    yield bytes(ready)


def _plain(value: Any) -> Any:
    """What JSON knows: dataclasses become dicts, tuples lists, and numbers that are not finite None."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {_valid(str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _valid(value)
    return value if value is None or isinstance(value, bool | int) else str(value)


def _json(value: Any) -> str:
    """JSON that can't end the element it is in."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _valid(text: str) -> str:
    """The text, with a replacement character for half a surrogate pair, which UTF-8 can't write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
