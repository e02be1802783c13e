"""Where the `datasets` library keeps its own files: in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from dipaco.node.storage.files import Home

CODE = """
import os, sys, pathlib
from dipaco.node.data import library
from dipaco.node.storage.files import Home
library.use_scratch_of(Home(pathlib.Path(sys.argv[1])))
made = library._new_scratch()
(made / "file").write_bytes(b"of the library")
print(made, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_the_scratch_folder_of_a_killed_process_is_in_the_home_and_the_next_one_removes_it(
    tmp_path: Path,
) -> None:
    home, made = Home.at(tmp_path / "home"), []
    for _ in range(2):
        command = [sys.executable, "-c", CODE, str(home.root)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        made.append(Path(done.stdout.strip()))
    assert [each.parent for each in made] == [home.scratch] * 2
    assert [each.exists() for each in made] == [False, True]
    home.clear_temporary()
    assert list(home.scratch.iterdir()) == []
