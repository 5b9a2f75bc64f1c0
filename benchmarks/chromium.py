"""A headless Chromium that may ask nobody for anything, and tells what it was asked for.

``why_not()`` says what is missing here, if anything is. It needs chromium, chromedriver and selenium.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
OWN = ("file:", "data:", "blob:", "about:")
READY = "return document.documentElement.dataset.ready === 'yes'"


def why_not() -> str:
    """Why no browser can be opened here; "" if one can."""
    missing = [] if importlib.util.find_spec("selenium") else ["selenium (pip install selenium)"]
    missing += [] if _found(NAMES) else ["Chromium"]
    missing += [] if _found(["chromedriver"]) else ["chromedriver"]
    return f"not found: {', '.join(missing)}" if missing else ""


def _found(names: Any) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One browser with one page.

    Args:
        driver: of selenium.
        downloads: folder in which saved files appear.
        server: address on 127.0.0.1 whose pages may be asked for; "" if none may.
    """

    def __init__(self, driver: Any, downloads: Path, server: str = "") -> None:
        self.driver = driver
        self.downloads = downloads
        self.own = (*OWN, *([server] if server else []))
        blocked = ["https://*", "ws://*", "wss://*", *([] if server else ["http://*"])]
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": blocked})
        driver.get("about:blank")
        self.requests(), self.console()

    def open(self, page: Path | str, timeout: float = 300) -> Any:
        """Load a page of a report, wait until all of it is there, and return selenium's driver."""
        self.driver.get(page if isinstance(page, str) else page.resolve().as_uri())
        self.until(READY, timeout)
        self.driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
        return self.driver

    def until(self, script: str, timeout: float = 300) -> Any:
        """The value of a script as soon as it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, timeout, 0.05).until(lambda driver: driver.execute_script(script))

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, but files, data, the server, and the browser's own."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        asked = [each["request"]["url"] for each in sent]
        return [url for url in asked if not url.startswith((*self.own, "chrome"))]

    def console(self) -> list[str]:
        """What the console showed since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900, server: str = "") -> Iterator[Browser]:
    """Open a browser with a fresh profile in ``folder``, and close it at the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _found(NAMES) or ""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for flag in [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}"]:
        options.add_argument(flag)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(downloads), "download.prompt_for_download": False}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_found(["chromedriver"])))
    try:
        driver.set_script_timeout(300)
        yield Browser(driver, downloads, server)
    finally:
        driver.quit()
