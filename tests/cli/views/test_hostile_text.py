"""Text of strangers on its way to a terminal: whatever a manifest or a reason holds."""

import msgspec
import pytest
from msgspec.structs import force_setattr, replace

from dipaco.cli.views.manifest import manifest_text, runs_text
from dipaco.cli.views.status import status_text
from dipaco.node.runs.files import RunFile
from dipaco.protocol.run.source import SourceFile
from dipaco.protocol.wire.signed import sign
from tests.node.api.fake_node import status
from tests.values import digest, key, manifest

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",  # clears the screen, sets a title, rings
    "\u202egnp.exe",  # turns the rest of the line round
    "\x9b31m",  # C1: begins a sequence in one byte
    "a\nsigner   aaaa-aaaa-aaaa-aaaa",  # a line of its own
    "a\rb\u2028c\x85d",
]


@pytest.mark.parametrize("evil", HOSTILE)
def test_names_and_revisions_of_a_manifest_are_printed_escaped(evil: str) -> None:
    value = msgspec.json.decode(msgspec.json.encode(manifest()), type=type(manifest()))
    file = SourceFile(name="a.jsonl", size=1, rows=1, sha256=digest("file"))
    force_setattr(file, "name", evil)  # past the checks of the wire
    force_setattr(value.source, "files", (file,))
    force_setattr(value.source, "revision", evil)
    run = RunFile(sign(manifest(), key("owner")), value)
    lines_of_evil = len(manifest_text(run).split("\n"))
    for text in (manifest_text(run, 80), manifest_text(run), runs_text([run], 80)):
        assert all(line.isprintable() for line in text.split("\n"))
    force_setattr(file, "name", "a.jsonl")
    force_setattr(value.source, "revision", "main")
    plain = RunFile(run.signed, value)
    assert lines_of_evil == len(manifest_text(plain).split("\n"))


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_reason_with_a_peers_words_is_printed_escaped_on_its_line(evil: str) -> None:
    plain = status()
    shown = replace(plain, reasons=(replace(plain.reason, text=evil),))
    text = status_text(shown)
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) == len(status_text(plain).split("\n"))
