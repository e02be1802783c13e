"""Rules of this file: real files, a made-up environment; no daemon."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from dipaco.node.config import KEYS, VARIABLES, NodeConfig
from dipaco.node.home_folder import home_folder
from dipaco.node.settings import load_config
from dipaco.protocol.errors import ConfigError
from tests.protocol.run.test_invitation import PLAIN

PEER = "12D3KooW" + "A" * 44


def load(
    home: Path,
    text: str = "",
    *,
    environ: dict[str, str] | None = None,
    defaults: dict[str, Any] | None = None,
    **flags: Any,
) -> NodeConfig:
    if text:
        (home / "config.toml").write_text(text)
    keyed = {name.replace("__", "."): value for name, value in flags.items()}
    return load_config(home=home, environ=environ or {}, flags=keyed, defaults=defaults)


def test_without_anything_every_value_is_its_default(tmp_path: Path) -> None:
    assert load(tmp_path) == NodeConfig(home=tmp_path)


def test_the_documented_file_holds_every_key_with_its_default(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    assert load(tmp_path, text) == NodeConfig(home=tmp_path)
    tables = tomllib.loads(text)
    assert {f"{section}.{key}" for section, table in tables.items() for key in table} == KEYS.keys()


def test_a_flag_beats_the_environment_and_that_the_file_and_that_the_default(
    tmp_path: Path,
) -> None:
    text, environ = "[storage]\nmax_shards = 2", {"DIPACO_STORAGE_MAX_SHARDS": "3"}
    packaged = {"storage.max_shards": 1}
    assert load(tmp_path, defaults=packaged).storage.max_shards == 1
    assert load(tmp_path, text, defaults=packaged).storage.max_shards == 2
    assert load(tmp_path, text, environ=environ).storage.max_shards == 3
    assert load(tmp_path, text, environ=environ, storage__max_shards=5).storage.max_shards == 5


def test_a_flag_that_was_not_given_hides_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "[run]\nid = 'demo'", run__id=None).run.id == ("demo",)


def test_several_runs_may_be_listed_in_the_file_and_on_the_command_line(tmp_path: Path) -> None:
    assert load(tmp_path, "[run]\nid = ['aa', 'bb']").run.id == ("aa", "bb")
    assert load(tmp_path, "[run]\nid = 'aa, bb'").run.id == ("aa", "bb")
    assert load(tmp_path, "", run__id="bb,aa").run.id == ("bb", "aa")
    assert load(tmp_path, "[run]\nid = ''").run.id == ()
    with pytest.raises(ConfigError, match=r"run\.id.*a run's id or name"):
        load(tmp_path, "[run]\nid = ['aa', 'b b']")


def test_every_key_can_be_set_from_the_environment(tmp_path: Path) -> None:
    samples = {
        "node.name": "attic",
        "node.listen": "/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/4410",
        "node.announce": "/dns4/example.org/tcp/4410",
        "node.bootstrap": f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}",
        "node.rendezvous": "true",
        "node.keeper": "true",
        "node.keep": "true",
        "node.train": "true",
        "node.low_conns": "8",
        "node.high_conns": "40",
        "node.exempt_prefixes": "127.0.0.0/8, ::1/128",
        "run.id": "demo",
        "run.signers": f"{PEER}, {PEER}",
        "run.verify": "receipts:3",
        "run.local_sources": "true",
        "run.whole_files": "true",
        "compute.device": "cuda:1",
        "compute.max_batch": "4",
        "compute.checkpointing": "on",
        "compute.compile": "true",
        "compute.moment_bits": "8",
        "compute.threads": "2",
        "compute.nice": "5",
        "compute.max_ram": "6 GB",
        "compute.duty": "50",
        "compute.max_temp_c": "70",
        "when.hours": "mon-fri 18:00-08:00; sat,sun",
        "when.idle_only": "true",
        "when.idle_minutes": "10",
        "when.on_battery": "true",
        "when.exclusive_apps": "steam, game.exe",
        "network.max_up": "4 Mbit/s",
        "network.max_down": "500kB/s",
        "network.limit_lan": "true",
        "network.daily_quota": "5 GB",
        "network.metered": "ignore",
        "storage.cache_max": "1.5 GiB",
        "storage.min_free": "2 GB",
        "storage.max_shards": "9",
        "lease.heartbeat_s": "0.5",
        "log.level": "debug",
        "log.format": "json",
        "log.file": "node.log",
        "log.max_size": "1 MB",
        "log.keep": "2",
        "ui.listen": "",
        "run.invitation": PLAIN.code,
        "ui.token": "0123456789abcdef",
        "metrics.listen": "127.0.0.1:7398",
    }
    assert samples.keys() == KEYS.keys()
    environ = {name: samples[key] for name, key in VARIABLES.items()}
    config, default = load(tmp_path, environ=environ), NodeConfig(home=tmp_path)
    for key in KEYS:
        section, name = key.split(".")
        assert getattr(getattr(config, section), name) != getattr(getattr(default, section), name)
    assert list(map(str, config.node.listen)) == ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/4410"]
    assert config.storage.cache_max == 3 << 29


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[storage]\nmax_shard = 2", "unknown key storage.max_shard; did you mean storage.max_sha"),
        ("[stroage]\nmax_shards = 2", "stroage.max_shards; did you mean storage.max_shards"),
        ("max_shards = 2", "max_shards is outside any [section]"),
        ("[node]\nexempt_prefixes = ['10.0.0.1/8']", "'10.0.0.1/8' is no IP network such as"),
        ("[storage]\nmax_shards = 0", "storage.max_shards = 0"),
        ("[storage]\nmax_shards = '2'", "storage.max_shards = '2'"),
        ("[storage]\ncache_max = 5", "the unit is missing"),
        ("[storage]\ncache_max = '4 gb'", "did you mean GB?"),
        ("[storage]\ncache_max = 'much'", "not a size"),
        (
            "[node]\nlisten = ['0.0.0.0:4410']",
            "'0.0.0.0:4410': is no multiaddr: write /ip4/0.0.0.0/tcp/4410",
        ),
        ("[node]\nlisten = ['/dns4/me.example/tcp/1']", "such as /ip4/0.0.0.0/tcp/4410"),
        ("[node]\nlisten = ['/ip4/0.0.0.0/tcp/70000']", "port 70000 is not in 0 to 65535"),
        ("[node]\nlisten = '/ip4/0.0.0.0/tcp/1'", "not a list"),
        ("[node]\nannounce = ['/ip4/0.0.0.0/tcp/1']", "0.0.0.0 is a wildcard"),
        ("[node]\nannounce = ['/ip4/1.2.3.4/tcp/0']", "port 0 stands for any free port"),
        (
            "[node]\nbootstrap = ['/ip4/1.2.3.4/tcp/1']",
            "names no peer: /p2p/12D3KooW... is missing",
        ),
        ("[node]\nbootstrap = ['/ip4/1.2.3.4/tcp/1/p2p/12D3KooW']", "'12D3KooW' is no PeerID"),
        ("[compute]\ndevice = 'gpu'", "not one of auto, cpu, cuda, cuda:N, mps"),
        ("[run]\nverify = 'never'", "run.verify = 'never'"),
        ("[when]\nhours = ['mon 8:00-8:00']", "'mon 8:00-8:00' never opens: it ends when it beg"),
        ("[when]\nhours = ['mo-fr 8:00-9:00']", "'mo-fr' is no day or range of days such as mon"),
        ("[when]\nhours = 'sat'", "when.hours = 'sat'"),
        ("[when]\nexclusive_apps = ['/usr/bin/x']", "not the name of a program without its folder"),
        ("[network]\nmax_up = '4 mb/s'", "'mb/s' is no unit; did you mean Mbit/s or MB/s?"),
        ("[network]\nmax_up = 4", "network.max_up = 4 ("),
        ("[network]\nmax_up = '1 kbit/s'", "less than 256 kbit/s"),
        ("[network]\ndaily_quota = '0 GB'", 'is nothing at all; write "" for no bound'),
        ("[compute]\nmax_ram = '101%'", "not a share from 1% to 100%"),
        ("[compute]\nduty = 0", "compute.duty = 0"),
        ("[ui]\nlisten = '0.0.0.0:7397'", "not a loopback address such as 127.0.0.1:7397, or em"),
        ("[ui]\nlisten = '127.0.0.1:70000'", "port 70000 is not in 0 to 65535"),
        ("[metrics]\nlisten = '0.0.0.0:7398'", "not a loopback address such as 127.0.0.1:7397"),
        ("[ui]\ntoken = 'short'", "not 16 to 128 letters, digits, '_' and '-', or empty"),
        ("[node\n", "config.toml, line 1: "),
    ],
)
def test_a_faulty_file_is_refused_by_the_name_of_its_key(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_faulty_address_is_told_with_key_value_and_origin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, node__announce=("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/"))
    assert str(caught.value) == (
        "node.announce (the command line): '/ip4/1.2.3.4/tcp/1/': ends in a slash: leave it out"
    )


def test_an_unknown_variable_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean DIPACO_STORAGE_MAX_SHARDS\?"):
        load(tmp_path, environ={"DIPACO_STORAGE_SHARDS": "3"})


def test_other_peoples_variables_are_none_of_our_business(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"PATH": "/bin", "DIPACO_HOME": "/x"}) == load(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*config\.toml: Is a directory"):
        load(tmp_path)


def test_the_home_is_the_flag_else_the_variable_else_the_users_data_folder() -> None:
    environ = {"DIPACO_HOME": "/from/environment"}
    assert home_folder("/from/flag", environ) == Path("/from/flag")
    assert home_folder(None, environ) == Path("/from/environment")
    assert home_folder(None, {}).name == "dipaco-node"
    assert home_folder("here", {}) == Path.cwd() / "here"
