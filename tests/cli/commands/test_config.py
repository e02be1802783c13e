"""`config`: real files, no daemon; whatever is refused leaves the file as it was."""

import json
import sys
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.node.api.values import ConfigView, SettingView
from tests.cli.shell import Shell

TEXT = """# my node
[network]   # the line at home
max_up = "2 Mbit/s"    # half of it
max_down = ""

[when]
hours = [
  "mon-fri 18:00-08:00",   # nights
]
"""


@pytest.fixture
def sh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "h").mkdir()
    return Shell(tmp_path, capsys)


def config(sh: Shell, *arguments: str) -> tuple[int, str, str]:
    return sh("config", *arguments, "--home", str(sh.folder / "h"))


def refused(sh: Shell, *arguments: str) -> str:
    return sh.fails(Exit.USAGE, "config", *arguments, "--home", str(sh.folder / "h"))


def test_show_names_the_origin_of_every_value(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sh.write("h/config.toml", TEXT)
    monkeypatch.setenv("DIPACO_NETWORK_METERED", "ignore")
    code, out, _ = config(sh, "show", "--json")
    told = json.loads(out)
    found = {each["key"]: (each["value"], each["origin"]) for each in told["settings"]}
    assert code == 0 and told["file"] == file
    assert found["network.max_up"] == ("2 Mbit/s", f"{file}, line 3")
    assert found["when.hours"] == (["mon-fri 18:00-08:00"], f"{file}, line 7")
    assert found["network.metered"] == ("ignore", "$DIPACO_NETWORK_METERED")
    assert found["compute.max_ram"] == ("75%", "default")
    assert found["storage.min_free"] == ("500 MB", "default")
    _, text, _ = config(sh, "show")
    assert f'[network]\nmax_up = "2 Mbit/s"                       {file}, line 3' in text


def test_show_tells_where_the_daemon_runs_with_another_value(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's own answer: tests/node/api/test_api.py."""
    sh.write("h/config.toml", TEXT)
    views = tuple(
        SettingView(key=key, value=value, origin="default")
        for key, value in (("network.max_up", "3 Mbit/s"), ("network.max_down", ""))
    )
    monkeypatch.setattr(
        "dipaco.node.api.client.ask_config", lambda home: ConfigView(settings=views)
    )
    lines = config(sh, "show")[1].splitlines()
    assert sum(line.endswith('; the daemon runs with "3 Mbit/s"') for line in lines) == 1
    assert sum("the daemon runs with" in line for line in lines) == 1
    told = json.loads(config(sh, "show", "--json")[1])["settings"]
    running = {each["key"]: each["running"] for each in told}
    assert (running["network.max_up"], running["network.max_down"]) == ("3 Mbit/s", "")
    assert running["log.level"] is None


def test_show_keeps_the_token_to_itself(sh: Shell) -> None:
    sh.write("h/config.toml", "[ui]\ntoken = '0123456789abcdef'")
    assert "0123456789abcdef" not in config(sh, "show")[1]
    assert config(sh, "get", "ui.token")[1] == "0123456789abcdef\n"


def test_set_changes_one_value_and_keeps_comments_and_order(sh: Shell) -> None:
    file = Path(sh.write("h/config.toml", TEXT))
    assert config(sh, "set", "network.max_up", "4 Mbit/s")[0] == 0
    assert file.read_text() == TEXT.replace("2 Mbit/s", "4 Mbit/s")
    assert config(sh, "set", "when.hours", "sat,sun", "fri 20:00-24:00")[0] == 0
    assert config(sh, "set", "compute.duty", "50")[0] == 0
    assert config(sh, "set", "when.idle_only", "true")[0] == 0
    text = file.read_text()
    assert "# my node\n[network]   # the line at home\n" in text
    assert 'hours = ["sat,sun", "fri 20:00-24:00"]' in text
    assert "[compute]\nduty = 50\n" in text and "idle_only = true\n" in text
    assert config(sh, "get", "when.hours")[1] == "sat,sun\nfri 20:00-24:00\n"
    assert config(sh, "check")[0] == 0


def test_set_tells_programs_the_value_and_where_it_comes_from(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sh.write("h/config.toml", TEXT)
    told = json.loads(config(sh, "set", "network.max_up", "4 Mbit/s", "--json")[1])
    assert (told["value"], told["origin"]) == ("4 Mbit/s", f"{file}, line 3")
    monkeypatch.setenv("DIPACO_NETWORK_MAX_UP", "1 Mbit/s")
    told = json.loads(config(sh, "set", "network.max_up", "3 Mbit/s", "--json")[1])
    assert (told["value"], told["origin"]) == ("1 Mbit/s", "$DIPACO_NETWORK_MAX_UP")


def test_a_file_that_is_named_is_read_and_changed_in_place_of_the_homes(sh: Shell) -> None:
    own, other = sh.write("h/config.toml", TEXT), sh.write("other.toml", "[log]\nkeep = 3\n")
    named = ("--config", other)
    assert config(sh, "get", "log.keep", *named)[1] == "3\n"
    assert config(sh, "get", "network.max_up", *named)[1] == "\n"
    assert config(sh, "set", "log.keep", "7", *named)[0] == 0
    assert config(sh, "path", *named)[1] == f"{other}\n"
    assert Path(other).read_text() == "[log]\nkeep = 7\n" and Path(own).read_text() == TEXT
    assert config(sh, "get", "log.keep")[1] == "5\n"
    told = refused(sh, "show", "--config", str(sh.folder / "none.toml"))
    assert "'--config'" in told and "none.toml' does not exist" in told


def test_set_makes_the_file_for_its_owner_alone_and_keeps_the_mode_of_one_that_exists(
    sh: Shell,
) -> None:
    file = sh.folder / "h" / "config.toml"
    assert config(sh, "set", "run.id", "aa,bb")[0] == 0
    assert file.read_text() == '[run]\nid = ["aa", "bb"]\n'
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    assert config(sh, "set", "log.level", "debug")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("network.max_up", "4 mb/s"), "did you mean Mbit/s or MB/s?"),
        (("network.max_up", "4"), "the unit is missing"),
        (("network.max_up", "4", "Mbit/s"), "takes one value: put it into quotes"),
        (("compute.duty", "0"), "compute.duty = '0' (the command line): not"),
        (("compute.duty", "half"), "compute.duty = 'half' (the command line): not"),
        (("when.hours", "mon 8:00-8:00"), "never opens"),
        (("storage.min_free", "999999 TB"), "so no work would ever run"),
        (("max_up", "4 Mbit/s"), "unknown key max_up; did you mean network.max_up?"),
        (("network.maxup", "4 Mbit/s"), "unknown key network.maxup; did you mean network.max_up?"),
    ],
)
def test_a_wrong_value_is_refused_and_the_file_untouched(
    sh: Shell, arguments: tuple[str, ...], words: str
) -> None:
    file = Path(sh.write("h/config.toml", TEXT))
    assert words in refused(sh, "set", *arguments)
    assert file.read_text() == TEXT


def test_a_file_with_another_fault_is_not_changed_either(sh: Shell) -> None:
    file = Path(sh.write("h/config.toml", "[log]\nlevel = 'loud'\n"))
    assert "config.toml, line 2" in refused(sh, "set", "log.format", "json")
    assert file.read_text() == "[log]\nlevel = 'loud'\n"


def test_set_says_when_the_environment_comes_first(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPACO_LOG_LEVEL", "debug")
    code, _, err = config(sh, "set", "log.level", "error")
    assert (code, err) == (0, "log.level stays as $DIPACO_LOG_LEVEL has it, which comes first\n")


def test_check_tells_every_fault_with_file_and_line(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sh.write("h/config.toml", "[network]\nmax_up = 4\nmaxdown = ''\n\n[log]\nlevel = 'x'\n")
    monkeypatch.setenv("DIPACO_LOG_LEVL", "debug")
    code, out, _ = config(sh, "check")
    lines = out.splitlines()
    assert code == Exit.USAGE and len(lines) == 4
    assert lines[0].startswith(f"network.max_up = 4 ({file}, line 2): the unit is missing")
    assert lines[1].startswith(f"{file}, line 3: unknown key network.maxdown; did you mean")
    assert lines[2].startswith(f"log.level = 'x' ({file}, line 6): ")
    assert lines[3].startswith("unknown environment variable DIPACO_LOG_LEVL; did you mean")
    told = json.loads(config(sh, "check", "--json")[1])
    assert told == {"file": file, "faults": lines}


def test_check_refuses_what_cannot_hold_together(sh: Shell) -> None:
    sh.write("h/config.toml", "[storage]\nmin_free = '900000 TB'\n")
    code, out, _ = config(sh, "check")
    assert code == Exit.USAGE and "storage.min_free = '900000 TB': the disk of" in out
    assert "so no work would ever run" in sh.fails(
        Exit.USAGE, "start", "--rendezvous", "--home", str(sh.folder / "h")
    )


@pytest.mark.parametrize("name", ["dipaco-node", Path(sys.executable).name])
def test_check_refuses_a_node_that_would_wait_for_its_own_end(sh: Shell, name: str) -> None:
    sh.write("h/config.toml", f"[when]\nexclusive_apps = ['game.exe', '{name}']\n")
    code, out, _ = config(sh, "check")
    assert code == Exit.USAGE
    assert out.startswith(f"when.exclusive_apps: {name!r} is the name of this node's own")


def test_path_names_the_file_also_where_there_is_none(sh: Shell) -> None:
    assert config(sh, "path")[1] == f"{sh.folder / 'h' / 'config.toml'}\n"


def editor(sh: Shell, text: str) -> str:
    source = sh.write("text", text)
    return sh.write("editor", f'#!/bin/sh\ncp {source} "$1"\n')


def test_edit_takes_a_right_text_and_keeps_a_faulty_one_aside(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(sh.write("h/config.toml", TEXT))
    draft = sh.folder / "h" / "config.draft.toml"
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"sh {editor(sh, '[log]')}")
    assert config(sh, "edit")[0] == 0
    assert file.read_text() == "[log]" and not draft.exists()
    editor(sh, "[log]\nlevel = 'x'")
    assert f"{file} is unchanged, {draft} has your text" in refused(sh, "edit")
    assert file.read_text() == "[log]" and draft.read_text() == "[log]\nlevel = 'x'"


def test_edit_without_an_editor_says_so(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor")
    assert "cannot run no-such-editor" in refused(sh, "edit")
    monkeypatch.setenv("VISUAL", "false")
    assert "false ended with 1; nothing is changed" in refused(sh, "edit")
