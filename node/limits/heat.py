"""The limit on heat: no work above a temperature, and again some way below it.

The temperature of a GPU is asked from `nvidia-smi`, a process of its own: so the daemon never holds
the driver open.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from dipaco.node.limits.values import Closed, Observed

MARGIN_C = 5  # degrees below the limit at which work goes on
QUERY = ("nvidia-smi", "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
QUERY_SECONDS = 5.0  # a driver that answers takes well below one
MONITORS = Path("/sys/class/hwmon")
CPU_MONITORS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal"})


@dataclass(frozen=True)
class HeatLimit:
    """Forbids work while the device that trains is hot."""

    most: int
    """`compute.max_temp_c`, degrees Celsius."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return the temperature, or None."""
        goes_on = self.most - MARGIN_C
        if seen.celsius is None or seen.celsius <= (goes_on if before else self.most):
            return None
        return Closed(
            code="hot",
            why=f"{seen.celsius:.0f} C, limit {self.most}",
            opens=f"goes on at {goes_on} C",
        )


async def gpu_celsius(device: str, command: tuple[str, ...] = QUERY) -> float | None:
    """Return the temperature of the GPU `cuda:N`; None: the driver does not tell it."""
    number = device.partition(":")[2] or "0"
    with trio.move_on_after(QUERY_SECONDS), suppress(OSError):
        done = await trio.run_process(
            [*command, f"--id={number}"], capture_stdout=True, capture_stderr=True, check=False
        )
        with suppress(ValueError):
            return float(done.stdout.decode(errors="replace").strip())
    return None


def cpu_celsius(monitors: Path = MONITORS) -> float | None:
    """Return the temperature of the hottest sensor of the CPU; None: there is none."""
    return max(_sensors(monitors), default=None)


def _sensors(monitors: Path) -> Iterator[float]:
    """Yield the temperature of every sensor of a CPU; the kernel tells thousandths of a degree."""
    for monitor in monitors.glob("hwmon*"):
        with suppress(OSError, ValueError):
            if (monitor / "name").read_text().strip() not in CPU_MONITORS:
                continue
            for sensor in monitor.glob("temp*_input"):
                yield int(sensor.read_text()) / 1000
