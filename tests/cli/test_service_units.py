"""The units, as systemd itself reads them where it is there."""

import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.service_units import STATE_FOLDER, Service, launchd_plist, systemd_unit

TRUE = "/bin/true"  # a program that is there, which systemd-analyze looks for


def user(home: Path = Path("/home/me/.local/share/dipaco-node")) -> Service:
    return Service(command=(TRUE,), home=home)


def system(*, owner: str = "", groups: tuple[str, ...] = ()) -> Service:
    return Service(command=(TRUE,), home=STATE_FOLDER, user=owner, groups=groups, system=True)


def values(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)


def test_a_service_is_started_again_unless_a_person_has_to_do_something_first() -> None:
    unit = values(systemd_unit(user()))
    assert unit["Type"] == "notify" and unit["Restart"] == "on-failure"
    assert unit["SuccessExitStatus"] == "10 75" and unit["RestartForceExitStatus"] == "75"
    assert unit["RestartPreventExitStatus"] == "2 4 5 8"
    assert int(unit["TimeoutStopSec"]) > 10  # the goodbye
    assert (unit["Nice"], unit["IOSchedulingClass"]) == ("10", "idle")


def test_a_users_unit_has_no_user_and_begins_at_log_in() -> None:
    unit = systemd_unit(user())
    assert "User=" not in unit and "WantedBy=default.target" in unit
    assert "NoNewPrivileges=yes" in unit and "ProtectSystem" not in unit


def test_a_systems_unit_has_a_user_of_its_own_or_the_homes_and_writes_its_home_alone() -> None:
    own = values(systemd_unit(system(groups=("video", "render"))))
    assert own["DynamicUser"] == "yes" and own["StateDirectory"] == "dipaco-node"
    assert own["SupplementaryGroups"] == "video render" and own["ProtectSystem"] == "strict"
    assert own["WantedBy"] == "multi-user.target"
    given = values(systemd_unit(system(owner="me")))
    assert given["User"] == "me" and "DynamicUser" not in given
    assert given["ReadWritePaths"] == '"/var/lib/dipaco-node"'


def test_a_strange_home_stays_one_argument() -> None:
    unit = values(systemd_unit(user(Path('/h/a "b" %i $x'))))
    assert unit["ExecStart"] == r'"/bin/true" "start" "--home" "/h/a \"b\" %%i $$x"'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize(
    "service",
    [user(), user(Path('/h/a "b" %i $x')), system(), system(owner="root", groups=("video",))],
    ids=["user", "strange", "own user", "a given user"],
)
def test_systemd_finds_no_fault(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "dipaco-node.service"
    file.write_text(systemd_unit(service))
    scope = "--system" if service.system else "--user"
    done = subprocess.run(
        ["systemd-analyze", "verify", scope, "--man=no", str(file)],
        capture_output=True,
        text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in done.stderr.splitlines() if "dipaco-node" in line]
    assert ours == [] and done.returncode == 0, done.stderr


def test_launchd_gets_the_same_terms() -> None:
    told = plistlib.loads(launchd_plist(user()).encode())
    assert told["ProgramArguments"][1:3] == ["start", "--home"]
    assert told["KeepAlive"] == {"SuccessfulExit": False} and told["ExitTimeOut"] > 10
    assert told["Nice"] == 10 and told["LowPriorityIO"] is True
    assert "UserName" not in told
    assert plistlib.loads(launchd_plist(system(owner="me")).encode())["UserName"] == "me"


def test_the_codes_of_the_unit_are_those_of_the_program() -> None:
    assert [Exit.UPDATE, Exit.RESTART] == [10, 75]
