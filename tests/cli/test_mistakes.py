# ruff: noqa: E501 - an answer is one line, however long
"""Mistakes in config.toml, in the environment and in flags.

Rules of this file: a mistake a row, with its answer; see the fixture `answer`.
"""

from pathlib import Path

import pytest

from tests.cli.conftest import Answer

# ------------------------------------------------------------------ config.toml

CONFIGS = [
    (
        "[storage]\nmax_shard = 2",
        "config.toml, line 2: unknown key storage.max_shard; did you mean storage.max_shards?",
    ),
    (
        "[stroage]\nmax_shards = 2",
        "config.toml, line 2: unknown key stroage.max_shards; did you mean storage.max_shards?",
    ),
    (
        "[storage]\nthreads = 2",
        "config.toml, line 2: unknown key storage.threads; did you mean compute.threads?",
    ),
    (
        "max_shards = 2",
        "config.toml, line 1: max_shards is outside any [section]; move it below [storage]",
    ),
    ("[lgo]", "config.toml: unknown table [lgo]; did you mean log?"),
    (
        "[storage]\nmax_shards = 0",
        "storage.max_shards = 0 (config.toml, line 2): not a whole number from 1 to 1024",
    ),
    (
        "[storage]\nmax_shards = '2'",
        "storage.max_shards = '2' (config.toml, line 2): not a whole number from 1 to 1024",
    ),
    (
        "[storage]\nmax_shards = 2.0",
        "storage.max_shards = 2.0 (config.toml, line 2): not a whole number from 1 to 1024",
    ),
    (
        "[storage]\ncache_max = 5",
        "storage.cache_max = 5 (config.toml, line 2): the unit is missing; units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
    ),
    (
        "[storage]\ncache_max = '4 mb'",
        "storage.cache_max = '4 mb' (config.toml, line 2): 'mb' is no unit; did you mean MB?",
    ),
    (
        "[storage]\ncache_max = '4 gigs'",
        "storage.cache_max = '4 gigs' (config.toml, line 2): 'gigs' is no unit; units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
    ),
    (
        "[storage]\nmin_free = '-1 GB'",
        "storage.min_free = '-1 GB' (config.toml, line 2): not a size such as '10 GB' (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)",
    ),
    (
        "[storage]\nmin_free = true",
        "storage.min_free = True (config.toml, line 2): not a size such as '10 GB' (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)",
    ),
    (
        "[node]\nlisten = '/ip4/0.0.0.0/tcp/1'",
        "node.listen = '/ip4/0.0.0.0/tcp/1' (config.toml, line 2): not a list",
    ),
    (
        "[node]\nlisten = [4410]",
        "node.listen (config.toml, line 2): [0]: 4410 is not a text in quotes",
    ),
    (
        "[node]\nrendezvous = 'yes'",
        "node.rendezvous = 'yes' (config.toml, line 2): not true or false",
    ),
    (
        "[compute]\ndevice = 'gpu'",
        "compute.device = 'gpu' (config.toml, line 2): not one of auto, cpu, cuda, cuda:N, mps",
    ),
    (
        "[compute]\nmoment_bits = 16",
        "compute.moment_bits = 16 (config.toml, line 2): not one of 8, 32",
    ),
    (
        "[compute]\nnice = -5",
        "compute.nice = -5 (config.toml, line 2): not a whole number from 0 to 19",
    ),
    (
        "[compute]\ncheckpointing = 'yes'",
        "compute.checkpointing = 'yes' (config.toml, line 2): not one of auto, off, on",
    ),
    (
        "[lease]\nheartbeat_s = 0",
        "lease.heartbeat_s = 0 (config.toml, line 2): not a number from 0.1 to 600",
    ),
    (
        "[lease]\nheartbeat_s = nan",
        "lease.heartbeat_s = nan (config.toml, line 2): not a number from 0.1 to 600",
    ),
    (
        "[log]\nlevel = 'warn'",
        "log.level = 'warn' (config.toml, line 2): not one of debug, error, info, warning; did you mean warning?",
    ),
    (
        "[run]\nid = 'A b'",
        "run.id (config.toml, line 2): 'A b' is not a run's id or name: at most 64 lower-case letters, digits, '.', '_' and '-'",
    ),
    (
        "[run]\nid = demo",
        "config.toml, line 2: no value: a text stands in quotes, a list in [ ], a yes or no is true or false: 'id = demo'",
    ),
    (
        "[run]\nverify = 'receipts:0'",
        "run.verify = 'receipts:0' (config.toml, line 2): not one of require, warn, receipts:Q (Q from 1 to 999)",
    ),
    (
        "[run]\nverify = 'requir'",
        "run.verify = 'requir' (config.toml, line 2): not one of require, warn, receipts:Q (Q from 1 to 999)",
    ),
    ("[run]\nid = 'demo", 'config.toml, line 2: a text without its closing quotes: "id = \'demo"'),
    ("[run]\nid = 'a'\nid = 'b'", "config.toml, line 3: this key is there twice: \"id = 'b'\""),
    ("[node]\n[node]", "config.toml, line 2: this table is there twice: '[node]'"),
    ("[node", "config.toml, line 1: Expected ']' at the end of a table declaration: '[node'"),
    ("run", "config.toml, line 1: Expected '=' after a key in a key/value pair: 'run'"),
]


@pytest.mark.parametrize(("text", "words"), CONFIGS)
def test_a_mistake_in_the_configuration_is_answered(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(text)
    assert answer("start", "--rendezvous") == words


# ------------------------------------------------------------------ environment and flags


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "DIPACO_STORAGE_SHARDS",
            "3",
            "unknown environment variable DIPACO_STORAGE_SHARDS; did you mean DIPACO_STORAGE_MAX_SHARDS?",
        ),
        (
            "DIPACO_RUN_VERIFI",
            "warn",
            "unknown environment variable DIPACO_RUN_VERIFI; did you mean DIPACO_RUN_VERIFY?",
        ),
        (
            "DIPACO_THREADS",
            "3",
            "unknown environment variable DIPACO_THREADS; did you mean DIPACO_COMPUTE_THREADS?",
        ),
        (
            "DIPACO_COMPUTE_THREADS",
            "",
            "compute.threads = '' ($DIPACO_COMPUTE_THREADS): is empty; leave it out, or give it a value",
        ),
        (
            "DIPACO_COMPUTE_THREADS",
            "two",
            "compute.threads = 'two' ($DIPACO_COMPUTE_THREADS): not a whole number from 0 to 1024",
        ),
        (
            "DIPACO_COMPUTE_COMPILE",
            "yes",
            "compute.compile = 'yes' ($DIPACO_COMPUTE_COMPILE): not true or false",
        ),
        (
            "DIPACO_STORAGE_MIN_FREE",
            "4 mb",
            "storage.min_free = '4 mb' ($DIPACO_STORAGE_MIN_FREE): 'mb' is no unit; did you mean MB?",
        ),
        (
            "DIPACO_LOG_FORMAT",
            "xml",
            "log.format = 'xml' ($DIPACO_LOG_FORMAT): not one of json, text",
        ),
        (
            "DIPACO_RUN_ID",
            "\udcff",
            "DIPACO_RUN_ID: '\\xff' is not UTF-8",
        ),
        (
            "DIPACO_NODE_RENDEZVOUS",
            "",
            "node.rendezvous = '' ($DIPACO_NODE_RENDEZVOUS): is empty; leave it out, or give it a value",
        ),
    ],
)
def test_a_mistake_in_the_environment_is_answered(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert answer("start", "--rendezvous") == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "start --rendezvous --threads two",
            "compute.threads = 'two' (the command line): not a whole number from 0 to 1024",
        ),
        (
            "start --rendezvous --nice 20",
            "compute.nice = '20' (the command line): not a whole number from 0 to 19",
        ),
        (
            "start --rendezvous --moment-bits 16",
            "compute.moment_bits = '16' (the command line): not one of 8, 32",
        ),
        (
            "start --rendezvous --cache-max 4mb",
            "storage.cache_max = '4mb' (the command line): 'mb' is no unit; did you mean MB?",
        ),
        (
            "start --rendezvous --checkpointing maybe",
            "compute.checkpointing = 'maybe' (the command line): not one of auto, off, on",
        ),
        (
            "start --rendezvous --device gpu",
            "compute.device = 'gpu' (the command line): not one of auto, cpu, cuda, cuda:N, mps",
        ),
        (
            "start --rendezvous --home ~nobody-here/x",
            "~nobody-here/x: there is no home folder of ~nobody-here",
        ),
        ("run create nope.toml --out my.run", "cannot read nope.toml: No such file or directory"),
        (
            "run create nope.toml --out nowhere/my.run",
            "--out: nowhere/my.run: there is no folder nowhere",
        ),
        ("run create nope.toml --out nowhere/", "--out: nowhere/ is a folder: name a file in it"),
        (
            "run create nope.toml --out my.run --key nope.key",
            "cannot read nope.key: no such key file; `dipaco-node key new` makes one",
        ),
        (
            "run create nope.toml --out my.run --owner me",
            "--owner: 'me' is no PeerID (12D3KooW...)",
        ),
        ("run init --grid 2,2", "--grid: '2,2': the experts of each level, such as 2x2 or 4"),
        ("run init --grid 0x2", "--grid: 0x2: at most 8 levels, of 1 to 256 experts each"),
        ("run init --grid 64x64", "--grid: 64x64 has 4096 paths, at most 1024 are possible"),
        (
            "run init --grid 2x2x2x2x2x2x2x2x2",
            "--grid: 2x2x2x2x2x2x2x2x2: at most 8 levels, of 1 to 256 experts each",
        ),
        ("run init nowhere/my.toml", "OUT: nowhere/my.toml: there is no folder nowhere"),
        ("run init --data nope.txt", "--data: nope.txt is not there"),
        ("run show nope", "run: nope is not here; here: none"),
        ("key new nowhere/my.key", "cannot write nowhere/my.key: No such file or directory"),
        ("id --home /proc/home", "cannot use the home /proc/home: No such file or directory"),
    ],
)
def test_a_mistaken_flag_is_answered(answer: Answer, arguments: str, words: str) -> None:
    assert answer(*arguments.split()) == words
