"""The `datasets` library and the hub's client, set up before their first import.

They read their settings during the import, which takes more than a second; so only worker processes
and `run create` import them. The settings forbid telemetry, accounts, files in the user's cache
folder, torch, and the hub unless the source is on it.
"""

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any


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
    scratch = Path(tempfile.mkdtemp(prefix="dipaco-datasets-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
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
