"""The search for a device that is not there yet: virtual time; the drivers' files are a folder."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.jobs.values import Described
from dipaco.node.limits.device import LOOK_SECONDS, MOST_SECONDS, Device, DeviceLimit
from dipaco.node.limits.values import Observed
from dipaco.protocol.errors import NoDevice

GPU = Described(device="cuda:0", name="Card 9", driver="CUDA 13.0", memory=8, usable=7)
MISSING = "device cuda:0: this torch sees no CUDA device"


class Driver:
    """A driver that may be loaded later, and the questions to torch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.works = folder, 0, False

    async def find(self) -> Described:
        self.asked += 1
        if not self.works:
            raise NoDevice(MISSING)
        return GPU

    def device(self) -> Device:
        return Device(missing=MISSING, find=self.find, files=self.folder)


async def look_for(device: Device, seconds: float) -> None:
    """Look as often as a gate does."""
    for _ in range(round(seconds / 5)):
        await device.look()
        await trio.sleep(5.0)


async def test_a_device_that_is_missing_is_asked_for_ever_more_seldom(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    driver = Driver(tmp_path)
    device = driver.device()
    await look_for(device, 3600.0)
    doubling = 5  # 10, 20, 40, 80, 160 s
    assert doubling < driver.asked <= doubling + 3600 / MOST_SECONDS
    closed = DeviceLimit().closed(Observed(no_device=device.missing), 0.0, before=False)
    assert closed is not None and closed.by == "need"
    assert str(closed) == f"no device yet: {MISSING}; goes on when it is there, looks every 10 s"


@pytest.mark.parametrize("name", ["nvidiactl", "kfd", "dxg"])
async def test_a_driver_that_is_loaded_is_noticed_at_the_next_look(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    driver = Driver(tmp_path)
    device = driver.device()
    await look_for(device, 3600.0)
    before, driver.works = driver.asked, True
    await look_for(device, LOOK_SECONDS)
    assert driver.asked == before and device.missing
    (tmp_path / name).touch()
    await look_for(device, LOOK_SECONDS)
    assert driver.asked == before + 1 and (device.name, device.missing) == ("cuda:0", "")
    assert DeviceLimit().closed(Observed(no_device=""), 0.0, before=True) is None
    await look_for(device, 3600.0)
    assert driver.asked == before + 1
