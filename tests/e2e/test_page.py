"""Rules of this file: a real daemon and a real browser; a person pauses and resumes in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.test_daemon import lines_to
from tests.e2e.tiny import LOOPBACK, dipaco_node
from tests.node.page.browser import opened, running_browser

pytestmark = pytest.mark.slow
NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWRqBU6CrhEKAr77bpy6HRxtqzuETmamQApbbFFmNj67uG"
"""An address at which no peer answers: the node keeps trying."""
PATIENCE = 60_000  # ms for a page to show what a busy machine's daemon does


def test_a_person_watches_and_pauses_a_node_in_the_page(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    start = (sys.executable, "-m", "dipaco.cli.entry", "start", "--bootstrap", NOBODY, *LOOPBACK)
    own = ("--ui-listen", "127.0.0.1:0", "--device", "cpu")
    expect.set_options(timeout=PATIENCE)
    with (
        running_browser() as browser,
        subprocess.Popen([*start, *own, *home], stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            said = lines_to(process, "ready")
            url = dipaco_node("ui", *home).stdout.strip()
            address, token = url.split("/#")
            assert f"ui {address} " in said and token not in said
            with opened(browser, url) as page:
                state = page.locator("#head .state")
                expect(state).to_contain_text("connecting")
                page.get_by_role("button", name="Pause for 1 h").click()
                expect(page.locator("#answer")).to_contain_text("paused until")
                expect(state).to_contain_text("paused by you")
                status = json.loads(dipaco_node("status", "--json", *home).stdout)
                assert status["state"] == "paused" and status["order"]["mode"] == "user"
                page.get_by_role("button", name="Resume", exact=True).click()
                expect(state).to_contain_text("connecting")
        finally:
            process.kill()
