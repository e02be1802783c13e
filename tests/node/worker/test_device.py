"""The device of a real worker process: missing, unusable, or chosen once. torch is not loaded."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from dipaco.node.config import ComputeSection
from dipaco.node.daemon import run_daemon
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.values import Describe, Described
from dipaco.node.live_config import LiveConfig
from dipaco.node.settings import Sources
from dipaco.node.status.activity import Activity
from dipaco.node.status.document import Reason
from dipaco.node.stay import Stay
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import NoDevice
from tests.settings import settings
from tests.values import peer

BROKEN = 'raise OSError("libtorch_cpu.so: cannot open shared object file")'
PATIENCE = 180  # seconds until a test that waits for a process gives up
ECHO = """
import os, sys
from dipaco.node.jobs.frames import HEADER_BYTES, body_length, pack, read_settings
from dipaco.node.jobs.values import Described
pipe = sys.stdin.buffer
def frame():
    header = pipe.read(HEADER_BYTES)
    return pipe.read(body_length(header)) if header else os._exit(0)
asked = read_settings(frame()).compute.device
found = Described(device="cuda:0", name=asked, driver="", memory=1, usable=1)
while frame():
    sys.stdout.buffer.write(pack(found))
    sys.stdout.buffer.flush()
"""
"""A worker process that finds cuda:0, and says what it was asked for."""


@pytest.fixture
def broken_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "torch.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    yield


@pytest.mark.usefixtures("broken_torch")
async def test_a_torch_that_cannot_be_loaded_is_no_device(tmp_path: Path) -> None:
    made = Worker(settings(tmp_path / "home"), lambda line: None)
    with trio.fail_after(PATIENCE):
        with pytest.raises(NoDevice, match=r"torch cannot be loaded: libtorch_cpu\.so"):
            await made.find_device()
    assert made.pid is None


@pytest.mark.usefixtures("broken_torch")
async def test_a_trial_without_a_device_ends_before_it_joins(tmp_path: Path) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/9/p2p/{peer('nobody')}"
    live = LiveConfig(Sources(home=tmp_path / "home", flags={"node.bootstrap": [nobody]}))
    said: list[str] = []
    missing = pytest.RaisesExc(NoDevice, match="torch cannot be loaded")
    with trio.fail_after(PATIENCE), pytest.RaisesGroup(missing, flatten_subgroups=True):
        await run_daemon(live, said.append, Stay(tasks=1))
    assert said == [] and not Home.at(live.config.home).identity.exists()


@pytest.mark.usefixtures("broken_torch")
async def test_a_daemon_without_a_device_joins_and_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"node.listen": ["/ip4/127.0.0.1/tcp/0"], "ui.listen": ""}
    live = LiveConfig(Sources(home=tmp_path / "home", flags=flags))
    said, waits = list[str](), trio.Event()
    tell = Activity.pause

    def pause(activity: Activity, *reasons: Reason) -> None:
        tell(activity, *reasons)
        if reasons[0].code == "no-device":
            waits.set()

    monkeypatch.setattr(Activity, "pause", pause)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_daemon, live, said.append)
            await waits.wait()
            nursery.cancel_scope.cancel()
    assert said[1].startswith("device   none yet: torch cannot be loaded")
    assert said[1].endswith("looks every 10 s") and said[3].startswith("ready")


async def test_auto_chooses_once_and_never_another_device_afterwards(tmp_path: Path) -> None:
    auto = replace(settings(tmp_path), compute=ComputeSection(device="auto"))
    made = Worker(auto, lambda line: None, command=(sys.executable, "-c", ECHO))
    with trio.fail_after(PATIENCE):
        assert (await made.find_device()).name == "auto"
        await made.close()
        again = await made.run(Describe(), lambda progress: None)
        await made.close()
    assert isinstance(again, Described) and again.name == "cuda:0"
