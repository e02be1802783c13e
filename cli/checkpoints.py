"""The checkpoint that a verb works with: found by name, its states brought here if need be."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipaco.cli.options import F, home_option

if TYPE_CHECKING:
    from dipaco.node.checkpoints import Checkpoint, ModuleState
    from dipaco.node.training.worker import WorkerSettings
    from dipaco.protocol.digest import Digest

FETCH_SECONDS = 60.0  # without a word from the daemon
MAX_NAMED = 8  # missing modules that a message lists


def checkpoint_options(command: F) -> F:
    """Add `--home DIR` and `--at V`."""
    at = click.option(
        "--at",
        type=click.IntRange(0),
        metavar="V",
        help="All modules at this version; 0: the seed model [what each path keeps].",
    )
    return home_option(at(command))


def device_option(command: F) -> F:
    """Add `--device D`."""
    words = "auto, cpu, cuda:N or mps [as configured]."
    return click.option("--device", metavar="D", help=words)(command)


def open_checkpoint(name: str, home: Path, at: int | None) -> "Checkpoint":
    """Return the checkpoint of RUN: a bank's folder, a run file, or an id or name known here.

    Raises ConfigError, Refusal, and Unavailable where there is none yet.
    """
    from dipaco.cli.runs_known import named_run, record_of
    from dipaco.node.checkpoints import checkpoint_in
    from dipaco.node.data.embedded import embedded_tokenizer_path
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.node.training.bank import is_bank, open_bank
    from dipaco.protocol.errors import ConfigError

    if not is_bank(Path(name)):
        if name.endswith(".toml"):
            raise ConfigError(f"RUN: {name} is no run yet: say what it calls itself, or its .run")
        if Path(name).is_dir() and (Path(name) / "config.json").is_file():
            raise ConfigError(
                f"RUN: {name} is one path for transformers, without its router: name the run, "
                "or what ckpt export --format safetensors wrote"
            )
        run = named_run(name, home)
        return checkpoint_in(home, run, record_of(run.id, home), version=at)
    if at is not None:
        raise ConfigError("--at: a bank holds one version of every path")
    checkpoint, tokenizer = open_bank(Path(name))
    if embedded_tokenizer_path(checkpoint.manifest.tokenizer.sha256) is None:
        BlobStore(Home.at(home).blobs).write(tokenizer)
    return checkpoint


def bring_states(checkpoint: "Checkpoint", home: Path, paths: Iterable[int] | None = None) -> None:
    """Have what `paths` are made of (None: all) in the home's store, and the tokenizer.

    What lacks is asked of the daemon that runs in `home`, which fetches it from its peers. Raises
    Unavailable, in one line, if there is none, or nobody has it.
    """
    from dipaco.node.data.embedded import embedded_tokenizer_path
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home

    wanted = {each.digest: str(each.module) for each in checkpoint.missing(paths)}
    pinned = checkpoint.manifest.tokenizer.sha256
    if embedded_tokenizer_path(pinned) is None and not BlobStore(Home.at(home).blobs).has(pinned):
        wanted[pinned] = "the tokenizer"
    bring(checkpoint.run.id, wanted, home, in_words(checkpoint.missing(paths)))


def bring(run: "Digest", wanted: "Mapping[Digest, str]", home: Path, lacking: str = "") -> None:
    """Have blobs that a run's ledger or manifest names fetched into the home's store.

    wanted    what each is, in words.
    lacking   what is missing, in words [`wanted`'s].

    Raises Unavailable as `bring_states` does.
    """
    if not wanted:
        return
    from dipaco.cli.bars import progress_bar
    from dipaco.node.api.client import ask_fetch
    from dipaco.node.api.values import Fetching, FetchRequest, NoDaemon
    from dipaco.node.training.jobs import Progress
    from dipaco.protocol.errors import Unavailable

    lacking = lacking or listed(list(wanted.values()))
    with progress_bar("fetching") as show:
        for digest, what in wanted.items():

            def on_progress(heard: Fetching, what: str = what) -> None:
                show(Progress(stage=what, done=heard.received, total=heard.total, unit="bytes"))

            request = FetchRequest(run=run.hex(), blob=digest.hex())
            try:
                ask_fetch(home, request, on_progress, timeout=FETCH_SECONDS)
            except NoDaemon:
                raise Unavailable(
                    f"not in {home}: {lacking}; dipaco-node start in that home, and ask again "
                    "while it runs: it fetches them from its peers"
                ) from None
            except Unavailable as error:
                raise Unavailable(f"not in {home}: {lacking}; {error}") from error


def in_words(states: "tuple[ModuleState, ...]") -> str:
    """Return a few of the states by name and version."""
    return listed([f"{each.module} v{each.version}" for each in states])


def listed(names: list[str]) -> str:
    """Return a few of the names."""
    more = len(names) - MAX_NAMED
    return ", ".join([*names[:MAX_NAMED], f"{more} more"] if more > 0 else names)


def worker_of(home: Path, flags: dict[str, Any]) -> "WorkerSettings":
    """Set this process up as a worker process is, before torch comes in; returns the settings.

    flags   of the configuration, by key; None: not given.
    """
    import os

    from dipaco.cli.options import config_of
    from dipaco.node.storage.files import Home
    from dipaco.node.wiring import worker_settings

    settings = worker_settings(config_of(str(home), flags), Home.at(home))
    os.environ.update(settings.environment())
    return settings
