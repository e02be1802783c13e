"""A changed `config.toml` under a running daemon: real files, no daemon."""

from pathlib import Path

from dipaco.node.live_config import LiveConfig
from dipaco.node.settings import Sources


def live(home: Path, text: str, **flags: str) -> LiveConfig:
    (home / "config.toml").write_text(text)
    keyed = {name.replace("__", "."): value for name, value in flags.items()}
    return LiveConfig(Sources(home=home, flags=keyed))


def test_a_changed_value_holds_or_is_named_as_waiting_for_a_restart(tmp_path: Path) -> None:
    running = live(tmp_path, "[log]\nlevel = 'info'\n")
    assert not running.changed
    (tmp_path / "config.toml").write_text("[log]\nlevel = 'debug'\n[compute]\nmax_batch = 3\n")
    assert running.changed
    assert str(running.read_again()) == (
        'the configuration was read again: log.level = "debug"; needs a restart: compute.max_batch'
    )
    assert running.config.log.level == "debug" and running.config.compute.max_batch == 0
    assert running.settings.origin("log.level").endswith("config.toml, line 2")
    assert running.settings.origin("compute.max_batch") == "default"
    assert not running.changed


def test_caps_hold_at_once(tmp_path: Path) -> None:
    running = live(tmp_path, "[network]\nmax_up = '4 Mbit/s'\n")
    (tmp_path / "config.toml").write_text("[network]\nmax_up = '1 MB/s'\nlimit_lan = true\n")
    assert not running.read_again().waiting
    assert running.config.network.max_up == 1_000_000 and running.config.network.limit_lan


def test_a_faulty_file_keeps_the_old_values_and_says_so(tmp_path: Path) -> None:
    running = live(tmp_path, "[log]\nlevel = 'debug'\n")
    before = running.config
    for text in ("[log]\nlevel = 'loud'\n", "rubbish", "[log]\nlevle = 'info'\n"):
        (tmp_path / "config.toml").write_text(text)
        told = str(running.read_again())
        assert told.startswith("the changed configuration is not taken, the old one goes on: ")
        assert "config.toml, line " in told and "\n" not in told
        assert running.config == before and running.changed
    (tmp_path / "config.toml").write_text("[log]\nlevel = 'error'\n")
    assert running.read_again().taken == ('log.level = "error"',)


def test_a_file_that_cannot_be_read_any_more_keeps_the_old_values(tmp_path: Path) -> None:
    running = live(tmp_path, "[log]\nlevel = 'debug'\n")
    (tmp_path / "config.toml").unlink()
    (tmp_path / "config.toml").mkdir()
    assert running.changed and "Is a directory" in running.read_again().fault


def test_a_file_that_was_removed_brings_the_defaults_back(tmp_path: Path) -> None:
    running = live(tmp_path, "[log]\nlevel = 'debug'\n")
    (tmp_path / "config.toml").unlink()
    assert running.changed and running.read_again().taken == ('log.level = "info"',)


def test_a_flag_stays_above_the_file(tmp_path: Path) -> None:
    running = live(tmp_path, "[log]\nlevel = 'info'\n", log__level="warning")
    (tmp_path / "config.toml").write_text("[log]\nlevel = 'debug'\n# a comment\n")
    assert str(running.read_again()) == "the configuration was read again: no value changed"
    assert running.config.log.level == "warning"


def test_limits_and_caps_hold_at_once(tmp_path: Path) -> None:
    running = live(tmp_path, "[network]\nmax_up = '1 Mbit/s'\n")
    (tmp_path / "config.toml").write_text(
        "[network]\nmax_up = ''\n[when]\nhours = ['sat,sun', 'mon 1:00-2:00']\n"
    )
    assert running.read_again().taken == (
        'when.hours = ["sat,sun", "mon 1:00-2:00"]',
        'network.max_up = ""',
    )
    assert running.config.network.max_up == 0 and len(running.config.when.hours) == 2
