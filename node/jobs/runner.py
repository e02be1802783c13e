"""The daemon's side of the worker process: start it, send it one job at a time, notice its death.

The meaning of the jobs is not known here, and torch is never imported. The process is started with
the first job, and again after it died. Cancelling `run` kills the process at once: so a lost lease
or a pause frees the GPU. When the daemon itself dies, the process reads the end of its stdin and
exits, so that no orphan stays.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import trio
from msgspec.structs import replace

from dipaco.node.jobs.frames import HEADER_BYTES, body_length, pack, read_report
from dipaco.node.jobs.settings import WorkerSettings, worker_environment
from dipaco.node.jobs.values import Answer, Describe, Described, Failed, Job, Progress
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import LocalProtocolError, NoDevice

MODULE = "dipaco.node.worker.process"
COMMAND = (sys.executable, "-P", "-m", MODULE)
"""-P: Python imports nothing from the working folder of the process."""
READ_BYTES = 1 << 16
MAX_LOG_LINE = 4096  # bytes; a longer line of the process is cut
EXIT_SECONDS = 2.0  # between the end of its output and its exit
MAX_REASON = 1024  # characters of a `Failed` for a process that died
KILLED = "was killed by the kernel: out of memory"


class JobRunner(Protocol):
    """Does jobs for the daemon: a `Worker`, a `Pool` of two, or a fake in tests."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the worker processes that there are now."""
        ...

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job`; a failure is returned as `Failed`. Cancelling ends the work at once."""
        ...

    async def close(self) -> None:
        """Free the memory and the GPU that an idle process still holds."""
        ...


class Worker:
    """One worker process, started when needed, that does one job at a time."""

    def __init__(
        self,
        settings: WorkerSettings,
        on_log: Callable[[str], None],
        *,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """`on_log` is called with each line that the process writes on stderr."""
        self._settings, self._command = settings, command
        self._log = _LineLog(on_log)
        self._lock = trio.Lock()
        self._process: trio.Process | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is no process."""
        return None if self._process is None else self._process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """That id, if there is one."""
        return () if self.pid is None else (self.pid,)

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Send `job` to the process and return its answer; several callers wait for each other.

        A failed job, or a process that dies in it, is a `Failed` and no exception. When the caller
        is cancelled, the process is killed; the next job starts a new one.
        """
        async with self._lock:
            finished = False
            try:
                try:
                    process, frames = await self._started(pack(job))
                except OSError as error:  # no descriptor, no memory, no more processes: for now
                    reason = (error.strerror or str(error)).lower()
                    return Failed(kind="local", reason=f"no worker process starts: {reason}")
                answer = await self._run(process, frames, on_progress)
                finished = True
                return answer
            finally:
                if not finished:
                    await self._kill()

    async def find_device(self) -> Described:
        """Return the device that the process trains on, and hold later processes to it.

        So `auto` chooses once, and a device that is lost later is missed, not replaced by another.
        Raises NoDevice, also for a torch that cannot be loaded.
        """
        match await self.run(Describe(), lambda progress: None):
            case Described() as found:
                compute = replace(self._settings.compute, device=found.device)
                self._settings = replace(self._settings, compute=compute)
                return found
            case Failed(reason=reason):
                await self.close()
                raise NoDevice(reason)
            case answer:
                raise LocalProtocolError(f"Describe is answered by {type(answer).__name__}")

    async def close(self) -> None:
        """Kill the process, if there is one, with the job that it does: frees memory and GPU.

        A caller that waits in `run` gets a `Failed`; a later job starts a new process.
        """
        if self._process is not None:
            self._closing = True
            self._process.kill()
        async with self._lock:  # only the holder of the lock may close the pipes
            await self._kill()

    async def _started(self, job: bytes) -> tuple[trio.Process, bytes]:
        """Return the process and the frames to send: the job, after the settings if it is new."""
        if self._process is not None and self._process.poll() is not None:
            await self._kill()  # it died while idle
        if self._process is not None:
            return self._process, job
        self._process = await trio.lowlevel.open_process(
            list(self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(self._settings.compute.torch_threads),
            cwd=Home.at(self._settings.folder).root,
        )
        return self._process, pack(self._settings) + job

    async def _run(
        self, process: trio.Process, frames: bytes, on_progress: Callable[[Progress], None]
    ) -> Answer:
        assert process.stdin is not None and process.stderr is not None
        answer: Answer | None = None
        broken = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log.copy, process.stderr)
            try:
                await process.stdin.send_all(frames)
                answer = await _read_answer(process, on_progress)
            except trio.BrokenResourceError:
                pass  # the process died before it had read the job
            except LocalProtocolError as error:
                broken = f"the worker process wrote a bad frame: {error}"
            nursery.cancel_scope.cancel()
        if answer is None:
            return await self._clean_up(process, broken)
        self._log.drain(process.stderr)
        return answer

    async def _clean_up(self, process: trio.Process, broken: str) -> Failed:
        """Kill a process that gave no answer; returns the failure with its reason."""
        with trio.move_on_after(0 if broken else EXIT_SECONDS):
            await process.wait()
        assert process.stderr is not None
        self._log.drain(process.stderr)
        if self._closing:
            broken = "this node ended the worker process"
        reason = broken or describe_death(process.poll(), self._log.last)
        await self._kill()
        return Failed(kind="local", reason=reason[:MAX_REASON])

    async def _kill(self) -> None:
        process, self._process, self._closing = self._process, None, False
        if process is None:
            return
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await pipe.aclose()


def describe_death(code: int | None, last_line: str) -> str:
    """Return in words why a worker process with exit code `code` (negative: a signal) ended.

    last_line   the last line that it wrote on stderr; empty: none.
    """
    if code is None:
        why = "closed its output and had to be killed"
    elif code == -signal.SIGKILL:
        why = f"{KILLED} (or another process sent SIGKILL)"
    elif code < 0:
        why = f"was ended by signal {signal.Signals(-code).name}"
    else:
        why = f"exited with code {code}"
    return f"the worker process {why}" + (f"; its last line: {last_line}" if last_line else "")


async def _read_answer(
    process: trio.Process, on_progress: Callable[[Progress], None]
) -> Answer | None:
    """Read reports until the answer; returns None when the process ends before it."""
    assert process.stdout is not None
    received = bytearray()
    while True:
        while (body := _take_frame(received)) is not None:
            report = read_report(body)
            if not isinstance(report, Progress):
                return report
            on_progress(report)
        chunk = await process.stdout.receive_some(READ_BYTES)
        if not chunk:
            return None
        received += chunk


def _take_frame(received: bytearray) -> bytes | None:
    """Remove the first whole frame from `received` and return its body; None without one."""
    if len(received) < HEADER_BYTES:
        return None
    end = HEADER_BYTES + body_length(received[:HEADER_BYTES])
    if len(received) < end:
        return None
    body = bytes(received[HEADER_BYTES:end])
    del received[:end]
    return body


class _LineLog:
    """Splits the stderr of the process into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self.last = ""

    async def copy(self, stderr: trio.abc.ReceiveStream) -> None:
        while chunk := await stderr.receive_some(READ_BYTES):
            self._feed(chunk)

    def drain(self, stderr: trio.abc.ReceiveStream) -> None:
        """Read all that is in the pipe now, without waiting for more."""
        assert isinstance(stderr, trio.lowlevel.FdStream)
        try:
            while chunk := os.read(stderr.fileno(), READ_BYTES):
                self._feed(chunk)
        except BlockingIOError:
            pass

    def _feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LOG_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            if text := line[:MAX_LOG_LINE].decode(errors="replace").rstrip():
                self.last = text
                self._on_line(text)
