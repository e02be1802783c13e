"""The dial by which a peer tries a port: real sockets on loopback; waits are for events."""

import pytest
import trio

from dipaco.node.network.outside import GREETING, dial_back


@pytest.mark.parametrize(
    ("says", "state"),
    [
        (GREETING, "answers"),
        (GREETING + b"more", "answers"),
        (b"SSH-2.0-x\r\n", "open"),
        (b"", "open"),
    ],
)
async def test_a_dial_tells_a_libp2p_node_from_another_program(says: bytes, state: str) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(len(GREETING))
        if says:
            await stream.send_all(says)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        port = listener.socket.getsockname()[1]
        assert await dial_back("127.0.0.1", port) == state
        nursery.cancel_scope.cancel()
    assert await dial_back("127.0.0.1", port) == "closed"
