"""Properties of services of the system: read from the D-Bus of this machine, one call at a time."""

import logging
import os
import struct
from pathlib import Path
from typing import Any, Protocol

import trio

log = logging.getLogger(__name__)

ADDRESS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
DEFAULT_PATH = "/run/dbus/system_bus_socket"
CALL_SECONDS = 2.0  # a service that must be started first answers within one
FAULTS = (
    *(OSError, trio.BrokenResourceError, trio.EndOfChannel),
    *(ValueError, LookupError, struct.error),
)
"""Of a bus that is not there, refuses this user or ends meanwhile; and of a message that is none.
"""


class Bus(Protocol):
    """Where properties are read."""

    async def read(self, name: str, path: str, interface: str, value: str) -> Any:
        """Return a property of the service `name`; None: nobody answers."""
        ...


class SystemBus:
    """The system bus; a connection is made for each reading, and none is held between them."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is that of the bus's socket [as the environment names it, else the usual one]."""
        named = os.environ.get(ADDRESS_VARIABLE, "").partition("unix:path=")[2].partition(",")[0]
        self._path = path or Path(named or DEFAULT_PATH)

    async def read(self, name: str, path: str, interface: str, value: str) -> Any:
        """Return a property of the service `name`; None: nobody answers."""
        await trio.lowlevel.checkpoint()
        if not self._path.exists():
            return None
        # Imported here: a node without these limits, or without a bus, needs none of it.
        from jeepney import DBusAddress, Properties

        ask = Properties(DBusAddress(path, bus_name=name, interface=interface)).get(value)
        try:
            with trio.move_on_after(CALL_SECONDS):
                async with await trio.open_unix_socket(str(self._path)) as stream:
                    return await _answer(stream, ask)
        except FAULTS as fault:
            log.debug("D-Bus, %s of %s: %r", value, name, fault)
        return None


async def _answer(stream: trio.SocketStream, ask: Any) -> Any:
    """Log in as the user of this process, and return the value of a property; None: an error."""
    from jeepney import message_bus
    from jeepney.auth import BEGIN, Authenticator
    from jeepney.low_level import Parser

    login, parser = Authenticator(inc_null_byte=False), Parser()
    await stream.send_all(b"\0")
    for line in login:
        await stream.send_all(line)
        login.feed(await _received(stream))
    await stream.send_all(BEGIN)
    await _call(stream, parser, message_bus.Hello(), 1)
    reply = await _call(stream, parser, ask, 2)
    return None if reply is None else reply[0][1]


async def _call(stream: trio.SocketStream, parser: Any, call: Any, serial: int) -> Any:
    """Return the body of the reply to a call; None: it is an error."""
    from jeepney import HeaderFields, MessageType

    await stream.send_all(call.serialise(serial=serial))
    while True:
        while (message := parser.get_next_message()) is None:
            parser.add_data(await _received(stream))
        if message.header.fields.get(HeaderFields.reply_serial) == serial:
            good = message.header.message_type is MessageType.method_return
            return message.body if good else None


async def _received(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some()
    if not data:
        raise trio.EndOfChannel("the bus ended the connection")
    return bytes(data)
