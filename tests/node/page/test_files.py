"""Rules of this file: the files of the page, without a browser."""

import re
from collections.abc import AsyncIterator

import pytest
import trio

from dipaco.node.api.connection import as_json
from dipaco.node.page.files import FILES, HEADERS
from tests.node.api.talk import Port
from tests.node.page.living import LiveNode

MOST_BYTES = 150_000  # of all files and the first data


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[Port]:
    yield Port(nursery)


def test_all_files_and_the_first_data_are_small() -> None:
    node = LiveNode(founder=True)
    data = (node.status(), node.losses(None, 200), node.records(None, None, 25))
    files = sum(len(each.body) for target, each in FILES.items() if target != "/")
    assert files + sum(len(as_json(each)) for each in data) < MOST_BYTES


def test_no_file_names_another_host_or_holds_a_script_or_style_in_markup() -> None:
    for target, each in FILES.items():
        text = each.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.", text), target
    markup = FILES["/"].body.decode()
    assert not re.search(r"<style|<script[^>]*>[^<]|\son[a-z]+=|\sstyle=", markup)


def test_no_line_is_wider_than_a_hundred_columns() -> None:
    for target, each in FILES.items():
        lines = each.body.decode().splitlines()
        assert target.endswith(".svg") or max(map(len, lines)) <= 100, target


def test_no_script_reads_a_text_as_markup_or_code() -> None:
    for target, each in FILES.items():
        text = each.body.decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), (
            target
        )


async def test_the_files_need_no_token_and_forbid_all_that_the_page_does_not_use(
    port: Port,
) -> None:
    for target in FILES:
        answer = await port.ask("GET", target)
        assert answer.status == 200 and answer.body == FILES[target].body
        for name, value in (*HEADERS, ("Cache-Control", "no-store")):
            assert answer.headers[name] == value
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_foreign_host_or_page_gets_no_file(port: Port) -> None:
    assert (await port.ask("GET", "/", "Host: evil.example")).status == 421
    assert (await port.ask("GET", "/page.js", "Origin: http://evil.example")).status == 403


async def test_what_is_no_file_of_the_page_needs_the_token(port: Port) -> None:
    for method, target in (("POST", "/"), ("GET", "/files.py"), ("GET", "/../files.py")):
        assert (await port.ask(method, target)).status == 401
