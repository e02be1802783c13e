"""Many nodes, each a process, for the price of one start: forked from one that imported all.

`python -m tests.e2e.forks FOLDER ARGUMENT...` starts `dipaco-node start --home FOLDER/NAME --run
RUN ARGUMENT...` for every line `NAME RUN` of stdin, some at a time, and writes `NAME CODE` when
one has ended. What a node says goes to its daemon.log.
"""

import importlib
import os
import sys
from pathlib import Path

from dipaco.cli.main import run
from dipaco.cli.testnet.processes import LOG_NAME

AT_ONCE = 6
IMPORTED = ("dipaco.cli.commands.start", "dipaco.node.daemon")


def main() -> None:
    """Start all, and wait for all."""
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    for module in IMPORTED:
        importlib.import_module(module)
    running: dict[int, str] = {}
    for line in sys.stdin.read().splitlines():
        name, run_id = line.split()
        while len(running) == AT_ONCE:
            _wait(running)
        pid = os.fork()
        if pid == 0:
            _become(folder / name, ["--run", run_id, *arguments])
        running[pid] = name
    while running:
        _wait(running)


def _become(home: Path, arguments: list[str]) -> None:
    home.mkdir(mode=0o700)
    log = os.open(home / LOG_NAME, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = run(["start", "--home", str(home), *arguments])
    sys.stderr.flush()
    os._exit(code)


def _wait(running: dict[int, str]) -> None:
    pid, status = os.wait()
    print(running.pop(pid), os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
