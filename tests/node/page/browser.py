"""A real browser, and pages in it that notice what goes wrong."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FOREIGN = "evil.example"
"""A name that leads to this machine."""
OPTIONS = ["--no-sandbox", f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1"]


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the browser while the block runs; skips a test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: with Debian, apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, *, quiet: bool = True, **how: Any) -> Iterator[Page]:
    """Open a page in a tab of its own; afterwards nothing has gone wrong in it.

    quiet   whether an answer of an error, which browsers print, is wrong as well.
    """
    context = browser.new_context(**how)
    page = context.new_page()
    wrong, asked = list[str](), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    home = url.partition("#")[0].rstrip("/")
    assert not [each for each in asked if not each.startswith(f"{home}/")]
    assert not [each for each in wrong if quiet or "Failed to load resource" not in each]
