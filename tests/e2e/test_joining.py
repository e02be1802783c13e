"""Rules of this file: a founder, a volunteer and an onlooker as real processes, each in a home."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from tests.cli.tiny import TINY
from tests.e2e.test_daemon import lines_to
from tests.e2e.tiny import LOOPBACK, TIMEOUT, dipaco_node

pytestmark = pytest.mark.slow


def said(*arguments: str) -> str:
    """Return what a command prints that ends well."""
    done = dipaco_node(*arguments)
    assert done.returncode == Exit.OK, done.stderr
    return done.stdout


def test_a_run_is_founded_joined_by_its_code_followed_and_reported(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    file, founder, volunteer = (str(tmp_path / name) for name in ("tiny.run", "f", "v"))
    made = dipaco_node("run", "create", f"{tmp_path}/tiny.toml", "--out", file, "--home", founder)
    assert f"next: dipaco-node start --rendezvous --run {file}" in made.stderr
    command = (sys.executable, "-m", "dipaco.cli.entry", "start", "--rendezvous", "--run", file)
    quiet = ("--ui-listen", "", "--home")
    with subprocess.Popen(
        [*command, *LOOPBACK, *quiet, founder], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines_to(process, "ready")
            invited = json.loads(said("invite", "--home", founder, "--json"))
            assert len(invited["line"]) <= 80 and invited["name"] == "tiny"
            joined = dipaco_node("join", invited["code"], *LOOPBACK, *quiet, volunteer)
            assert joined.returncode == Exit.OK and "run-over" in joined.stderr, joined.stderr
            again = dipaco_node("join", invited["code"], *LOOPBACK, *quiet, f"{tmp_path}/late")
            assert again.returncode == Exit.OK and "run-over" in again.stderr
            seen = said("run", "follow", invited["code"], "--home", f"{tmp_path}/none", "--json")
            assert json.loads(seen.splitlines()[-1])["over"] is True
            assert not (tmp_path / "none").exists()
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT)
    boards = [
        json.loads(said("credits", "--home", home, "--json")) for home in (founder, volunteer)
    ]
    assert boards[0] == boards[1] and boards[0]["rows"][0]["rounds"] == 2
    page = tmp_path / "tiny.html"
    said("report", "tiny", "--home", volunteer, "--out", str(page))
    assert boards[0]["head"] in page.read_text()
