"""Which settings the nodes of a local network get, and which are refused."""

from pathlib import Path

import pytest

from dipaco.cli.testnet.settings import node_settings
from dipaco.node.config import VARIABLES
from dipaco.protocol.errors import ConfigError

OWN = {
    "DIPACO_COMPUTE_DEVICE": "cpu",
    "DIPACO_COMPUTE_THREADS": "1",
    "DIPACO_COMPUTE_NICE": "0",
    "DIPACO_NODE_EXEMPT_PREFIXES": "127.0.0.0/8",
    "DIPACO_RUN_LOCAL_SOURCES": "true",
    "DIPACO_UI_LISTEN": "127.0.0.1:0",
}
PASSED = {
    "DIPACO_STORAGE_CACHE_MAX": "1 GB",
    "DIPACO_STORAGE_MIN_FREE": "1 MB",
    "DIPACO_STORAGE_MAX_SHARDS": "1",
    "DIPACO_LEASE_HEARTBEAT_S": "1",
    "DIPACO_LOG_LEVEL": "debug",
    "DIPACO_LOG_FORMAT": "json",
    "DIPACO_LOG_FILE": "node.log",
    "DIPACO_LOG_MAX_SIZE": "1 MB",
    "DIPACO_LOG_KEEP": "1",
    "DIPACO_WHEN_HOURS": "mon-fri 18:00-08:00; sat,sun",
    "DIPACO_WHEN_IDLE_ONLY": "true",
    "DIPACO_WHEN_IDLE_MINUTES": "5",
    "DIPACO_WHEN_ON_BATTERY": "true",
    "DIPACO_WHEN_EXCLUSIVE_APPS": "game",
    "DIPACO_NETWORK_MAX_UP": "4 Mbit/s",
    "DIPACO_NETWORK_MAX_DOWN": "",
    "DIPACO_NETWORK_LIMIT_LAN": "true",
    "DIPACO_NETWORK_DAILY_QUOTA": "5 GB",
    "DIPACO_NETWORK_METERED": "ignore",
    "DIPACO_RUN_VERIFY": "warn",
    "DIPACO_RUN_WHOLE_FILES": "true",
}
REFUSED = {
    "DIPACO_METRICS_LISTEN": "127.0.0.1:1",
    "DIPACO_NODE_NAME": "desk",
    "DIPACO_NODE_LISTEN": "/ip4/127.0.0.1/tcp/1",
    "DIPACO_NODE_ANNOUNCE": "/ip4/127.0.0.1/tcp/1",
    "DIPACO_NODE_BOOTSTRAP": "",
    "DIPACO_NODE_RENDEZVOUS": "true",
    "DIPACO_NODE_KEEP": "true",
    "DIPACO_NODE_KEEPER": "true",
    "DIPACO_NODE_TRAIN": "true",
    "DIPACO_NODE_LOW_CONNS": "8",
    "DIPACO_NODE_HIGH_CONNS": "40",
    "DIPACO_NODE_EXEMPT_PREFIXES": "",
    "DIPACO_RUN_ID": "demo",
    "DIPACO_RUN_INVITATION": "",
    "DIPACO_RUN_SIGNERS": "",
    "DIPACO_RUN_LOCAL_SOURCES": "false",
    "DIPACO_COMPUTE_DEVICE": "cuda",
    "DIPACO_COMPUTE_MAX_BATCH": "2",
    "DIPACO_COMPUTE_CHECKPOINTING": "on",
    "DIPACO_COMPUTE_COMPILE": "true",
    "DIPACO_COMPUTE_MOMENT_BITS": "8",
    "DIPACO_COMPUTE_THREADS": "4",
    "DIPACO_COMPUTE_NICE": "5",
    "DIPACO_COMPUTE_MAX_RAM": "50%",
    "DIPACO_COMPUTE_DUTY": "50",
    "DIPACO_COMPUTE_MAX_TEMP_C": "70",
    "DIPACO_UI_LISTEN": "127.0.0.1:1",
    "DIPACO_UI_TOKEN": "",
}


def test_every_setting_is_held_here() -> None:
    assert sorted([*PASSED, *REFUSED]) == sorted(VARIABLES)


def test_settings_reach_the_nodes_and_other_variables_do_not(tmp_path: Path) -> None:
    assert node_settings({}, tmp_path) == OWN
    environ = PASSED | {"HOME": "/h", "DIPACO_HOME": "/mine"}
    assert node_settings(environ, tmp_path) == PASSED | OWN


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_testnet_makes_itself_is_refused_by_name(name: str, tmp_path: Path) -> None:
    key = VARIABLES[name]
    with pytest.raises(ConfigError, match=f"{name}: testnet sets {key} of its nodes itself; unset"):
        node_settings({name: REFUSED[name]}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DIPACO_STORAGE_MAX_SHARD", "1", "unknown environment variable DIPACO_STORAGE_MAX_SHARD"),
        ("DIPACO_STORAGE_CACHE_MAX", "1", "storage.cache_max"),
    ],
)
def test_a_bad_setting_is_refused_before_a_node_starts(
    name: str, value: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        node_settings({name: value}, tmp_path)
