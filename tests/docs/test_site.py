"""The documentation as a site, page by page in a browser; ``make test-docs`` builds it first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from benchmarks.chromium import Browser, browser, why_not

SITE = Path(os.environ.get("LIT_METRIC_SITE", "nowhere"))
if not (SITE / "index.html").exists():
    pytest.skip("no site: run make test-docs, or set LIT_METRIC_SITE", allow_module_level=True)
if why_not():
    pytest.skip(why_not(), allow_module_level=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/"
        found.shutdown()


@pytest.fixture(scope="module")
def opened(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser"), server=server) as found:
        yield found


def test_pages_are_quiet_ask_nobody_else_and_link_to_what_is_there(opened: Browser, server: str) -> None:
    pages = sorted(path for path in SITE.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 30
    links: dict[str, set[str]] = {}
    anchors: dict[str, set[str]] = {}
    for page in pages:
        url = urljoin(server, page.relative_to(SITE).as_posix().removesuffix("index.html"))
        opened.driver.get(url)
        opened.until("return document.readyState === 'complete' && document.querySelector('h1') !== null")
        found, ids = opened.driver.execute_script(
            "return [[...document.querySelectorAll('a[href], link[href], img[src], script[src]')]"
            ".map(e => e.href || e.src),"
            "[...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)]"
        )
        links[url], anchors[url] = {*found}, {*ids}
        assert opened.console() == [], url
        assert opened.requests() == [], url
    broken = []
    for url, found in links.items():
        for link in sorted(each for each in found if each.startswith(server)):
            target, anchor = urldefrag(link)
            if target in anchors:
                if anchor and unquote(anchor) not in anchors[target] and not anchor.startswith("__"):
                    broken.append(f"{url} -> {link}")
            elif not (SITE / unquote(target.removeprefix(server))).is_file():
                broken.append(f"{url} -> {link}")
    assert broken == []
