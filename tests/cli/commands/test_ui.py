"""ui as a person types it: a home whose API has a port, or none."""

import json
import stat
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import trio

from dipaco.cli.exits import Exit
from tests.cli.published import hold_to_schema
from tests.cli.shell import Shell
from tests.node.api.fake_node import FakeNode
from tests.node.api.served import serving
from tests.node.page.living import TOKEN, serving_page


def test_it_prints_the_address_with_the_token(shell: Shell, tmp_path: Path) -> None:
    with serving_page(tmp_path / "home", FakeNode()) as page:
        code, out, err = shell("ui", "--home", str(tmp_path / "home"))
    assert (code, err) == (Exit.OK, "") and out.strip() == page.url


def test_programs_get_the_same_as_json(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold_to_schema(monkeypatch)
    with serving_page(tmp_path / "home", FakeNode()) as page:
        _, out, _ = shell("ui", "--json", "--home", str(tmp_path / "home"))
    assert json.loads(out) == {"address": page.address, "url": page.url} and held == ["ui"]


def test_a_browser_is_led_there_by_a_file_that_nobody_else_can_read(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def noted(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", noted)
    with serving_page(tmp_path / "home", FakeNode()) as page:
        code, _, err = shell("ui", "--open", "--home", str(tmp_path / "home"))
    assert (code, err) == (Exit.OK, "") and TOKEN not in opened[0]
    file = Path(url2pathname(urlsplit(opened[0]).path))
    assert page.url in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_browser_it_says_so(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    with serving_page(tmp_path / "home", FakeNode()):
        _, _, err = shell("ui", "--open", "--home", str(tmp_path / "home"))
    assert "open the address by hand" in err


async def test_a_node_without_a_page_says_how_to_have_one(shell: Shell, tmp_path: Path) -> None:
    async with serving(tmp_path / "home") as served:
        code, _, err = await trio.to_thread.run_sync(shell, "ui", "--home", str(served.home.root))
    assert code == Exit.AWAY and "set ui.listen" in err
