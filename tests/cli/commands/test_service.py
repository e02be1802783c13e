"""`service`: a systemctl of ours in the place of the system's, which notes what it is told."""

import json
import sys
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from tests.cli.shell import Shell
from tests.values import peer

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="launchd's verbs are others")


@pytest.fixture
def sh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    shell = Shell(tmp_path, capsys)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "h"))
    systemctl(shell, "")
    return shell


def systemctl(sh: Shell, says: str, code: int = 0) -> None:
    file = Path(
        sh.write(
            "bin/systemctl",
            f"#!/bin/sh\necho \"$@\" >>{sh.folder}/calls\nprintf '{says}'\n"
            f"[ {code} = 0 ] || echo 'it said no' >&2\nexit {code}\n",
        )
    )
    file.chmod(0o755)


def calls(sh: Shell) -> list[str]:
    return (sh.folder / "calls").read_text().splitlines()


def unit(sh: Shell) -> Path:
    return sh.folder / "config" / "systemd" / "user" / "dipaco-node.service"


def with_peer(sh: Shell) -> None:
    sh("config", "set", "node.bootstrap", f"/ip4/192.0.2.7/tcp/4410/p2p/{peer('seed')}")


def test_install_writes_the_unit_and_starts_it_and_uninstall_takes_it_back(sh: Shell) -> None:
    with_peer(sh)
    code, out, err = sh("service", "install")
    assert code == 0, err
    assert out == f"{unit(sh)}: runs now, and from now on\n" and "enable-linger" in err
    assert f'"start" "--home" "{sh.folder / "h"}"' in unit(sh).read_text()
    assert sh("service", "uninstall")[0] == 0 and not unit(sh).exists()
    assert calls(sh) == [
        "--user daemon-reload",
        "--user enable --now dipaco-node",
        "--user disable --now dipaco-node",
        "--user daemon-reload",
    ]


def test_print_writes_nothing(sh: Shell) -> None:
    code, out, _ = sh("service", "install", "--print")
    assert code == 0 and out.startswith("[Unit]\n") and "Type=notify" in out
    assert not unit(sh).exists() and not (sh.folder / "calls").exists()


def test_a_service_starts_with_the_configuration_file_that_is_named(sh: Shell) -> None:
    file = sh.write(
        "other.toml", f'node.bootstrap = ["/ip4/192.0.2.7/tcp/4410/p2p/{peer("seed")}"]'
    )
    made = json.loads(sh("service", "install", "--config", file, "--json")[1])
    assert made["installed"] and made["text"] == unit(sh).read_text()
    assert f'"--home" "{sh.folder / "h"}" "--config" "{file}"' in made["text"]
    shown = json.loads(sh("service", "install", "--print", "--json")[1])
    assert not shown["installed"] and "--config" not in shown["text"]
    gone = json.loads(sh("service", "uninstall", "--json")[1])
    assert gone == {"file": str(unit(sh)), "installed": False, "text": ""}


def test_a_node_without_a_peer_to_dial_is_no_service(sh: Shell) -> None:
    assert "config set node.bootstrap ADDR" in sh.fails(Exit.USAGE, "service", "install")
    assert not unit(sh).exists()


def test_what_systemctl_says_is_told(sh: Shell) -> None:
    with_peer(sh)
    systemctl(sh, "", 1)
    told = sh.fails(Exit.AWAY, "service", "install")
    assert "systemctl --user daemon-reload: it said no" in told


def test_a_machine_without_systemd_says_so(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with_peer(sh)
    monkeypatch.setenv("PATH", str(sh.folder))
    told = sh.fails(Exit.USAGE, "service", "install")
    assert "there is no systemctl here" in told


def test_nothing_is_uninstalled_twice(sh: Shell) -> None:
    assert "no service is installed" in sh.fails(Exit.USAGE, "service", "uninstall")


def test_status_tells_state_and_reason(sh: Shell) -> None:
    code, out, _ = sh("service", "status")
    assert (code, out) == (Exit.NO_DAEMON, f"{unit(sh)}: not installed\n")
    with_peer(sh)
    sh("service", "install")
    systemctl(
        sh,
        "UnitFileState=enabled\\nActiveState=active\\nStatusText=paused: by you\\n"
        "ExecMainStatus=0\\n",
    )
    code, out, _ = sh("service", "status")
    assert (code, out) == (0, f"{unit(sh)}: installed\nactive  paused: by you\n")
    told = json.loads(sh("service", "status", "--json")[1])
    assert told["enabled"] and told["status"] == "paused: by you" and told["last_exit"] == 0
    systemctl(sh, "ActiveState=failed\\nExecMainStatus=4\\n")
    code, out, _ = sh("service", "status")
    assert code == Exit.NO_DAEMON and out.endswith("failed  last exit 4\n")


def test_a_home_of_root_is_no_home_of_a_system_service(
    sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "owner", lambda self: "root")
    told = sh.fails(Exit.USAGE, "service", "install", "--system", "--print")
    assert "is root's" in told
    monkeypatch.setattr(Path, "owner", lambda self: "me")
    assert "\nUser=me\n" in sh("service", "install", "--system", "--print")[1]
    monkeypatch.delenv("DIPACO_HOME")
    assert "\nDynamicUser=yes\n" in sh("service", "install", "--system", "--print")[1]
