"""The inputs of a verb: a checkpoint by name, its states, a worker's settings, and its outputs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipaco.cli.options import config_of
from dipaco.cli.views.text import listed

if TYPE_CHECKING:
    from dipaco.node.jobs.settings import WorkerSettings
    from dipaco.node.runs.checkpoint import Checkpoint, ModuleState
    from dipaco.node.storage.files import Home
    from dipaco.protocol.wire.digest import Digest

FETCH_SECONDS = 60.0  # without a report of the daemon


def output_file(name: str, option: str, *, force: bool | None = None) -> Path:
    """Return the path of a file that a verb will write.

    force   whether one that exists is overwritten; None: this verb never does.

    Raises ConfigError, which names `option`, if it cannot be one, or exists and is not to be
    overwritten.
    """
    from dipaco.protocol.errors import ConfigError

    path = Path(name)
    if path.is_dir() or name.endswith("/"):
        raise ConfigError(f"{option}: {name} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}: {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{option}: {path} is not an ordinary file")
    if (path.exists() or path.is_symlink()) and not force:
        cure = "" if force is None else ", or give --force"
        raise ConfigError(f"{option}: {path} exists already: name another file{cure}")
    return path


@contextmanager
def home_for(root: Path) -> "Iterator[Home]":
    """Yield the home at `root`; if the block fails, a home that was made for it is removed.

    It stays as soon as there is a key in it.
    """
    import shutil

    from dipaco.node.storage.files import Home

    root = root.absolute()
    made = [folder for folder in (root, *root.parents) if not folder.exists()]

    def remove() -> None:
        if made and not Home(root).identity.exists():
            shutil.rmtree(root, ignore_errors=True)
            for folder in made[1:]:
                if any(folder.iterdir()):
                    break
                folder.rmdir()

    with ExitStack() as failed:
        failed.callback(remove)
        yield Home.at(root)
        failed.pop_all()


def open_checkpoint(name: str, home: Path, at: int | None) -> "Checkpoint":
    """Return the checkpoint of RUN: the folder of an export, a run file, or an id or name.

    Raises ConfigError, Refusal, and Unavailable if there is none yet.
    """
    from dipaco.node.data.embedded_tokenizer import embedded_tokenizer_path
    from dipaco.node.models.module_export import is_module_export, open_module_export
    from dipaco.node.runs.checkpoint import checkpoint_in
    from dipaco.node.runs.known import named_run, record_of
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.protocol.errors import ConfigError

    if not is_module_export(Path(name)):
        if name.endswith(".toml"):
            raise ConfigError(f"RUN: {name} is a TOML file: give the run's name or its .run file")
        if Path(name).is_dir() and (Path(name) / "config.json").is_file():
            raise ConfigError(
                f"RUN: {name} is one path for transformers, without its router: give the run, or "
                "a folder of ckpt export --format safetensors"
            )
        run = named_run(name, home)
        return checkpoint_in(home, run, record_of(run.id, home), version=at)
    if at is not None:
        raise ConfigError("--at: an export has one version of every path")
    checkpoint, tokenizer = open_module_export(Path(name))
    if embedded_tokenizer_path(checkpoint.manifest.tokenizer.sha256) is None:
        BlobStore(Home.at(home).blobs).write(tokenizer)
    return checkpoint


def fetch_states(checkpoint: "Checkpoint", home: Path, paths: Iterable[int] | None = None) -> None:
    """Fetch the states of `paths` (None: of all) and the tokenizer into the home's store.

    The daemon that runs in `home` fetches missing ones from its peers. Raises Unavailable if no
    daemon runs there or no peer has them.
    """
    from dipaco.node.data.embedded_tokenizer import embedded_tokenizer_path
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home

    wanted = {each.digest: str(each.module) for each in checkpoint.missing(paths)}
    pinned = checkpoint.manifest.tokenizer.sha256
    if embedded_tokenizer_path(pinned) is None and not BlobStore(Home.at(home).blobs).has(pinned):
        wanted[pinned] = "the tokenizer"
    fetch_blobs(checkpoint.run.id, wanted, home, _named(checkpoint.missing(paths)))


def fetch_blobs(
    run: "Digest", wanted: "Mapping[Digest, str]", home: Path, lacking: str = ""
) -> None:
    """Fetch blobs that a run's ledger or manifest names into the home's store.

    wanted    the name of each, for progress and errors.
    lacking   a text that names the missing blobs [the names in `wanted`].

    Raises Unavailable as `fetch_states` does.
    """
    if not wanted:
        return
    from dipaco.cli.views.progress import job_display
    from dipaco.node.api.client import ask_fetch
    from dipaco.node.api.values import Fetching, FetchRequest, NoDaemon
    from dipaco.node.jobs.values import Progress
    from dipaco.protocol.errors import Unavailable

    lacking = lacking or listed(list(wanted.values()))
    with job_display("fetching") as show:
        for number, (digest, name) in enumerate(wanted.items(), 1):
            stage = f"{number} of {len(wanted)}, {name}"

            def on_progress(heard: Fetching, stage: str = stage) -> None:
                show(Progress(stage=stage, done=heard.received, total=heard.total, unit="bytes"))

            request = FetchRequest(run=run.hex(), blob=digest.hex())
            try:
                ask_fetch(home, request, on_progress, timeout=FETCH_SECONDS)
            except NoDaemon:
                raise Unavailable(
                    f"not in {home}: {lacking}; run dipaco-node start in that home and call again "
                    "while it runs: it fetches them from its peers"
                ) from None
            except Unavailable as error:
                raise Unavailable(f"not in {home}: {lacking}; {error}") from error


def _named(states: "tuple[ModuleState, ...]") -> str:
    return listed([f"{each.module} v{each.version}" for each in states])


def worker_settings(home: Path, flags: dict[str, Any]) -> "WorkerSettings":
    """Return a worker's settings, and give this process the environment of a worker.

    Call it before torch is imported, which reads the environment once.

    flags   by key of the configuration; None: not given.
    """
    import os

    from dipaco.node.jobs.settings import environment, settings_of

    settings = settings_of(config_of(str(home), flags))
    os.environ.update(environment(settings.compute.torch_threads))
    return settings
