"""A folder in memory for the tests' homes: a node syncs all that it saves, and disks are slow.

No test cuts the power, so none needs the disk itself. The simulated disk of
`tests/simulation_nodes` counts the syncs.
"""

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30  # bytes: all homes of a run of the tests together have less than a quarter


def folder_in_memory() -> Path | None:
    """Return such a folder; None where the system has none, or none that is large enough."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free >= ROOM else None
