"""Rules of this file: every wrong command line ends in one line on stderr and code 2, at once."""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import COMMANDS
from tests.cli.shell import Shell

WRONG = {
    "cache info --max 1": "No such option '--max'",
    "cache prune --max 4": "the unit is missing",
    "cache prune --max '4 gb'": "did you mean GB?",
    # commands and options that do not exist
    "fly": "No such command 'fly'",
    "strat": "Did you mean one of: 'start', 'status'?",
    "--fly": "No such option '--fly'",
    "run creat": "Did you mean 'create'?",
    "ckpt lst": "Did you mean 'list'?",
    "key ne": "Did you mean 'new'?",
    "status --jsno": "Did you mean one of: '--json', '--short'?",
    "start --rendezvous --log-levle debug": "'--log-keep', '--log-level'?",
    "stop now": "unexpected extra argument (now)",
    "start extra": "unexpected extra argument (extra)",
    "version x": "unexpected extra argument (x)",
    "id x": "unexpected extra argument (x)",
    "doctor x": "unexpected extra argument (x)",
    "run list x": "unexpected extra argument (x)",
    "peers x": "unexpected extra argument (x)",
    "tasks x": "unexpected extra argument (x)",
    "log x": "unexpected extra argument (x)",
    "events x": "unexpected extra argument (x)",
    "why x": "unexpected extra argument (x)",
    "ui x": "unexpected extra argument (x)",
    "pause x": "unexpected extra argument (x)",
    "resume x": "unexpected extra argument (x)",
    "finish x": "unexpected extra argument (x)",
    "config shwo": "Did you mean 'show'?",
    "config get max_up": "did you mean network.max_up?",
    "config set network.max_up": "Missing argument 'VALUE...'",
    "service status x": "unexpected extra argument (x)",
    "update": "Missing option '--check'",
    "start --until 25:00": "25:00 is no time of a day, nor finish",
    "start --until soon": "'soon' is no time of a day such as 18:00, nor finish",
    "start --tasks 0": "0 is not in the range x>=1",
    "start --rendezvous --dry-run": "only a node that trains leases anything to try",
    # missing ones
    "start --run x": "give --bootstrap ADDR",
    "credits x": "has no ledger",
    "report x": "has no ledger",
    "run follow": "Missing argument 'RUN'",
    "join": "Missing argument 'CODE'",
    "join x0": "CODE: character 2 is '0', which no code has",
    "join x --rendezvous": "No such option '--rendezvous'",
    "invite x": "run: x is not here; here: none",
    "invite": "to invite to: found one with `dipaco-node run init my.toml`",
    "invite --address x": "to invite to: found one",
    "start --bootstrap": "'--bootstrap' requires an argument",
    "start --rendezvous --keep": "--keep, --keeper: name the run with --run",
    "start --rendezvous --keeper --run name": "by its file or its whole id",
    "run create": "Missing argument 'FILE'",
    "run create x.toml": "Missing option '--out'",
    "run sign": "Missing argument 'FILE'",
    "run sign x": "Missing option '--key'",
    "run verify": "Missing argument 'FILE'",
    "run show": "Missing argument 'RUN'",
    "run takeover": "Missing argument 'RUN'",
    "run takeover x": "Missing option '--key'",
    "proof export": "Missing argument 'RUN'",
    "proof check": "Missing argument 'FILE'",
    "repair x": "unexpected extra argument (x)",
    "eval": "Missing argument 'RUN'",
    "generate": "Missing argument 'RUN'",
    "generate x": "Missing argument 'PROMPT'",
    "ckpt export": "Missing argument 'RUN'",
    "ckpt export x --out y": "Missing option '--format'. Choose from: hf, safetensors",
    "ckpt export x --format hf": "Missing option '--out'",
    "completion": "Choose from: bash, zsh, fish",
    "config get": "Missing argument 'KEY'",
    "config get storage.shards": "did you mean storage.max_shards?",
    "config set storage.max_shards": "Missing argument 'VALUE...'",
    "key backup": "Missing argument 'FILE'",
    "update x": "File 'x' does not exist",
    "pause --for 2h --until 18:00": "give --for or --until, not both",
    # values of another kind
    "pause --for x": "--for: not a time such as '2 h'",
    "pause --until 99:99": "--until: '99:99' is no moment: write it as 14:05",
    "why --at x": "--at: 'x' is no moment",
    "events --since x": "--since: 'x' is no moment",
    "tasks -n x": "not a valid integer",
    "log --level loud": "'loud' is not one of 'debug', 'info', 'warning', 'error'",
    "start --rendezvous --max-shards many": "not a valid integer",
    "start --rendezvous --max-shards 1.5": "not a valid integer",
    "doctor --max-batch x": "not a valid integer",
    "verify x --labels x": "not a valid integer",
    "testnet --nodes x": "not a valid integer",
    "compare --seeds x": "--seeds: 'x' is neither a number nor a list like 0,3,5",
    "generate x y --temperature nan": "nan is not a number",
    # numbers out of range
    "tasks -n 0": "0 is not in the range 1<=x<=1000",
    "start --rendezvous --max-shards -1": "storage.max_shards = -1",
    "start --rendezvous --max-batch -1": "compute.max_batch = -1",
    "doctor --max-batch -3": "compute.max_batch = -3",
    "verify x --labels -1": "-1 is not in the range",
    "testnet --nodes 0": "0 is not in the range 1<=x<=64",
    "testnet --kill 0": "--kill 0: 0 is not in the range 1 to 64",
    "testnet --freeze 1:20": "--freeze 1:20: '20' is no time: give a number with ms, s, min or h",
    "testnet --freeze half:20s": "--freeze half:20s: half is for --partition alone",
    "testnet --kill 1:5s": "--kill 1:5s: expected WHO",
    "testnet --kill all": "--kill all: 'all' is no number of volunteers, no role",
    "testnet --kill scheduler": "no other node would take over",
    "testnet --kill node-9": "--kill node-9: no node of this network has that name",
    "testnet --restart keeper": "--restart keeper: this network has no keepers",
    "testnet --schedulers 2": "--schedulers: without --keepers no other scheduler takes over",
    "testnet --netns --partition 1:5s:in": "--netns: a cut in one direction alone needs",
    "testnet --join keeper": "--join keeper: expected the number of newcomers",
    "testnet --partition 1": "--partition 1: '1' is no time",
    "testnet --partition 1:2s:up": "--partition 1:2s:up: expected [WHO:]SPAN[:in|:out]",
    "testnet --every 5s": "--every: no fault is ordered: give --kill, --freeze, ...",
    "testnet --faults 5": "--faults and --soak with faults need --every",
    "testnet --soak 5 --kill 1": "--faults and --soak with faults need --every",
    "testnet --slow-link 1Mbit/s,5ms": "expected [N:]UP/DOWN,DELAY[,LOSS%]",
    "testnet --slow-link 1kbit/s/1MB/s,5ms": "a rate below 1 kB/s carries no heartbeat in time",
    "testnet --rounds 1 --restart 2": "2 faults, one a round, but the run has 1",
    "testnet --rounds 0": "0 is not in the range",
    "testnet --seed -1": "-1 is not in the range",
    "reference --rounds 0": "0 is not in the range",
    "reference --seed 9223372036854775808": "is not in the range",
    "compare --seeds -1": "--seeds: -1 is not in 1 to 1000",
    "compare --jobs 0": "0 is not in the range 1<=x<=256",
    "compare --rounds -1": "-1 is not in the range",
    "compare --reroute -1": "--reroute: '-1' has a window below one token",
    "eval x --reroute 0": "0 is not in the range",
    "eval x --at -1": "-1 is not in the range",
    "eval x --max-batch -1": "compute.max_batch = -1",
    "generate x y --top-k -1": "-1 is not in the range",
    "generate x y --temperature -1": "-1.0 is not in the range",
    "generate x y --max-tokens 0": "0 is not in the range",
    "generate x y --seed -1": "-1 is not in the range",
    "ckpt export x --format hf --at -1 --out y": "-1 is not in the range",
    # values that are none of the possible ones
    "start --rendezvous --device gpu": "not one of auto, cpu, cuda, cuda:N, mps",
    "start --rendezvous --verify receipts:x": "not one of require, warn, receipts:Q",
    "start --rendezvous --log-level loud": "is not one of 'debug', 'info', 'warning', 'error'",
    "start --rendezvous --log-format xml": "is not one of 'text', 'json'",
    "doctor --device gpu": "not one of auto, cpu, cuda, cuda:N, mps",
    "reference --device gpu": "'gpu' is none of auto, cpu, cuda, cuda:N and mps",
    "compare --device cuda:x": "'cuda:x' is none of auto, cpu, cuda, cuda:N and mps",
    "eval x --device gpu": "'gpu' is none of auto, cpu, cuda, cuda:N and mps",
    "generate x y --device gpu": "'gpu' is none of auto, cpu, cuda, cuda:N and mps",
    "compare --methods magic": "--methods: 'magic' is none of dense,",
    "ckpt export x --format xml": "is not one of 'hf', 'safetensors'",
    "completion tcsh": "is not one of 'bash', 'zsh', 'fish'",
    # options that exclude each other
    "testnet --nodes 2 --kill 2": "--kill 2: at least one of 2 volunteers must live",
    "generate x y --path 0 --reroute 4": "--path and --reroute exclude each other",
    "reference x.run --rounds 2": "--rounds: a signed run cannot be changed",
    "compare --data nowhere": "has no source of kind files",
    # files that are folders, folders that are files, and none
    "start --rendezvous --run folder.run": "folder.run: Is a directory",
    "start --rendezvous --run nowhere.run": "cannot read nowhere.run",
    "start --rendezvous --home file": "file is not a folder",
    "start --rendezvous --home file/in/it": "file is not a folder",
    "stop --home file": "file is not a folder",
    "status --home file/in/it": "file is not a folder",
    "id --home file": "file is not a folder",
    "run list --home file": "file is not a folder",
    "run create folder --out x": "'folder' is a directory",
    "run create x.toml --out folder": "--out: folder is a folder: name a file in it",
    "run create x.toml --out nowhere/x": "--out: nowhere/x: there is no folder nowhere",
    "run create nowhere.toml --out x": "cannot read nowhere.toml",
    "run sign folder --key x": "'folder' is a directory",
    "run verify folder": "'folder' is a directory",
    "doctor --fit folder.toml": "cannot read folder.toml",
    "verify nowhere.run": "cannot read nowhere.run",
    "verify x --spec folder": "'folder' is a directory",
    "verify x --out nowhere/x": "'nowhere' is no folder",
    "testnet folder": "'folder' is a directory",
    "testnet --report nowhere/x": "'nowhere' is no folder",
    "reference folder.run": "cannot read folder.run",
    "reference --compare folder": "'folder' is a directory",
    "reference --report nowhere/x": "'nowhere' is no folder",
    "compare folder": "cannot read folder",
    "compare --out file": "'file' is a file",
    "eval x --data folder": "'folder'",
    "key new nowhere/x": "cannot write nowhere/x",
    # runs that are not here
    "run show nowhere": "run: nowhere is not here; here: none",
    "eval nowhere": "run: nowhere is not here; here: none",
    "generate nowhere text": "run: nowhere is not here; here: none",
    "ckpt list nowhere": "run: nowhere is not here; here: none",
    "verify nowhere": "run: nowhere is not here; here: none",
    "doctor --fit nowhere": "run: nowhere is not here; here: none",
}


@pytest.mark.parametrize(("line", "words"), WRONG.items(), ids=WRONG)
def test_a_wrong_command_line_is_one_line_and_code_2(shell: Shell, line: str, words: str) -> None:
    Path("folder").mkdir()
    Path("folder.run").mkdir()
    Path("folder.toml").mkdir()
    Path("file").touch()
    assert words in shell.fails(Exit.USAGE, *shlex.split(line))
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["file"]


def test_the_table_has_every_command() -> None:
    assert {line.split()[0] for line in WRONG} >= set(COMMANDS)


@pytest.mark.parametrize("group", ["", "run", "ckpt", "key"])
def test_a_group_alone_shows_its_help(shell: Shell, group: str) -> None:
    code, out, err = shell(*group.split())
    assert (code, err) == (0, "") and "Commands:" in out
    assert shell(*group.split(), "--help")[1] == out


def test_the_option_version_does_as_the_command(shell: Shell) -> None:
    assert shell("--version") == shell("version")
    assert shell("--version")[0] == 0


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, script, _ = shell("completion", name)
    variable = "_DIPACO_NODE_COMPLETE"
    assert code == 0 and f"{variable}={name}_complete" in script
    monkeypatch.setenv(variable, f"{name}_complete")
    monkeypatch.setenv("COMP_WORDS", "dipaco-node sta")
    monkeypatch.setenv("COMP_CWORD", "sta" if name == "fish" else "1")
    out = shell()[1]
    assert "start" in out and "status" in out and "stop" not in out


def test_a_removed_working_folder_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = shell.folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = shell.fails(Exit.USAGE, "status", "--home", "relative")
    assert "the working folder was removed" in said
    assert "no daemon runs in" in shell.fails(Exit.NO_DAEMON, "status")


PRINTING = (
    "",
    "--help",
    "--version",
    "version --json",
    "completion bash",
    "run",
    "id",
    "key new k",
)


@pytest.mark.parametrize("line", PRINTING)
def test_output_on_a_full_disk_is_one_line_and_code_7(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        said = shell.fails(Exit.FULL, *line.split())
    assert "cannot write the output: no space left on device" in said


@pytest.mark.parametrize("line", PRINTING)
def test_output_that_nobody_reads_ends_in_silence(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setattr("sys.stderr", sys.stderr)  # click wraps both
    code, _, err = shell(*line.split())
    with suppress(BrokenPipeError):
        pipe.close()
    assert (code, err) == (Exit.ERROR, "")


def test_an_error_that_cannot_be_told_keeps_its_code(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", full)
        assert shell("fly")[0] == Exit.USAGE
        assert shell("status")[0] == Exit.NO_DAEMON
