"""The settings of a worker process, sent in its first frame: sections of the configuration.

The defaults are those of the sections (`node/config.py`).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from dipaco.node.config import ComputeSection, NodeConfig, RunSection, StorageSection
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.canonical import Wire


class WorkerSettings(Wire, frozen=True, kw_only=True):
    """The settings of this node's worker process; the operator alone decides them."""

    home: Annotated[str, Meta(pattern=r"^/", description="an absolute path")]
    """The node's home folder, absolute and UTF-8, with the blob store and the caches."""
    run: RunSection
    compute: ComputeSection
    storage: StorageSection

    @property
    def folder(self) -> Path:
        """The home as a path."""
        return Path(self.home)


def settings_of(config: NodeConfig) -> WorkerSettings:
    """Return the worker's part of a node's configuration; raises ConfigError."""
    return WorkerSettings(
        home=_as_text(config.home),
        run=config.run,
        compute=config.compute,
        storage=config.storage,
    )


def _as_text(home: Path) -> str:
    """Return the home as UTF-8, the form in which libraries of the worker take it."""
    name = os.fsencode(home.absolute())
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"home: {home} is not UTF-8: choose another --home") from None
    if text != os.fsdecode(name):  # a file of this name could not be opened by its text
        raise ConfigError(
            f"home: {text} cannot be used while Python reads file names as "
            f"{sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8, and unset PYTHONUTF8"
        )
    return text


def reproducible_settings(home: Path, device: str) -> WorkerSettings:
    """Return the settings of commands that train the operator's own run in one process.

    They use one thread: on the CPU the results are then the same bits on every machine of a kind.
    """
    return settings_of(
        NodeConfig(
            home=home,
            run=RunSection(local_sources=True),
            compute=ComputeSection(device=device, threads=1),
        )
    )


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that trains with `threads`: ours, with these changes.

    OpenMP's threads wait passively: on a shared machine active waiting was measured to cost a
    factor of 8. cuBLAS gets a fixed workspace: without it, it is not deterministic.
    """
    count = str(threads)
    return os.environ | {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker process, which stands in another folder than we.

    Python imports nothing from there, whatever PYTHONPATH says: a relative entry of it would mean
    another folder.
    """
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return environment(threads) | {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, folders)),
    }


@contextmanager
def safe_path() -> Iterator[None]:
    """Let Python processes that the block starts import nothing from the working folder."""
    before = os.environ.get("PYTHONSAFEPATH", "")  # empty: as if it were not set
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ["PYTHONSAFEPATH"] = before
