"""`dipaco-node service`: has the system run this node, from now on and after each start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dipaco.cli.options import Group, config_of, home_of, home_option, json_option, json_text
from dipaco.protocol.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dipaco.cli.service_units import Service

GPU_GROUPS = ("video", "render")
"""The groups whose members may use a GPU."""
SHOWN = ("UnitFileState", "ActiveState", "StatusText", "ExecMainStatus")

F = TypeVar("F", bound="Callable[..., Any]")


@click.group(cls=Group)
def service() -> None:
    """Run as a service: install, uninstall, status."""


def _scope(command: F) -> F:
    help_text = "For all users, at each start of the machine [--user: at each log-in]."
    return click.option("--system/--user", default=False, help=help_text)(command)


@service.command()
@_scope
@click.option("--print", "only_print", is_flag=True, help="Print the file, and do nothing.")
@home_option
def install(system: bool, only_print: bool, home: str | None) -> None:
    """Write the unit (systemd) or property list (launchd), and start the service."""
    made = _service(system, home)
    if only_print:
        click.echo(_text(made), nl=False)
        return
    _check_peers(made)
    file = _file(system)
    _write(file, _text(made))
    _begin(system, file)
    click.echo(f"{file}: runs now, and from now on")
    if not system and sys.platform != "darwin":
        click.echo("it ends when you log out, unless: loginctl enable-linger", err=True)


@service.command()
@_scope
def uninstall(system: bool) -> None:
    """Stop the service, and remove its file; the home stays."""
    file = _file(system)
    if not file.exists():
        raise ConfigError(f"no service is installed: there is no {file}")
    _end(system, file)
    file.unlink()
    if sys.platform != "darwin":
        _call(_systemctl(system, "daemon-reload"))
    click.echo(f"{file}: removed")


@service.command()
@_scope
@json_option
def status(system: bool, as_json: bool) -> int:
    """Print whether the service is installed and runs; ends with 0 if it runs, else with 9."""
    from dipaco.cli.answers import ServiceAnswer
    from dipaco.cli.exits import Exit

    file = _file(system)
    found = _shown(system) if file.exists() else {}
    answer = ServiceAnswer(
        file=str(file),
        installed=file.exists(),
        enabled=found.get("UnitFileState") == "enabled",
        active=found.get("ActiveState", "inactive"),
        status=found.get("StatusText", ""),
        last_exit=int(found.get("ExecMainStatus") or 0),
    )
    if as_json:
        click.echo(json_text(answer))
    else:
        click.echo(f"{file}: {'installed' if answer.installed else 'not installed'}")
        if answer.installed:
            click.echo(f"{answer.active}  {answer.status or f'last exit {answer.last_exit}'}")
    return Exit.OK if answer.active == "active" else Exit.NO_DAEMON


def _service(system: bool, home: str | None) -> "Service":
    from dipaco.cli.service_units import STATE_FOLDER, Service

    own = system and home is None and not os.environ.get("DIPACO_HOME")
    folder = STATE_FOLDER if own else home_of(home)
    return Service(
        command=_program(),
        home=folder,
        user="" if own or not system else _owner_of(folder),
        groups=_gpu_groups() if system else (),
        system=system,
    )


def _program() -> tuple[str, ...]:
    """Return this program as the system can start it."""
    script = Path(sys.executable).with_name("dipaco-node")
    return (str(script),) if script.exists() else (sys.executable, "-m", "dipaco.cli.entry")


def _owner_of(folder: Path) -> str:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    owner = there.owner()
    if owner == "root":
        raise ConfigError(
            f"--system: {there} is root's, and a node needs no such rights: leave --home out, or "
            "give the home to the user that is to run it"
        )
    return owner


def _gpu_groups() -> tuple[str, ...]:
    import grp

    known = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in GPU_GROUPS if name in known)


def _check_peers(made: "Service") -> None:
    config = config_of(str(made.home), {})
    if not config.seeds and not config.node.rendezvous:
        raise ConfigError(
            "no bootstrap peer: a service takes its settings from the file: dipaco-node config set "
            f"run.invitation CODE, or config set node.bootstrap ADDR, with --home {made.home}"
        )


def _text(made: "Service") -> str:
    from dipaco.cli.service_units import launchd_plist, systemd_unit

    return launchd_plist(made) if sys.platform == "darwin" else systemd_unit(made)


def _file(system: bool) -> Path:
    from dipaco.cli.service_units import LABEL, NAME

    if sys.platform == "darwin":
        root = Path("/Library/LaunchDaemons") if system else Path.home() / "Library/LaunchAgents"
        return root / f"{LABEL}.plist"
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    return (Path("/etc/systemd/system") if system else own) / f"{NAME}.service"


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file} ({error.strerror}): --system needs root") from None


def _begin(system: bool, file: Path) -> None:
    from dipaco.cli.service_units import NAME

    if sys.platform == "darwin":
        _call(["launchctl", "bootstrap", _domain(system), str(file)])
        return
    _call(_systemctl(system, "daemon-reload"))
    _call(_systemctl(system, "enable", "--now", NAME))


def _end(system: bool, file: Path) -> None:
    from dipaco.cli.service_units import NAME

    if sys.platform == "darwin":
        _call(["launchctl", "bootout", _domain(system), str(file)])
    else:
        _call(_systemctl(system, "disable", "--now", NAME))


def _domain(system: bool) -> str:
    return "system" if system else f"gui/{os.getuid()}"


def _shown(system: bool) -> dict[str, str]:
    """Return what the service manager tells of the service."""
    from dipaco.cli.service_units import LABEL, NAME

    if sys.platform == "darwin":
        there = subprocess.run(
            ["launchctl", "print", f"{_domain(system)}/{LABEL}"], capture_output=True, check=False
        )
        state = "active" if not there.returncode else "inactive"
        return {"UnitFileState": "enabled", "ActiveState": state}
    lines = _call(_systemctl(system, "show", NAME, *(f"--property={name}" for name in SHOWN)))
    return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)


def _systemctl(system: bool, *arguments: str) -> list[str]:
    return ["systemctl", *([] if system else ["--user"]), *arguments]


def _call(command: list[str]) -> str:
    """Return what a program prints; raises ConfigError if it is not there, Unavailable if it fails.

    The message has the program's own words.
    """
    if shutil.which(command[0]) is None:
        raise ConfigError(f"there is no {command[0]} here: start the node by hand, or --print")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise Unavailable(f"{' '.join(command)}: {words}")
    return done.stdout
