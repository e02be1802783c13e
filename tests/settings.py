"""A worker's settings for tests: one thread on the CPU, and the configuration's defaults."""

from pathlib import Path
from typing import Any

from dipaco.node.config import ComputeSection, NodeConfig
from dipaco.node.jobs.settings import WorkerSettings, settings_of

ONE_THREAD = ComputeSection(device="cpu", threads=1)


def settings(
    home: Path, *, compute: ComputeSection = ONE_THREAD, **sections: Any
) -> WorkerSettings:
    """Return the settings of a worker of `home`; sections: those that are not the default's."""
    return settings_of(NodeConfig(home=home, compute=compute, **sections))
