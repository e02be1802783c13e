"""Reading properties from a bus: a small bus of the test answers on a real socket."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from jeepney import MessageType, new_error, new_method_return
from jeepney.low_level import Parser

from dipaco.node.limits.bus import SystemBus
from dipaco.node.limits.in_use import idle_seconds
from dipaco.node.limits.metered import is_metered

Properties = dict[str, tuple[str, Any]]


@asynccontextmanager
async def bus(folder: Path, serve: Callable[..., Any], *args: Any) -> AsyncIterator[SystemBus]:
    path = folder / "bus"
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(path))
        listening.listen()
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(listening)
            nursery.start_soon(trio.serve_listeners, partial(serve, *args), [listener])
            yield SystemBus(path)
            nursery.cancel_scope.cancel()


async def speak(properties: Properties, stream: trio.SocketStream) -> None:
    """Serve one client as a bus does: authentication, a greeting, and calls of Get."""
    await stream.receive_some()
    await stream.send_all(b"OK 1234deadbeef\r\n")
    said = b""
    while b"BEGIN\r\n" not in said:
        said += await stream.receive_some()
    parser = Parser()
    parser.add_data(said.partition(b"BEGIN\r\n")[2])
    while True:
        while (message := parser.get_next_message()) is not None:
            await stream.send_all(_reply(message, properties).serialise(serial=1))
        if not (received := await stream.receive_some()):
            return
        parser.add_data(received)


def _reply(message: Any, properties: Properties) -> Any:
    assert message.header.message_type is MessageType.method_call
    if message.body == ():
        return new_method_return(message, "s", (":1.1",))
    if message.body[1] not in properties:
        return new_error(message, "org.freedesktop.DBus.Error.ServiceUnknown")
    return new_method_return(message, "v", (properties[message.body[1]],))


async def refuse(stream: trio.SocketStream) -> None:
    await stream.send_all(b"REJECTED EXTERNAL\r\n")
    await stream.aclose()


async def babble(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"OK 1234\r\n")
    await stream.receive_some()
    await stream.send_all(b"\xff" * 64)


@pytest.mark.parametrize(
    ("hint", "since", "found"),
    [(False, 5_000_000, 0.0), (True, 940_000_000, 60.0), (True, 0, 1000.0)],
)
async def test_logind_tells_since_when_nobody_uses_the_machine(
    hint: bool, since: int, found: float, tmp_path: Path
) -> None:
    properties: Properties = {"IdleHint": ("b", hint), "IdleSinceHint": ("t", since)}
    async with bus(tmp_path, speak, properties) as system:
        assert await idle_seconds(system, 1000.0) == found


@pytest.mark.parametrize(
    ("answer", "found"), [(0, None), (1, True), (2, False), (3, True), (4, False)]
)
async def test_network_manager_tells_whether_the_connection_is_metered(
    answer: int, found: bool | None, tmp_path: Path
) -> None:
    async with bus(tmp_path, speak, {"Metered": ("u", answer)}) as system:
        assert await is_metered(system) is found


@pytest.mark.parametrize("serve", [partial(speak, {}), refuse, babble])
async def test_a_bus_that_does_not_tell_leaves_it_unknown(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    async with bus(tmp_path, serve) as system:
        assert await idle_seconds(system, 1000.0) == "unknown"
        assert await is_metered(system) is None


def test_the_environment_may_name_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/tmp/a,guid=1")
    assert SystemBus()._path == Path("/tmp/a")


async def test_so_does_a_machine_without_a_bus(tmp_path: Path) -> None:
    absent = SystemBus(tmp_path / "none")
    assert await idle_seconds(absent, 1000.0) == "unknown"
    assert await is_metered(absent) is None
