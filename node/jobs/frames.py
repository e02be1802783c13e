"""Frames on the pipes between the daemon and its worker process: u32 length, canonical CBOR.

The first frame to the worker holds its settings, every later one a job.

Both ends are this program, so a bad frame is a bug (LocalProtocolError). Lengths are still checked
before anything is read: a stray write into a pipe must not make the other end allocate gigabytes.
"""

import struct

from dipaco.node.jobs.settings import WorkerSettings
from dipaco.node.jobs.values import Answer, Job, Progress
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode

HEADER_BYTES = 4
MAX_FRAME = 16 << 20  # bytes; the largest job: a manifest of 1 MB, two specs of 1 MB


def pack(value: Wire) -> bytes:
    """Return `value` as one frame; raises LocalProtocolError above MAX_FRAME."""
    body = encode(value)
    if len(body) > MAX_FRAME:
        raise LocalProtocolError(f"a frame of {len(body)} bytes where {MAX_FRAME} are allowed")
    return struct.pack("<I", len(body)) + body


def body_length(header: bytes | bytearray) -> int:
    """Return the length of a body from its frame's 4-byte header; raises LocalProtocolError."""
    length: int = struct.unpack("<I", header)[0]
    if length > MAX_FRAME:
        raise LocalProtocolError(f"a frame of {length} bytes where {MAX_FRAME} are allowed")
    return length


def read_settings(body: bytes) -> WorkerSettings:
    """Return the worker's settings in a frame's body; raises LocalProtocolError."""
    try:
        return decode(body, WorkerSettings, limit=MAX_FRAME)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"not a worker's settings: {error}") from error


def read_job(body: bytes) -> Job:
    """Return the job in a frame's body; raises LocalProtocolError."""
    try:
        return decode(body, Job, limit=MAX_FRAME)  # type: ignore[arg-type]
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"not a job: {error}") from error


def read_report(body: bytes) -> Progress | Answer:
    """Return the progress or answer in a frame's body; raises LocalProtocolError."""
    try:
        return decode(body, Progress | Answer, limit=MAX_FRAME)  # type: ignore[arg-type]
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"not a worker's answer: {error}") from error
