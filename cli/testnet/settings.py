"""The settings of the nodes of a local network: some are testnet's, the rest the caller's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dipaco.node.config import VARIABLES
from dipaco.node.settings import load_config
from dipaco.protocol.errors import ConfigError

OWN_SECTIONS: Final = ("node", "compute", "metrics", "ui")
OWN_KEYS: Final = ("run.id", "run.invitation", "run.signers", "run.local_sources")


def node_settings(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the `DIPACO_` variables of every node.

    The network is on this machine's loopback, computes as `reference` does, and trains a run of the
    caller, which may name local files. All other settings come from `environ`.

    home   that of one node; its configuration is checked.

    Raises ConfigError for a variable that testnet sets itself, and for a bad one.
    """
    load_config(home=home, environ=environ, flags={})
    given = {name: environ[name] for name in VARIABLES if name in environ}
    for name in given:
        section, _, key = VARIABLES[name].partition(".")
        if section in OWN_SECTIONS or f"{section}.{key}" in OWN_KEYS:
            raise ConfigError(f"{name}: testnet sets {section}.{key} of its nodes itself; unset it")
    return given | {
        "DIPACO_COMPUTE_DEVICE": "cpu",
        "DIPACO_COMPUTE_THREADS": "1",  # with one, the bits equal those of the reference
        "DIPACO_COMPUTE_NICE": "0",  # all nodes share the machine: nothing else is to be spared
        "DIPACO_NODE_EXEMPT_PREFIXES": "127.0.0.0/8",  # all nodes are of one prefix
        "DIPACO_RUN_LOCAL_SOURCES": "true",
        "DIPACO_UI_LISTEN": "127.0.0.1:0",  # each has a port of its own: `ui --home`
    }
