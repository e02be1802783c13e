"""The limit on the device: no work while the one that is configured has never been seen.

A service may start before the driver of its GPU is loaded. Such a node waits for it and never falls
back to the CPU. A device that was seen, and is lost later, is the volunteer's matter: it tries it
again (`volunteer/pauses.py`).
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from dipaco.node.jobs.values import Described
from dipaco.node.limits.values import Closed, Observed
from dipaco.protocol.errors import NoDevice

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between two looks for the files of a driver
MOST_SECONDS = 300.0  # between two questions to torch: one takes some 3 s of the CPU
DEVICE_FILES = ("nvidiactl", "nvidia[0-9]*", "nvidia-uvm", "kfd", "dri/renderD*", "dxg")
"""Below /dev: what the drivers of NVIDIA, of AMD and of WSL make when they are loaded."""
Find = Callable[[], Awaitable[Described]]


@dataclass(frozen=True)
class DeviceLimit:
    """Forbids work until the device of the configuration is there."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return why the device cannot be used, or None."""
        if not seen.no_device:
            return None
        return Closed(
            code="no-device",
            why=f"no device yet: {seen.no_device}",
            opens=f"goes on when it is there, looks every {LOOK_SECONDS:.0f} s",
            by="need",
        )


async def _never() -> Described:
    raise NoDevice("nobody looks for it")


class Device:
    """The device that this node trains on, and the search for one that is not there yet."""

    def __init__(
        self,
        name: str = "cpu",
        words: str = "",
        *,
        missing: str = "",
        find: Find = _never,
        files: Path = Path("/dev"),
    ) -> None:
        """Begin with a device that was found, or with the reason why it is missing.

        name      as `cuda:0`, once it is found.
        words     for people; empty: nothing trains here.
        missing   why it was not found; empty: it was.
        find      asks torch in a process of its own; raises NoDevice.
        files     the folder in which drivers make files.
        """
        self.name, self.words, self.missing = name, words, missing
        self._find, self._files = find, files
        self._seen = self._driver_files()
        self._pause = LOOK_SECONDS
        self._look_at = self._ask_at = trio.current_time() + LOOK_SECONDS if missing else 0.0

    async def look(self) -> None:
        """Ask for a missing device, if the files of drivers have changed or it is time to."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        if not self.missing or now < self._look_at:
            return
        files, self._look_at = self._driver_files(), now + LOOK_SECONDS
        if files == self._seen and now < self._ask_at:
            return
        self._pause = LOOK_SECONDS if files != self._seen else min(MOST_SECONDS, 2 * self._pause)
        self._seen, self._ask_at = files, now + self._pause
        try:
            found = await self._find()
        except NoDevice as error:
            self.missing = str(error)
            return
        self.name, self.words, self.missing = found.device, str(found), ""
        log.info("the device is there: %s", found)

    def _driver_files(self) -> frozenset[str]:
        return frozenset(str(path) for part in DEVICE_FILES for path in self._files.glob(part))
