"""The files that make a node a service: a systemd unit and a launchd property list. Pure texts."""

import plistlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from dipaco.cli.exits import Exit

NAME: Final = "dipaco-node"
LABEL: Final = "net.dipaco.node"
STATE_FOLDER: Final = Path("/var/lib") / NAME
"""The home of a system service that is given no other."""
STOP_SECONDS = 30  # a goodbye takes 10 at most
RESTART_SECONDS = 30  # after a crash, so that a broken node does not burn the machine
NEVER_AGAIN: Final = (Exit.USAGE, Exit.REFUSED, Exit.UNVERIFIABLE, Exit.HOME_TAKEN)
"""A new start would end the same way: a person has to do something first."""
FINE: Final = (Exit.UPDATE, Exit.RESTART)
"""Ends as asked, beside 0."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A node to run as a service."""

    command: tuple[str, ...]
    """The program and its arguments before `start`."""
    home: Path
    config: Path | None = None
    """The configuration file; None: the home's."""
    user: str = ""
    """Of a system service: whose it is; empty: a user that the system makes for it."""
    groups: tuple[str, ...] = ()
    """Of a system service: groups that may use the GPU."""
    system: bool = False

    @property
    def start(self) -> list[str]:
        """The whole command line."""
        config = [] if self.config is None else ["--config", str(self.config)]
        return [*self.command, "start", "--home", str(self.home), *config]


def systemd_unit(service: Service) -> str:
    """Return the unit file of a service."""
    return "\n".join(
        [
            "[Unit]",
            "Description=DiPaCo volunteer node",
            "Wants=network-online.target",
            "After=network-online.target",
            "StartLimitIntervalSec=0",  # it may always try again, RESTART_SECONDS apart
            "",
            "[Service]",
            "Type=notify",
            f"ExecStart={_quoted(service.start)}",
            "ExecReload=/bin/kill -HUP $MAINPID",
            f"SuccessExitStatus={_codes(FINE)}",
            "Restart=on-failure",
            f"RestartSec={RESTART_SECONDS}",
            f"RestartForceExitStatus={_codes((Exit.RESTART,))}",
            f"RestartPreventExitStatus={_codes(NEVER_AGAIN)}",
            f"TimeoutStopSec={STOP_SECONDS}",
            "KillMode=mixed",  # the node ends its worker processes itself
            "Nice=10",
            "IOSchedulingClass=idle",
            "LimitNOFILE=4096",
            "UMask=0077",
            *(_owner(service) if service.system else ()),
            *_hardening(service),
            "",
            "[Install]",
            f"WantedBy={'multi-user' if service.system else 'default'}.target",
            "",
        ]
    )


def _owner(service: Service) -> list[str]:
    groups = [f"SupplementaryGroups={' '.join(service.groups)}"] if service.groups else []
    if service.user:
        return [f"User={service.user}", *groups]
    return ["DynamicUser=yes", f"StateDirectory={service.home.name}", *groups]


def _hardening(service: Service) -> list[str]:
    """Return what a node does without; a user's manager can refuse no more than these five."""
    always = [
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
    ]
    if not service.system:
        return always
    return [
        *always,
        "ProtectSystem=strict",
        *([f"ReadWritePaths={_quoted([str(service.home)])}"] if service.user else []),
        "ProtectHome=read-only" if service.user else "ProtectHome=yes",
        "PrivateTmp=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "RestrictNamespaces=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "CapabilityBoundingSet=",
    ]


def _codes(codes: Sequence[Exit]) -> str:
    return " ".join(str(code.value) for code in codes)


def _quoted(words: Sequence[str]) -> str:
    """Return words as systemd reads them: `%` and `$` stand for themselves."""
    plain = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return " ".join(f'"{word}"'.replace("%", "%%").replace("$", "$$") for word in plain)


def launchd_plist(service: Service) -> str:
    """Return the property list of a service."""
    values = {
        "Label": LABEL,
        "ProgramArguments": service.start,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": STOP_SECONDS,
        "Nice": 10,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Umask": 0o077,
        "StandardErrorPath": str(service.home / "daemon.log"),
    }
    if service.system and service.user:
        values["UserName"] = service.user
    return plistlib.dumps(values).decode()
