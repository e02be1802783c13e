"""The terminal view of `start --tui`: a process beside the daemon, which shares its terminal.

While the view is open, nothing else may write to the terminal: the daemon's lines go to its log
file alone. When a person closes the view, the daemon stays in the foreground and the lines that it
says come to the terminal again. The end of the daemon ends the view.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from dipaco.node.logs import to_stderr

COMMAND: Final = (sys.executable, "-P", "-m", "dipaco.cli.entry", "status", "--watch")
LOG_NAME: Final = "node.log"  # in the home, where the configuration names no file
END_SECONDS: Final = 5.0  # for the view to restore the terminal; it takes milliseconds


class ViewBeside:
    """The view of the daemon that runs in this process."""

    def __init__(self, home: Path, log: Path | None) -> None:
        """Prepare the view of the daemon of `home`, which writes the file `log`, if any."""
        self._home, self._log = home, log
        self._process: subprocess.Popen[bytes] | None = None
        self._is_open = False

    def open(self) -> None:
        """Start the view's process."""
        self._is_open = True
        self._process = subprocess.Popen([*COMMAND, "--home", os.fspath(self._home)])
        threading.Thread(target=self._await, args=(self._process,), daemon=True).start()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self._is_open = False
        if code == 0:  # else a signal ended it, and the daemon too
            text = f"the view is closed, the daemon goes on (log: {self._log}); Ctrl-C stops it\n"
            self.write(memoryview(os.fsencode(text)))

    def write(self, data: memoryview) -> int:
        """Write to stderr, unless the view is open; return the number of bytes that are done."""
        return len(data) if self._is_open else to_stderr(data)

    def close(self) -> None:
        """End the view, if it is open, and wait until the terminal is as before."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(END_SECONDS)
