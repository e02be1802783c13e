"""The process of one node of a local network: the command line, which ends with its front.

    python -P -m dipaco.cli.member start ...

The front, the program that started it, holds the other end of its stdin. When that ends, for
example by SIGKILL, nobody would end the node, so it leaves by itself. A node that is frozen then
ends when it is woken.
"""

import os
import signal
import sys
import threading
import time
from typing import Final

from dipaco.cli.entry import main as run

GRACE_SECONDS: Final = 10.0  # for a daemon to end after its first signal


def main() -> None:
    """Run the process's own command line until it ends, or stdin does."""
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    run()


def _end_with(front: int) -> None:
    """End the process when the pipe `front` has ended: as SIGTERM does, else at once."""
    while os.read(front, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
