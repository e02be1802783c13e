"""Files that a person or another program wrote: configuration, runs, and those of a home."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dipaco.cli.options import packaged_peers
from dipaco.node.jobs.frames import body_length, read_job, read_report, read_settings
from dipaco.node.jobs.values import Answer, Derive, Failed, Inspected, Job, PerformLease, Progress
from dipaco.node.network.identity import key_file, load_or_new_identity
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.files import open_run, read_manifest
from dipaco.node.runs.remembered import last_run
from dipaco.node.runs.template import run_template
from dipaco.node.settings import load_config
from dipaco.node.storage.roster import Roster
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Refusal, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.signed import sign
from tests.fuzz.mutate import Mutator, Raw, Text
from tests.fuzz.target import Call, Target
from tests.fuzz.targets.wire import envelope, grammar, of
from tests.golden.values import LEASE, SMALLEST, values
from tests.memory import folder_in_memory
from tests.settings import settings
from tests.values import digest, key, peer

TOML_WORDS: tuple[str | bytes, ...] = (
    *"""
    [node] [run] [compute] [storage] [lease] [log] [[node]] [node.x] [source] [model]
    [grid] = == : . , { } [ ] [[ ]] # \" ' \\ \"\"\" ''' true false inf nan -inf +nan 0x
    0b1 1e999 -0 -0.0 1979-05-27 07:32:00 1979-05-27T07:32:00Z 10GB 1TiB \\u0000 \\uD800
    \\U0010FFFF \\x listen announce bootstrap rendezvous exempt_prefixes id verify device
    threads level d_model heads kv_heads experts blocks levels sample prefix rounds batch
    seed documents
    """.split(),
    *(
        "\ufeff",
        "\x00",
        "\r",
        "\r\n",
        "\x1b[31m",
        "\u202e",
        "9" * 30,
        "[" * 40,
        "{a=" * 20,
        "a." * 50,
    ),
    *map(str, (0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400)),
    *("'10 GB'", "'/ip4/127.0.0.1/tcp/1'", "'10.0.0.0/8'", "'::/0'", f"'{peer('a')}'", "'a' = 1"),
    b"\xff",
    b"\xed\xa0\x80",
)
CONFIG = f"""\
[node]
listen = ["/ip4/0.0.0.0/tcp/4410"]
bootstrap = ["/ip4/127.0.0.1/tcp/4410/p2p/{peer("a")}"]
rendezvous = true
exempt_prefixes = ["10.0.0.0/8"]

[run]
id = ["demo", "ab12"]
verify = "receipts:2"

[compute]
device = "cuda:1"
threads = 2

[storage]
cache_max = "10 GB"
max_shards = 4

[lease]
heartbeat_s = 2.5

[log]
level = "debug"
"""
OWN_SECONDS = 2.0  # for a file that a person wrote for the node of the same person
PIPE_SECONDS = 0.5  # for a frame of up to 1 MiB between two processes of one node

Written = Callable[[Path], object]


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder in memory, where there is such a file system."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=folder_in_memory()))
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextmanager
def reading(name: str, read: Written) -> Iterator[Call]:
    """Yield a call that writes its input to a file of a folder, and has the folder read."""
    with folder() as root:
        path = root / name
        path.parent.mkdir(exist_ok=True)

        def call(data: bytes) -> None:
            path.write_bytes(data)
            path.chmod(0o600)
            read(root)

        yield call


def configuration(root: Path) -> None:
    load_config(home=root, environ={}, flags={})


def bootstrap(root: Path) -> None:
    peers = packaged_peers(root / "bootstrap.toml")
    load_config(home=root, environ={}, flags={}, defaults={"node.bootstrap": peers})


def run_table(root: Path) -> None:
    create_manifest(root / "my.toml", owner=peer("owner"))


def run_file(data: bytes) -> None:
    open_run(data, "my.run")


def signed_manifest(body: bytes) -> None:
    """Open a run file whose signature is valid over any body."""

    open_run(encode(envelope(Manifest, body)), "my.run")


def manifest_file(root: Path) -> None:
    read_manifest(root / "my.manifest")


def identity(root: Path) -> None:
    load_or_new_identity(root / "identity.key")


def peers(root: Path) -> None:
    """Read saved peers, and write them again."""
    roster = Roster(root / "peers.cbor")
    roster.save(roster.load())


def job(data: bytes) -> None:
    """Read the frame of a worker's pipe: its length, then its body as each end may take it."""
    if body_length(data[:4].ljust(4, b"\0")) == len(data) - 4:
        read_job(data[4:])


def configs() -> tuple[bytes, ...]:
    return (CONFIG.encode(), b"", b"[node]\n", b'[storage]\nmin_free = "500 MB"\n')


def tables() -> tuple[bytes, ...]:
    shown = run_template("my", (2, 2), None)
    small = """\
name = "a"
seed = 1
[source]
kind = "synthetic"
documents = 400
[model]
d_model = 16
heads = 2
kv_heads = 2
d_ff = 32
context = 48
[grid]
levels = [{ experts = 2, blocks = 1 }]
[routing]
sample = 128
dimension = 64
[training]
seed_steps = 2
rounds = 2
inner_steps = 2
batch = 2
[training.inner]
[training.outer]
[schedule]
"""
    return (small.encode(), shown.encode())


def run_files() -> tuple[bytes, ...]:
    return (encode(sign(SMALLEST, key("owner"))), *of("Signed"))


def saved_peers() -> tuple[bytes, ...]:
    with folder() as root:
        path = root / "peers.cbor"
        records = [value for value in values()["Signed"] if b"PeerRecord" in encode(value)]
        Roster(path).save(tuple(records))  # type: ignore[arg-type]
        return (path.read_bytes(),)


def jobs() -> tuple[bytes, ...]:
    spec = values()["RouterSpec"][0]
    return tuple(
        map(
            encode,
            (
                Derive(manifest=SMALLEST),
                PerformLease(manifest=SMALLEST, spec=spec, lease=LEASE),  # type: ignore[arg-type]
            ),
        )
    )


def reports() -> tuple[bytes, ...]:
    return tuple(
        map(
            encode,
            (
                Progress(stage="train", done=1, total=2, loss=1.5),
                Inspected(wrong=""),
                Failed(kind="disk", reason="full"),
            ),
        )
    )


def worker_settings() -> tuple[bytes, ...]:
    return (encode(settings(Path("/home/v"))),)


def toml() -> Mutator:
    return Text(TOML_WORDS)


def lines() -> Mutator:
    return Text(("\n", " ", "\0", "ab", "g", "0" * 64, b"\xff"))


def last(root: Path) -> None:
    last_run(root)


def targets() -> Iterator[Target]:
    """Yield one target a kind of file, and the frames of worker processes."""
    wrong, plain = (ConfigError,), (LocalProtocolError,)
    yield Target(
        "file/config.toml",
        configs,
        wrong,
        toml,
        opened=partial(reading, "config.toml", configuration),
        seconds=OWN_SECONDS,
    )
    yield Target(
        "file/bootstrap.toml",
        lambda: (b'network = "main"\npeers = []\n', b"peers = ['/ip4/1.2.3.4/tcp/1']"),
        wrong,
        toml,
        opened=partial(reading, "bootstrap.toml", bootstrap),
        seconds=OWN_SECONDS,
    )
    yield Target(
        "file/run.toml",
        tables,
        (ConfigError, Unavailable),
        toml,
        opened=partial(reading, "my.toml", run_table),
        seconds=OWN_SECONDS,
        batch=100,
    )
    yield Target(
        "file/signed-run",
        run_files,
        (Refusal,),
        partial(grammar, type(SMALLEST)),
        call=run_file,
        limit=1 << 20,
    )
    yield Target(
        "file/run-body",
        partial(of, "Manifest"),
        (Refusal,),
        partial(grammar, type(SMALLEST)),
        call=signed_manifest,
        limit=1 << 20,
    )
    yield Target(
        "file/manifest",
        partial(of, "Manifest"),
        (ConfigError, Refusal),
        partial(grammar, type(SMALLEST)),
        opened=partial(reading, "my.manifest", manifest_file),
        seconds=OWN_SECONDS,
    )
    yield Target(
        "file/identity.key",
        lambda: (key_file(key("a")),),
        wrong,
        Raw,
        opened=partial(reading, "identity.key", identity),
    )
    yield Target(
        "file/peers.cbor",
        saved_peers,
        wrong,
        partial(grammar, type(values()["Signed"][0])),
        opened=partial(reading, "peers.cbor", peers),
        batch=200,
    )
    yield Target(
        "file/last-run",
        lambda: (digest("run").hex().encode() + b"\n",),
        (),
        lines,
        opened=partial(reading, "last-run", last),
    )
    yield Target(
        "worker/job",
        jobs,
        plain,
        partial(grammar, Job),
        call=read_job,
        limit=1 << 20,
        seconds=PIPE_SECONDS,
    )
    yield Target(
        "worker/report",
        reports,
        plain,
        partial(grammar, Progress | Answer),
        call=read_report,
        limit=1 << 20,
        seconds=PIPE_SECONDS,
    )
    yield Target(
        "worker/settings",
        worker_settings,
        plain,
        partial(grammar, type(settings(Path("/h")))),
        call=read_settings,
        limit=1 << 20,
        seconds=PIPE_SECONDS,
    )
    yield Target(
        "worker/frame",
        lambda: tuple(len(each).to_bytes(4, "little") + each for each in jobs()),
        plain,
        Raw,
        call=job,
    )
