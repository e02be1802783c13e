"""The worker process: it reads settings and jobs from stdin, and writes progress and answers.

    python -P -m dipaco.node.worker.process

`jobs.runner.Worker` starts it and sends its settings in the first frame. It exits when its stdin
ends, even during a job, so that a daemon that is killed leaves no orphan. Errors raised on purpose
become a `Failed`. A bug ends the process with its traceback on stderr, which the daemon logs and
reports.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TypeVar

import psutil

from dipaco.node.jobs.frames import HEADER_BYTES, body_length, pack, read_job, read_settings
from dipaco.node.jobs.values import Answer, Failed, FailureKind, Job, Progress
from dipaco.node.storage.files import DiskFull
from dipaco.node.worker.performer import Performer
from dipaco.protocol.errors import (
    DipacoError,
    LocalProtocolError,
    NoDevice,
    Refusal,
    Unavailable,
)

MAX_REASON = 4096  # characters of a `Failed`
REPORT_SECONDS = 0.25  # between two progress reports of one stage

T = TypeVar("T")


def main() -> None:
    """Serve jobs until stdin ends."""
    answers, pipe = protect_stdout(), sys.stdin.fileno()
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to daemon and worker
        signal.signal(number, signal.SIG_IGN)  # the daemon handles them
    settings = receive(pipe, read_settings)
    os.nice(settings.compute.nice)
    yield_disk()
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=read_jobs, args=(pipe, jobs), daemon=True).start()
    performer = Performer(settings, whole_home=True)
    while True:
        answer = perform(performer, jobs.get(), Throttle(send_to(answers), time.monotonic))
        send_to(answers)(answer)


def yield_disk() -> None:
    """Read and write only while nobody else uses the disk, where the system has such a class."""
    if sys.platform == "linux":
        with suppress(psutil.Error, OSError):  # a container may forbid it
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def protect_stdout() -> BinaryIO:
    """Return the pipe of the answers, and redirect stdout to stderr for all other code.

    The output of a library that prints, in Python or in C, would corrupt the frames.
    """
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(own, "wb")


def read_jobs(pipe: int, jobs: "queue.SimpleQueue[Job]") -> None:
    """Queue every job from the descriptor `pipe`, until `receive` ends the process."""
    while True:
        jobs.put(receive(pipe, read_job))


def receive(pipe: int, read: Callable[[bytes], T]) -> T:
    """Return the next frame, decoded by `read`; exits at the end of `pipe`, or at a bad frame."""
    try:
        header = _read(pipe, HEADER_BYTES)
        return read(_read(pipe, body_length(header)))
    except EOFError:
        os._exit(0)
    except LocalProtocolError as error:
        print(f"worker process: {error}", file=sys.stderr, flush=True)
        os._exit(2)


def _read(pipe: int, count: int) -> bytes:
    """Read `count` bytes; raises EOFError when the pipe ends before them.

    A buffered file cannot be used: a waiting thread holds its lock, and Python then aborts when a
    bug ends the main thread.
    """
    data = bytearray()
    while len(data) < count:
        chunk = os.read(pipe, count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def perform(performer: Performer, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
    """Do one job; an error raised on purpose becomes a `Failed`."""
    try:
        return performer.perform(job, on_progress)
    except Refusal as error:
        return _failed("refused", error)
    except DiskFull as error:
        return _failed("disk", error)
    except Unavailable as error:
        return _failed("unavailable", error)
    except NoDevice as error:
        return _failed("device", error)
    except DipacoError as error:
        return _failed("local", error)


def send_to(pipe: BinaryIO) -> Callable[[Progress | Answer], None]:
    """Return a function that writes one frame to `pipe` and flushes it."""

    def send(value: Progress | Answer) -> None:
        pipe.write(pack(value))
        pipe.flush()

    return send


class Throttle:
    """Passes on the first and the last report of a stage, and a few a second in between."""

    def __init__(self, send: Callable[[Progress], None], now: Callable[[], float]) -> None:
        """now: returns seconds of a monotonic clock."""
        self._send, self._now = send, now
        self._stage, self._next = "", 0.0

    def __call__(self, progress: Progress) -> None:
        """Send `progress`, or drop it."""
        now, last = self._now(), progress.total and progress.done >= progress.total
        if progress.stage != self._stage or last or now >= self._next:
            self._stage, self._next = progress.stage, now + REPORT_SECONDS
            self._send(progress)


def _failed(kind: FailureKind, error: DipacoError) -> Failed:
    return Failed(kind=kind, reason=str(error)[:MAX_REASON])


if __name__ == "__main__":
    main()
