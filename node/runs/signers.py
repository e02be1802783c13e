"""The signer of each run's name that this node worked for first: `signers.toml` in the home.

A name is anybody's, and the next run of it may be another person's. So the first signer is pinned,
and another one needs a person's word: `--signer`, the whole id in `--run`, or a pin removed here.
The file is a table of TOML, a line for each name, which a person may edit:

    [signers]
    "the-run" = "12D3KooW..."
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dipaco.node.storage.files import PRIVATE, DiskFull, write_file
from dipaco.node.storage.toml import read_toml
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Name
from dipaco.protocol.wire.identity import PeerId, PeerIdField

log = logging.getLogger(__name__)

FILE = "signers.toml"
MAX_PINS = 1024  # names, the latest; a node works for one run after the other


def pinned_signers(home: Path) -> dict[str, PeerId]:
    """Return the pinned signer of each name; raises ConfigError for a file that is not ours."""
    path = home / FILE
    if not path.exists():
        return {}
    try:
        table = read_toml(path).get("signers", {})
        return msgspec.convert(table, dict[Name, PeerIdField])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}: correct that line, or remove it") from error


def pin_signer(home: Path, name: str, signer: PeerId) -> None:
    """Pin the signer of a name, in place of an earlier one; a failure is told and costs the pin."""
    try:
        pins = pinned_signers(home)
        if pins.get(name) == signer:
            return
        pins.pop(name, None)
        pins[name] = signer
        write_file(home / FILE, _text(pins).encode(), mode=PRIVATE)
    except (ConfigError, DiskFull) as error:
        log.warning("the signer of run %s is not pinned: %s", name, error)


def _text(pins: Mapping[str, PeerId]) -> str:
    lines = [f'"{name}" = "{signer}"' for name, signer in list(pins.items())[-MAX_PINS:]]
    head = "# The first signer of every run that this node worked for. Remove a line to trust"
    return "\n".join([head, "# another one.", "[signers]", *lines, ""])
