"""A client of the local API that asks at an even rate: `python -m benchmarks.asker COUNT SECONDS`.

It imports no more than `dipaco-node status` does. For every home that a line of stdin names it asks
for COUNT statuses within SECONDS, and prints one line with the time of each, in ms.
"""

import sys
import time
from pathlib import Path

from dipaco.node.api.client import ask_status


def ask(home: Path, count: int, seconds: float) -> list[float]:
    """Ask for `count` statuses in `seconds`; returns the time of each, ms."""
    took, begun = [], time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number * seconds / count - time.monotonic()))
        asked = time.perf_counter()
        ask_status(home, timeout=30.0)
        took.append(1000 * (time.perf_counter() - asked))
    return took


if __name__ == "__main__":
    for line in sys.stdin:
        print(*ask(Path(line.rstrip("\n")), int(sys.argv[1]), float(sys.argv[2])), flush=True)
