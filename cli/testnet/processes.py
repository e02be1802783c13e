"""The processes of a local network: starts, asks, kills and ends them.

Every node is `python -P -m dipaco.cli.member start ...` with its own home, on this machine. The
module does not know the run. The nodes are not in this program's process group, so a Ctrl-C
ends them through `LocalSwarm.close` alone, in order: volunteers first. Their stdin is one pipe, and
its end ends them when this program is killed.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil
import trio

from dipaco.node.api.client import ask_ledger, ask_status
from dipaco.node.api.values import LedgerView, NoDaemon
from dipaco.node.status.document import Status
from dipaco.protocol.errors import Unavailable

PYTHON = (sys.executable, "-P", "-m")  # -P: nothing from the working folder
COMMAND = (*PYTHON, "dipaco.cli.entry")
NODE = (*PYTHON, "dipaco.cli.member")
READY = "ready"
START_SECONDS = 120.0  # imports on a busy machine of two cores, five at once
LEAVE_SECONDS = 10.0  # for a daemon to end after its first signal
ASK_SECONDS = 10.0
LOG_NAME = "daemon.log"
MAX_LINE = 1 << 16  # bytes; a longer line is cut where it stands
TAIL_LINES = 20


class LocalNode:
    """One process."""

    def __init__(
        self, name: str, home: Path, command: Sequence[str], process: trio.Process
    ) -> None:
        self.name, self.home, self.command, self.process = name, home, command, process
        self.ready, self.finished = trio.Event(), trio.Event()
        """`finished`: the process has ended, and all its output has been read."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.last: Status | None = None
        self.killed = False
        self.left = False
        """Whether it was asked to leave."""
        self.frozen = False
        self.place = ""
        """The address that other nodes dial, without its PeerID."""
        self.starts = 1
        """The number of processes so far."""

    @property
    def running(self) -> bool:
        """Whether the process still runs; a frozen one does."""
        return self.process.returncode is None

    @property
    def answers(self) -> bool:
        """Whether the process can be asked."""
        return self.running and not (self.killed or self.frozen)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self.killed = True
        self.process.kill()

    def leave(self) -> None:
        """Ask it to hand back its lease and leave (SIGTERM)."""
        self.left = True
        self.process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it and its worker processes, as a closed lid does (SIGSTOP)."""
        self.frozen = True
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        if self.frozen:
            self._signal_all(signal.SIGCONT)
            self.frozen = False

    def _signal_all(self, number: signal.Signals) -> None:
        try:
            daemon = psutil.Process(self.process.pid)
            for each in (daemon, *daemon.children(recursive=True)):
                each.send_signal(number)
        except psutil.NoSuchProcess:
            pass  # it has ended: `running` says so

    @property
    def state(self) -> str:
        """Whether the process runs, in words."""
        if self.frozen:
            return "frozen"
        return "running" if self.running else f"ended with {self.process.returncode}"

    def exit_text(self) -> str:
        """Return the exit code and the last line of the process, as text."""
        last = self.tail[-1] if self.tail else "without output"
        return f"{self.name} ended with code {self.process.returncode}: {last}"


class LocalSwarm:
    """All processes of a local network; `close` ends them."""

    def __init__(
        self, environment: Mapping[str, str], on_line: Callable[[str, str], None] | None = None
    ) -> None:
        """Start no process yet.

        environment   added to this process's environment without its DIPACO_ variables.
        on_line       gets (node, line) of everything that a node prints.
        """
        self._on_line = on_line
        ours = {k: v for k, v in os.environ.items() if not k.startswith("DIPACO_")}
        self._environment = ours | dict(environment)
        self.nodes: list[LocalNode] = []
        members, front = os.pipe()  # the nodes read its end when this process has ended
        self._members, self._front = os.fdopen(members, "rb"), os.fdopen(front, "wb")

    async def start(
        self,
        nursery: trio.Nursery,
        name: str,
        home: Path,
        arguments: Sequence[str],
        within: Sequence[str] = (),
    ) -> LocalNode:
        """Start a node; its stderr goes to `home`/daemon.log. Raises Unavailable.

        within   the words of a command that runs the node's, and becomes it.
        """
        await trio.Path(home).mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [*within, *NODE, "start", "--home", str(home), *arguments]
        process = await self._open(name, command)
        node = LocalNode(name, home, command, process)
        self.nodes.append(node)
        nursery.start_soon(_follow, node, self._on_line)
        return node

    async def start_again(self, nursery: trio.Nursery, node: LocalNode) -> None:
        """Start an ended node in its home; raises Unavailable."""
        await node.process.wait()
        node.process = await self._open(node.name, node.command)
        node.ready, node.finished = trio.Event(), trio.Event()
        node.killed = node.left = node.frozen = False
        node.starts += 1
        nursery.start_soon(_follow, node, self._on_line)

    async def _open(self, name: str, command: Sequence[str]) -> trio.Process:
        try:
            return await trio.lowlevel.open_process(
                command,
                stdin=self._members,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:  # no descriptor, no memory, no more processes
            reason = (error.strerror or str(error)).lower()
            raise Unavailable(f"{name} cannot be started: {reason}") from None

    async def wait_ready(self, node: LocalNode) -> None:
        """Wait for the node's `ready` line; raises Unavailable if it ends or is too slow."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, node.process.wait, nursery.cancel_scope)
            nursery.start_soon(_cancel_when, node.ready.wait, nursery.cancel_scope)
            nursery.cancel_scope.deadline = trio.current_time() + START_SECONDS
        if not node.running:
            raise Unavailable(node.exit_text())
        if not node.ready.is_set():
            raise Unavailable(f"{node.name} is not ready after {START_SECONDS:.0f} s")

    async def statuses(self) -> dict[str, Status]:
        """Ask every running node; a node that ends or does not answer in time is left out."""
        async with trio.open_nursery() as nursery:
            asked = [node for node in self.nodes if node.answers]
            answers: dict[str, Status] = {}
            for node in asked:
                nursery.start_soon(_ask, node, answers)
        return {node.name: answers[node.name] for node in asked if node.name in answers}

    async def ledger(self, node: LocalNode) -> LedgerView:
        """Ask `node` for its state of the ledger."""
        ask = partial(ask_ledger, node.home, timeout=ASK_SECONDS)
        return await trio.to_thread.run_sync(ask)

    def ended(self) -> list[LocalNode]:
        """Return the nodes that ended though nobody killed them or asked them to leave."""
        return [node for node in self.nodes if not (node.running or node.killed or node.left)]

    async def close(self) -> None:
        """End all nodes, the first one last: by TERM, and by KILL if they take too long."""
        with trio.CancelScope(shield=True):
            volunteers, first = self.nodes[1:], self.nodes[:1]
            await _end(volunteers)
            await _end(first)
        self._members.close()
        self._front.close()


async def _end(nodes: Sequence[LocalNode]) -> None:
    for node in nodes:
        node.thaw()  # a stopped process heeds no signal but KILL
        if node.running:
            node.process.send_signal(signal.SIGTERM)
    with trio.move_on_after(LEAVE_SECONDS):
        for node in nodes:
            await node.process.wait()
    for node in nodes:
        if node.running:
            node.process.kill()
            await node.process.wait()


async def _cancel_when(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


async def _ask(node: LocalNode, answers: dict[str, Status]) -> None:
    try:
        ask = partial(ask_status, node.home, timeout=ASK_SECONDS)
        answers[node.name] = node.last = await trio.to_thread.run_sync(ask)
    except NoDaemon:
        pass  # `ended` detects its end, the watchdog its silence


async def _follow(node: LocalNode, on_line: Callable[[str, str], None] | None) -> None:
    """Copy stderr to the log, keep its last lines, and set `ready` at that line."""
    stderr, ready, finished = node.process.stderr, node.ready, node.finished
    assert stderr is not None
    pending = bytearray()
    with (node.home / LOG_NAME).open("ab", buffering=0) as log:
        async for part in stderr:
            log.write(part)
            pending += part
            *lines, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest[-MAX_LINE:])
            for line in (each[:MAX_LINE].decode("utf-8", "replace") for each in lines):
                if line.strip():
                    node.tail.append(line)
                if on_line is not None:
                    on_line(node.name, line)
                if line.startswith(READY):
                    ready.set()
    finished.set()
