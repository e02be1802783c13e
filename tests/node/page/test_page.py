"""Rules of this file: a real browser without a window, and the API's server on a port.

One browser for all tests; each has a tab, a server and a node of its own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from msgspec.structs import replace
from playwright.sync_api import Browser, Page, expect

from tests.node.page.browser import FOREIGN, opened, running_browser
from tests.node.page.living import TOKEN, LiveNode, hostile, serving_page

pytestmark = pytest.mark.slow
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as found:
        yield found


def test_it_tells_the_state_first_and_all_parts_without_a_foreign_request(
    browser: Browser, tmp_path: Path
) -> None:
    with serving_page(tmp_path, LiveNode()) as node, opened(browser, node.url) as page:
        expect(page.locator("#head .state")).to_contain_text("training")
        expect(page.locator("#head .state")).to_contain_text("12 of 25 steps")
        for part in ("node", "network", "paths", "loss", "router", "events", "ledger"):
            expect(page.locator(f"#{part} h2")).to_be_visible()
        expect(page.locator("#loss svg")).to_be_visible()
        expect(page.locator("#router")).to_contain_text("source-bytes")
        assert page.url == f"{node.address}/"  # the token has left it
        assert TOKEN not in page.content()


def test_it_follows_the_node(browser: Browser, tmp_path: Path) -> None:
    live = LiveNode()
    with serving_page(tmp_path, live) as node, opened(browser, node.url) as page:
        page.get_by_text("The same as a table").click()
        live.steps = 20
        expect(page.locator("#head .state")).to_contain_text("20 of 25 steps")
        expect(page.get_by_role("region", name="Held-out losses by round")).to_be_visible()


def test_it_pauses_and_resumes_the_node_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    live = LiveNode()
    with serving_page(tmp_path, live) as node, opened(browser, node.url) as page:
        page.get_by_role("button", name="Pause until I resume").press("Enter")
        expect(page.locator("#answer")).to_contain_text("paused until you resume it")
        expect(page.locator("#head .state")).to_contain_text("paused by you")
        expect(page.locator("#head .cure")).to_contain_text("dipaco-node resume")
        assert live.mode == "user"
        page.get_by_role("button", name="Resume", exact=True).press("Enter")
        expect(page.locator("#head .state")).to_contain_text("training")
        assert live.mode == "runs"


def test_it_shows_a_founder_the_members_and_what_blocks(browser: Browser, tmp_path: Path) -> None:
    live = LiveNode(founder=True)
    with serving_page(tmp_path, live) as node, opened(browser, node.url) as page:
        schedule = page.locator("#schedule")
        for words in ("the delta of path 0", "2 peers", "12.0 rounds per hour", "waits, place 1"):
            expect(schedule).to_contain_text(words)
        expect(page.locator("#orders")).to_contain_text("trains nothing that could pause")


def test_of_several_runs_a_person_chooses_the_one_that_is_shown(
    browser: Browser, tmp_path: Path
) -> None:
    live = LiveNode()
    (first,) = live.status().runs
    second = replace(first, id="cd" * 32, name="second", verdict="refuted", stage="features")
    live.fields["runs"] = (first, second)
    with serving_page(tmp_path, live) as node, opened(browser, node.url, quiet=False) as page:
        page.get_by_label("Run", exact=True).select_option(label="second (cdcdcdcd)")
        expect(page.locator("#router")).to_contain_text("refuted at features")
        live.steps = 13
        expect(page.locator("#head .state")).to_contain_text("13 of 25")
        expect(page.locator("#router")).to_contain_text("refuted at features")


def test_the_ledger_is_read_page_by_page(browser: Browser, tmp_path: Path) -> None:
    with serving_page(tmp_path, LiveNode()) as node, opened(browser, node.url) as page:
        ledger = page.locator("#ledger")
        expect(ledger).to_contain_text("records 35 to 59 of 60")
        page.get_by_role("button", name="Oldest").click()
        expect(ledger).to_contain_text("records 0 to 24 of 60")


def test_without_a_token_it_says_where_to_get_one_and_takes_it(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        serving_page(tmp_path, LiveNode()) as node,
        opened(browser, f"{node.address}/#an-old-token-of-it", quiet=False) as page,
    ):
        expect(page.locator("#token")).to_contain_text("dipaco-node ui")
        expect(page.locator("#why")).to_contain_text("no longer")
        page.get_by_label("Address or token").fill(node.url)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#head .state")).to_contain_text("training")
        expect(page.locator("#token")).to_be_hidden()


def test_another_tab_has_no_token(browser: Browser, tmp_path: Path) -> None:
    with (
        serving_page(tmp_path, LiveNode()) as node,
        opened(browser, node.url) as page,
        opened(browser, node.address) as other,
    ):
        expect(page.locator("#head .state")).to_contain_text("training")
        expect(other.locator("#why")).to_contain_text("Without it nobody")


def test_it_waits_for_a_daemon_that_is_away_and_asks_for_its_new_token(
    browser: Browser, tmp_path: Path
) -> None:
    with serving_page(tmp_path, LiveNode()) as node:
        port, url = int(node.address.rpartition(":")[2]), node.url
        tab = opened(browser, url, quiet=False)
        page = tab.__enter__()
        expect(page.locator("#head .state")).to_contain_text("training")
    expect(page.locator("#line")).to_contain_text("does not answer")
    expect(page.locator("#line")).to_contain_text("next try in")
    with serving_page(tmp_path, LiveNode(), port=port, token="another-token-now") as again:
        expect(page.locator("#token")).to_be_visible()
        page.evaluate("location.hash = 'another-token-now'")
        expect(page.locator("#head .state")).to_contain_text("training")
        assert page.url == f"{again.address}/"
        tab.__exit__(None, None, None)


def test_a_hidden_tab_leaves_the_node_alone(browser: Browser, tmp_path: Path) -> None:
    live = LiveNode()
    with serving_page(tmp_path, live) as node, opened(browser, node.url) as page:
        expect(page.locator("#head .state")).to_contain_text("12 of 25")
        with page.expect_event("requestfailed", lambda asked: "/v1/stream" in asked.url):
            show(page, hidden=True)
        live.steps = 13
        with page.expect_request("**/v1/stream*"):
            show(page, hidden=False)
        expect(page.locator("#head .state")).to_contain_text("13 of 25")


def show(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        "hidden => { const how = {value: hidden, configurable: true};"
        "Object.defineProperty(document, 'hidden', how);"
        "document.dispatchEvent(new Event('visibilitychange')) }",
        hidden,
    )


def test_a_foreign_name_that_leads_to_the_node_gets_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    with serving_page(tmp_path, LiveNode()) as node:
        foreign = node.url.replace("127.0.0.1", FOREIGN)
        with opened(browser, foreign, quiet=False) as page:
            expect(page.locator("body")).to_contain_text("this node is not called")


def test_the_script_of_another_page_is_refused_even_with_the_token(
    browser: Browser, tmp_path: Path
) -> None:
    live, page = LiveNode(), browser.new_page()  # an empty page, whose origin is none
    with serving_page(tmp_path, live) as node:
        for options in ("{method: 'POST', headers}", "{method: 'POST', mode: 'no-cors'}"):
            answer = page.evaluate(
                f"url => {{ const headers = {{Authorization: 'Bearer {TOKEN}'}};"
                f"return fetch(url, {options}).then(a => a.status, () => 'refused') }}",
                f"{node.address}/v1/pause",
            )
            assert answer in ("refused", 0)  # 0: one that the page may not look into
        assert live.mode == "runs"
    page.close()


def test_names_and_reasons_of_others_stay_text(browser: Browser, tmp_path: Path) -> None:
    live = LiveNode()
    hostile(live)
    with serving_page(tmp_path, live) as node, opened(browser, node.url) as page:
        expect(page.locator("#head .state")).to_contain_text("<script>document.title='taken'")
        expect(page.locator("#head .state")).to_contain_text("\\u202eesrever\\u2066 \\x1b[31mred")
        expect(page.locator("#paths")).to_contain_text("leased")
        assert "taken" not in page.title()
        assert page.locator("body img, body script").count() == 0
        text = page.locator("body").inner_text() + page.title()
        assert not [each for each in "\u202e\u2066\u200b\x1b\x07" if each in text]


@pytest.mark.parametrize(
    ("scheme", "size", "founder"),
    [("light", DESK, False), ("dark", DESK, True), ("light", PHONE, True)],
    ids=["light", "dark", "phone"],
)
def test_nobody_is_kept_out_by_its_form(
    browser: Browser, tmp_path: Path, scheme: Any, size: Any, founder: bool
) -> None:
    how = {"color_scheme": scheme, "viewport": size}
    with (
        serving_page(tmp_path, LiveNode(founder=founder)) as node,
        opened(browser, node.url, **how) as page,
    ):
        page.get_by_text("The same as a table").click()
        expect(page.locator("#ledger table")).to_be_visible()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert not [each for each in found if each["impact"] in ("serious", "critical")], found
        assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


PURE = (
    *("visible", "size", "rate", "span", "loss", "ticks", "stretches", "pauseAfter"),
    *("eventsIn", "tokenIn", "shape"),
)
EXAMPLES = [
    ("text", "visible('a\\u202eb\\u0007\\u{e0041}')", "a\\u202eb\\x07\\u{e0041}"),
    ("text", "visible('\\ud83d')", "\\ud83d"),
    ("text", "visible('Grüße 数据 😀')", "Grüße 数据 😀"),
    (
        "text",
        "[0, 999, 1500, 99949, 12345678].map(size)",
        ["0 B", "999 B", "1.5 kB", "99.9 kB", "12.3 MB"],
    ),
    (
        "text",
        "[0, 125, 500000, 1e9].map(rate)",
        ["0 bit/s", "1.0 kbit/s", "4.0 Mbit/s", "8.0 Gbit/s"],
    ),
    (
        "text",
        "[-1, 3.14, 60, 119, 600, 7800, 180000].map(span)",
        ["0 s", "3.1 s", "60 s", "119 s", "10 min", "2 h 10 min", "2 d 2 h"],
    ),
    ("text", "[loss(null), loss(3.14159)]", ["\u2013", "3.142"]),
    ("chart", "ticks(5.9, 8.3, 5)", [6, 6.5, 7, 7.5, 8]),
    ("chart", "ticks(0, 0, 5).length <= 2", True),
    (
        "chart",
        "stretches([0, 1, 2, 3], [5, null, 6, 7], x => x, y => y)",
        [[[0, 5]], [[2, 6], [3, 7]]],
    ),
    ("api", "[1, 2, 3, 6, 60].map(pauseAfter)", [1000, 2000, 4000, 30000, 30000]),
    (
        "api",
        "eventsIn('event: status\\ndata: {}\\n\\n: \\n\\nevent: st')",
        [[["status", "{}"]], "event: st"],
    ),
    ("api", "[tokenIn('http://h/#a%2Bb'), tokenIn(' t '), tokenIn('#%')]", ["a+b", "t", ""]),
    (
        "run",
        "[shape([0,1,2,3].map(n => ({experts: [n >> 1, n & 1]}))), shape([{experts: [0]}])]",
        [[2, 2], [0, 0]],
    ),
]


def test_its_pure_functions(browser: Browser, tmp_path: Path) -> None:
    with serving_page(tmp_path, LiveNode()) as node, opened(browser, node.address) as page:
        for module, call, expected in EXAMPLES:
            names = ", ".join(each for each in PURE if each in call)
            found = page.evaluate(
                f"import('/{module}.js').then(({{{names}}}) => JSON.stringify({call}))"
            )
            assert json.loads(found) == expected, call
