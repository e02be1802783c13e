"""The command line, frozen: a new command or option needs an owner, and a line here."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import COMMANDS, dipaco

SURFACE = {
    "start": "--announce --bootstrap --cache-max --checkpointing --compile --config --daily-quota "
    "--device "
    "--dry-run --duty --exclusive-apps --exempt-prefixes --heartbeat-s --high-conns --home --hours "
    "--idle-minutes --idle-only --keep --keeper --limit-lan --listen --local-sources --log-file "
    "--log-format --log-keep --log-level --log-max-size --low-conns --max-batch --max-down "
    "--max-ram "
    "--max-shards --max-temp-c --max-up --metered --metrics-listen --min-free --moment-bits --name "
    "--nice --on-battery --paused --rendezvous --run --signer --tasks --threads --train --tui "
    "--ui-listen "
    "--until --verify --whole-files",
    "join": "CODE --announce --cache-max --checkpointing --compile --config --daily-quota --device "
    "--dry-run "
    "--duty --exclusive-apps --exempt-prefixes --force --heartbeat-s --high-conns --home --hours "
    "--idle-minutes --idle-only --limit-lan --listen --local-sources --log-file --log-format "
    "--log-keep --log-level --log-max-size --low-conns --max-batch --max-down --max-ram "
    "--max-shards --max-temp-c --max-up --metered --metrics-listen --min-free --moment-bits --name "
    "--nice "
    "--on-battery --paused --signer --tasks --threads --tui --ui-listen --until --verify "
    "--whole-files",
    "invite": "NAME --address --home --json --qr",
    "stop": "--home --now --restart",
    "status": "--home --json --short --watch",
    "peers": "--home --json",
    "tasks": "--home --json -n",
    "log": "--follow --home --json --level -f -n",
    "events": "--follow --home --json --since -f",
    "why": "--at --home --json",
    "pause": "--for --gpu --home --json --until",
    "resume": "--gpu --home --json",
    "finish": "--home --json",
    "run init": "OUT --data --grid --text-field",
    "run create": "FILE --force --home --json --key --out --owner",
    "run sign": "FILE --force --key --out",
    "run verify": "FILE",
    "run show": "NAME --home --json",
    "run ledger": "NAME --force --home --out",
    "run list": "--home --json",
    "run follow": "NAME --bootstrap --home --json",
    "run takeover": "NAME --home --keepers-gone --key --term",
    "doctor": "--config --device --fit --home --json --max-batch --prove-idle",
    "verify": "NAME --config --history --home --json --labels --local-sources --out --spec",
    "proof export": "NAME --home --out",
    "proof check": "FILE --run",
    "testnet": "FILE --every --faults --freeze --home --join --keepers --kill --leave --netns "
    "--no-check --nodes --partition --reference --report --restart --rounds --schedulers --seed "
    "--slow-link --soak",
    "reference": "NAME --compare --device --home --ledger --report --rounds --seed",
    "credits": "NAME --home --json",
    "report": "NAME --force --home --out",
    "eval": "NAME --at --config --data --device --domain-field --home --json --local-sources "
    "--max-batch --reroute --text-field",
    "generate": "NAME PROMPT --at --config --device --home --json --max-tokens --path --reroute "
    "--seed --temperature --top-k",
    "ckpt list": "NAME --home --json",
    "ckpt export": "NAME --at --format --home --out --path",
    "cache info": "--config --home --json",
    "cache prune": "--config --home --json --max",
    "repair": "--home",
    "compare": "NAME --data --device --domain-field --jobs --methods --out --outer-rates --rates "
    "--repeats --reroute --rounds --seeds",
    "config show": "--config --home --json",
    "config get": "KEY --config --home --json",
    "config set": "KEY VALUES --config --home --json",
    "config path": "--config --home",
    "config check": "--config --home --json",
    "config edit": "--config --home",
    "service install": "--config --home --json --print --system",
    "service uninstall": "--json --system",
    "service status": "--json --system",
    "ui": "--home --json --open",
    "id": "--home --json",
    "key new": "FILE --home --json",
    "key backup": "FILE --home --json",
    "key restore": "FILE --home --json",
    "update": "FILE --check --home --json",
    "completion": "SHELL",
    "version": "--json",
}

HEAVY = ("torch", "libp2p", "datasets", "tokenizers", "pyarrow", "numpy", "trio", "rich")
LIGHT_COMMANDS = (
    ["--help"],
    ["start", "--help"],
    ["join", "--help"],
    ["invite", "--help"],
    ["testnet", "--help"],
    ["reference", "--help"],
    ["verify", "--help"],
    ["proof", "check", "--help"],
    ["doctor", "--help"],
    ["run", "create", "--help"],
    ["compare", "--help"],
    ["eval", "--help"],
    ["generate", "--help"],
    ["ckpt", "export", "--help"],
    ["credits", "--help"],
    ["report", "--help"],
    ["cache", "info", "--help"],
    ["version"],
    ["completion", "zsh"],
    ["config", "show", "--home", "HOME"],
    ["config", "check", "--home", "HOME"],
    ["config", "set", "log.level", "debug", "--home", "HOME"],
    ["service", "install", "--print", "--home", "HOME"],
    ["ui", "--home", "HOME"],
    ["id", "--home", "HOME"],
    ["key", "new", "HOME/owner.key"],
    ["status", "--home", "HOME"],
    ["status", "--watch", "--home", "HOME"],
    ["peers", "--home", "HOME"],
    ["tasks", "--home", "HOME"],
    ["log", "--home", "HOME"],
    ["events", "--home", "HOME"],
    ["stop", "--home", "HOME"],
    ["pause", "--for", "2h", "--home", "HOME"],
    ["why", "--at", "2h ago", "--home", "HOME"],
)


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_commands_and_options_are_the_listed_ones() -> None:
    found = {}
    for name, command in commands(dipaco):
        flags = sorted(o for p in command.params for o in p.opts if isinstance(p, click.Option))
        arguments = [p.name.upper() for p in command.params if isinstance(p, click.Argument)]
        found[name] = " ".join([*arguments, *flags])
    assert found == SURFACE


def test_every_command_and_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    for name in SURFACE:
        assert f"`{name}" in page, name
    for code in Exit:
        assert f"| {code.value} |" in page or code >= 128, code


def test_every_command_and_group_says_what_it_does() -> None:
    for name, command in commands(dipaco):
        assert command.get_short_help_str(), name


def test_the_help_in_short_is_the_verbs_own() -> None:
    context = click.Context(dipaco)
    for name, (_, text) in COMMANDS.items():
        command = dipaco.get_command(context, name)
        assert command and command.get_short_help_str(200) == text, name


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_what_must_answer_at_once_imports_nothing_heavy(
    arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = str(tmp_path_factory.mktemp("home"))
    given = [part.replace("HOME", home) for part in arguments]
    program = (
        "import sys; from dipaco.cli.main import run; code = run(sys.argv[1:]); "
        f"print('loaded:', *(m for m in {HEAVY} if m in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr
    assert "Traceback" not in done.stderr
