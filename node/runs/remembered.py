"""The run that the node of a home worked for last: a line of text in the home."""

import logging
import re
from pathlib import Path

from dipaco.node.storage.files import DiskFull, read_file, write_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.digest import Digest

log = logging.getLogger(__name__)

FILE = "last-run"
MAX_BYTES = 256
ID = re.compile(rb"[0-9a-f]{64}\s*")


def last_run(home: Path) -> Digest | None:
    """Return the run that the node worked for last; None if that is not known."""
    path = home / FILE
    if not path.exists():
        return None
    try:
        text = read_file(path, limit=MAX_BYTES)
    except ConfigError as error:
        log.warning("%s", error)
        return None
    if not ID.fullmatch(text):
        log.warning("%s: not a run id, so it is ignored", path)
        return None
    return Digest(bytes.fromhex(text.decode()))


def remember_run(home: Path, run: Digest) -> None:
    """Note that the node works for `run`; where that cannot be written, nothing is lost but it."""
    if last_run(home) == run:
        return
    try:
        write_file(home / FILE, run.hex().encode() + b"\n")
    except (ConfigError, DiskFull) as error:
        log.warning("the run is not remembered for the next start: %s", error)
