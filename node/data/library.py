"""The `datasets` library and the hub's client, set up before their first import.

They read their settings during the import, which takes more than a second; so only worker processes
and `run create` import them. The settings forbid telemetry, accounts, files in the user's cache
folder, torch, and the hub unless the source is on it.
"""

import atexit
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from dipaco.node.storage.files import (
    Home,
    remove_path,
    remove_temporary,
    temporary_name,
    translated,
)

_scratch_parent: list[Path] = []  # one entry: the folder that `use_scratch_of` named


def use_scratch_of(home: Home) -> None:
    """Have the scratch folder of this process in a home, whose next process removes a left one."""
    _scratch_parent[:] = [home.scratch]


def import_datasets(*, hub: bool = False) -> Any:
    """Return the `datasets` module; `hub`: whether it may use the hub from now on."""
    datasets = _imported()
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = not hub
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = not hub
    return datasets


@lru_cache(maxsize=1)
def _imported() -> Any:
    """Import it, with a scratch folder of this process for its files.

    `USE_TORCH` keeps it from importing torch, which takes 190 MB and two seconds more.
    """
    scratch = _new_scratch()
    atexit.register(remove_path, scratch)
    os.environ.update(
        HF_HOME=str(scratch),
        HF_HUB_CACHE=str(scratch / "hub"),
        HF_DATASETS_CACHE=str(scratch / "datasets"),
        HF_MODULES_CACHE=str(scratch / "modules"),
        HF_XET_CACHE=str(scratch / "xet"),
        HF_TOKEN_PATH=str(scratch / "token"),
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_UPDATE_CHECK="1",
        HF_HUB_DISABLE_XET="1",  # Xet does not read ranges, and keeps a cache
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        HF_UPDATE_DOWNLOAD_COUNTS="0",
        USE_TORCH="0",
    )
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    import datasets  # type: ignore[import-untyped]
    from huggingface_hub.utils import logging

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _new_scratch() -> Path:
    """Make the scratch folder of this process, after those of killed processes are removed."""
    if not _scratch_parent:
        return Path(tempfile.mkdtemp(prefix="dipaco-datasets-"))
    scratch = _scratch_parent[0] / temporary_name("datasets")
    with translated(scratch, "make"):
        scratch.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_temporary(scratch.parent)
        scratch.mkdir(mode=0o700)
    return scratch
