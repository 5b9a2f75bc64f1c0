"""How fast the page of a report is, and pictures of it.

``python -m benchmarks.report_page --out DIR`` writes pages of made reports, opens them in headless Chromium,
and writes report_page.json: time to the first paint, milliseconds from frame to frame while the map is moved,
zoomed and pointed at, and sizes of files.

``python -m benchmarks.report_page --write RUN --out DIR`` writes the page of a run by ``lit-metric inspect``,
in float32 and in bfloat16, and writes write_page.json: seconds in all and of each part, and those of a
projection of 10,000 made vectors by PCA and by PaCMAP.

``python -m benchmarks.report_page --memory --out DIR`` writes pages of runs of a static encoder with more and
more made training texts, which the test texts search, and writes page_memory.json: the largest memory of each
process, and what of it are vectors before and after, and texts.

``python -m benchmarks.report_page --screenshots DIR PAGE...`` takes a picture of each view of pages that
``lit-metric inspect`` wrote, as ``DIR/NAME-VIEW.png``; a page is called by the folder that it is in.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.chromium import Browser, browser, why_not
from benchmarks.engine.measures import processor
from benchmarks.results import fit, run
from lit_metric.report.page import write_page
from lit_metric.report.projection import Method, project
from tests.report.made import made_report

SIZES = (1000, 10000, 100000)
CLASSES = 77
MEASURED = 1000
ALL_SHOWN = 50_000
"""Items at most whose page is also written with all of them: to look for wrong data compares all pairs."""
DIMENSION = 384
METHODS: tuple[Method, ...] = ("pca", "pacmap")
LOADS = 5
FRAMES = 90
HIGHEST = 1600

MEASURE = """
const [kind, frames, done] = arguments;
const canvas = document.querySelector('[data-when=after] .overlay');
canvas.scrollIntoView({block: 'center'});
canvas.focus();
const box = canvas.getBoundingClientRect();
const at = (name, type, x, y, more) => (type === 'move' ? window : canvas).dispatchEvent(new name(
  {move: 'mousemove', down: 'mousedown', up: 'mouseup', point: 'pointermove', wheel: 'wheel'}[type],
  {bubbles: true, cancelable: true, view: window, clientX: box.left + x, clientY: box.top + y, ...more}));
const times = [];
let pointed = false;
(async () => {
  await new Promise(requestAnimationFrame);
  if (kind === 'pan') at(MouseEvent, 'down', 200, 200);
  if (kind === 'hover') { at(PointerEvent, 'point', 50, 50); await new Promise(requestAnimationFrame); }
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < frames; i++) {
    const x = 250 + 150 * Math.cos(i / 9), y = 250 + 150 * Math.sin(i / 9);
    if (kind === 'pan') at(MouseEvent, 'move', x, y);
    else if (kind === 'zoom') at(WheelEvent, 'wheel', 250, 250, {deltaY: i % 40 < 20 ? -60 : 60});
    else at(PointerEvent, 'point', x, y);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    pointed ||= !document.getElementById('tip').hidden;
    last = now;
  }
  if (kind === 'pan') window.dispatchEvent(new MouseEvent('mouseup', {view: window}));
  const {k, x, y} = canvas.__zoom;
  const happened = {pan: x !== 0 && y !== 0, zoom: k !== 1, hover: pointed}[kind];
  done(happened ? times : null);
})();
"""
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
WHOLE = "return performance.getEntriesByName('ready')[0].startTime"


def measured(folder: Path, items: int) -> dict[str, Any]:
    """Everything about one size."""
    page = folder / f"{items}.html"
    report = made_report(items=items, classes=CLASSES)
    started = time.process_time()
    write_page(report, page)
    found: dict[str, Any] = {
        "items": items,
        "megabytes": round(page.stat().st_size / 1e6, 2),
        "seconds_to_write": round(time.process_time() - started, 2),
    }
    with browser(folder / f"browser-{items}") as opened:
        paints, wholes = [], []
        for _ in range(LOADS):
            driver = opened.open(page)
            paints.append(driver.execute_script(PAINT))
            wholes.append(driver.execute_script(WHOLE))
        found["first_paint_ms"] = spread(paints)
        found["whole_page_ms"] = spread(wholes)
        for kind in ("pan", "zoom", "hover"):
            times = driver.execute_async_script(MEASURE, kind, FRAMES)
            found[f"frame_ms_{kind}"] = spread(times) if times else "nothing happened"
        found["requests"] = len(opened.requests())
        found["console"] = opened.console()
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95% and worst."""
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        "median": round(statistics.median(values), 1),
        "p95": round(high, 1),
        "worst": round(ordered[-1], 1),
    }


def written(run: Path, folder: Path) -> dict[str, Any]:
    """How long ``lit-metric inspect`` takes for a run, in each precision."""
    found: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        page = folder / f"{precision}.html"
        command = [sys.executable, "-m", "lit_metric", "inspect", "--model", str(run), "--output", str(page)]
        started = time.perf_counter()
        subprocess.run([*command, "--precision", precision], check=True)
        seconds = time.perf_counter() - started
        content = re.search(r'id="first">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
        assert content is not None
        parts = json.loads(content[1])["seconds_to_write"]
        found[precision] = {"seconds": round(seconds, 1), **{name: round(parts[name], 1) for name in parts}}
    return found


def projected(items: int = 10_000, dimension: int = 384) -> dict[str, float]:
    """Seconds of a projection before and after of made vectors around 77 centres, by method."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, dimension, generator=draw)
    labels = torch.arange(items) % CLASSES
    both = [centres[labels] + spread * torch.randn(items, dimension, generator=draw) for spread in (2.0, 1.0)]
    project(both[0][:100], both[1][:100])  # what is compiled once isn't measured
    seconds: dict[str, float] = {}
    for method in METHODS:
        started = time.perf_counter()
        project(both[0], both[1], method)
        seconds[method] = round(time.perf_counter() - started, 1)
    return seconds


def remembered(folder: Path, items: int) -> dict[str, Any]:
    """The largest memory of ``lit-metric inspect`` with this many training items, all of them encoded, where
    the page shows 20,000 of them, and where it shows all."""
    draw = np.random.default_rng(0)
    labels = draw.integers(CLASSES, size=items + MEASURED)
    own, others = draw.integers(5, size=(len(labels), 4)), draw.integers(200, size=(len(labels), 8))
    texts = [
        " ".join([*(f"topic{label} {word}" for word in first), *map(str, second)])
        for label, first, second in zip(labels.tolist(), own.tolist(), others.tolist(), strict=True)
    ]
    names = [f"topic {label}" for label in labels.tolist()]
    for name, part in (("train", slice(items)), ("test", slice(items, None))):
        table = pa.table({"text": texts[part], "label": names[part]})
        pq.write_table(table, folder / f"{name}.parquet")
    data = [f"--data.{name}={folder / name}.parquet" for name in ("train", "test")]
    options = ["--data.validation_share=0", "--data.test_corpus=train", "--trainer.max_steps=1"]
    _, trained = fit("configs/static.yaml", folder / "run", *data, *options, log=folder / "fit.log")
    found: dict[str, Any] = {
        "items": items,
        "mib_of_vectors": round(2 * len(texts) * DIMENSION * 4 / 2**20),
        "mib_of_texts": round(sum(len(text.encode()) for text in texts) / 2**20),
        "mib_of_fit": round(trained.peak_memory),
    }
    for title, shown in {"some": 20_000, **({"all": len(texts)} if items <= ALL_SHOWN else {})}.items():
        page = folder / f"{title}.html"
        command = [sys.executable, "-m", "lit_metric", "inspect", "--model", str(folder / "run")]
        wanted = ["--output", str(page), "--max_items", str(shown), "--precision", "float32"]
        done = run([*command, *wanted], log=folder / "inspect.log")
        found[f"{title}_shown"] = {
            "mib": round(done.peak_memory),
            "mib_beyond": round(done.peak_memory - found["mib_of_vectors"] - found["mib_of_texts"]),
            "seconds": round(done.seconds, 1),
            "megabytes_of_page": round(page.stat().st_size / 1e6, 2),
        }
    return found


def photograph(opened: Browser, page: Path, folder: Path) -> None:
    """A picture of each view, as high as the view, but no higher than fits a screen or two."""
    driver = opened.open(page)
    folder.mkdir(parents=True, exist_ok=True)
    bars = driver.get_window_size()["height"] - driver.execute_script("return innerHeight")
    for section in driver.find_elements("css selector", "main > section"):
        if not section.is_displayed():
            continue
        driver.set_window_size(1280, bars + min(HIGHEST, section.size["height"] + 90))
        driver.execute_script("arguments[0].scrollIntoView()", section)
        opened.until("return new Promise(done => setTimeout(() => done(true), 300))")
        picture = folder / f"{page.resolve().parent.name}-{section.get_attribute('id')}.png"
        shot = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        shot.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
        driver.set_window_size(1280, 900)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-report-page"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--write", type=Path, metavar="RUN")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--screenshots", type=Path, metavar="DIR")
    parser.add_argument("pages", type=Path, nargs="*", metavar="PAGE")
    options = parser.parse_args()
    if options.write:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            pages = written(options.write, Path(folder))
        save(options.out / "write_page.json", {"pages": pages, "projection": projected()})
        return
    if options.memory:
        options.out.mkdir(parents=True, exist_ok=True)
        sizes = []
        for items in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                sizes.append(remembered(Path(folder), items))
        save(options.out / "page_memory.json", {"pages": sizes})
        return
    if why_not():
        raise SystemExit(why_not())
    if options.screenshots:
        with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as opened:
            for page in options.pages:
                photograph(opened, page, options.screenshots)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = [measured(Path(folder), items) for items in options.sizes]
    save(options.out / "report_page.json", {"pages": results})


def save(path: Path, content: dict[str, Any]) -> None:
    """Write and print figures with the machine that they are of."""
    machine = {"processor": processor(), "load": os.getloadavg()}
    text = json.dumps({"machine": machine, **content}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
