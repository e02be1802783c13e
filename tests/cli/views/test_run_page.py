"""Rules of this file: the page of the ledger of two rounds, and of hostile ones; no browser."""

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from msgspec import structs

from dipaco.cli.views.line_chart import NAME_HEIGHT, Line, chart
from dipaco.cli.views.run_facts import RunFacts, facts_of
from dipaco.cli.views.run_page import page
from dipaco.node.runs.ledger_file import checked
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.source import SourceFile
from dipaco.protocol.wire.identity import short_peer
from tests.two_rounds import told, whole_run
from tests.values import digest, peer


def facts(run: Manifest, rounds: int = 2) -> RunFacts:
    ledger = told(run, rounds)
    return facts_of(ledger.run, checked(ledger.run, ledger.records, "shelf"), ledger.head, {})


class Tags(HTMLParser):
    """Collects what a browser would act on."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_the_facts_of_the_ledger() -> None:
    run = whole_run()
    found = facts(run)
    text = page(found)
    assert found.over and [each.version for each in found.overall] == [0, 1, 2]
    assert found.overall[2].per_token == (4 * 500 + 6) / 400
    for words in ("5.0150", "2 of 2", found.head.hex(), digest("L1.E1 2").hex()):
        assert words in text
    assert short_peer(peer("anna")) in text and text == page(facts(run))
    assert "after round 1 of 2" in page(facts(run, 1))
    assert "No version is evaluated yet" in page(dataclasses.replace(found, overall=(), losses={}))


def test_the_page_is_whole_html_that_asks_nothing_of_anybody() -> None:
    text = page(facts(whole_run()))
    tags = Tags(text)
    assert tags.open == []
    assert not tags.names & {"script", "link", "img", "iframe", "object", "base", "form", "a"}
    assert not tags.attributes & {"src", "href", "onload", "onclick", "srcset", "action"}
    assert "url(" not in text and "@import" not in text and "http://" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme:dark" in text
    assert len(text.encode()) < 40_000


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_names_of_the_owner_are_shown_and_not_obeyed() -> None:
    run = whole_run()
    file = SourceFile(name=HOSTILE, size=1, sha256=digest("file"), rows=400)
    source = structs.replace(run.source, kind="files", revision="<b>&amp;", files=(file,))
    text = page(facts(structs.replace(run, source=source)))
    assert Tags(text).names == Tags(page(facts(run))).names
    assert "&lt;script&gt;" in text and "&lt;b&gt;&amp;amp;" in text


def test_a_chart_is_well_formed_and_keeps_its_names_apart() -> None:
    lines = [Line(f"<{n}>", ((0.0, 5.0), (1.0, 4.0 + n / 100)), "all") for n in range(5)]
    tree = ElementTree.fromstring(chart(lines, along="round & more", up="loss"))
    names = [each for each in tree.iter("text") if (each.text or "").startswith("<")]
    places = sorted(float(each.attrib["y"]) for each in names)
    assert len(places) == 5
    assert all(b - a >= NAME_HEIGHT for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("points", [((0.0, 5.0),), ((0.0, 5.0), (1.0, 5.0)), ((3.0, 0.0),)])
def test_a_chart_of_one_value_divides_by_nothing(points: tuple[tuple[float, float], ...]) -> None:
    drawn = chart([Line("all", points, "all")], along="round", up="loss")
    assert not re.search("nan|inf", drawn) and ElementTree.fromstring(drawn) is not None


def test_no_point_is_no_chart() -> None:
    assert chart([Line("all", (), "all")], along="round", up="loss") == ""
