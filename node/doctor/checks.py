"""Checks of this machine before a node starts. Each ends with ok, warn or fail, and a cure.

They change nothing, and send nothing but a greeting to the seeds. A worker process describes the
device, so that a driver that crashes does not end the command (`cli/commands/doctor.py`).
"""

import os
import platform
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil

from dipaco.node.config import NodeConfig
from dipaco.node.descriptors import raise_limit, shortage
from dipaco.node.doctor import container, surroundings
from dipaco.node.doctor.check import Check
from dipaco.node.jobs.values import Answer, Described, Failed
from dipaco.node.limits.disk import free_bytes
from dipaco.node.storage.files import Home
from dipaco.protocol.numbers import count, size, span
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.address import Address

PACKAGE = "dipaco-node"
LIBP2P = "0.8.1"  # the version that node/network/shims.py repairs
SHOWN = ("torch", "libp2p", "numpy")  # libraries whose versions are printed
PYTHON = (3, 11)
LEAST_MEMORY = 1 << 30  # bytes for daemon and worker, beside the model
DAY = 86400.0
FUTURE_SECONDS = 60.0  # by which a file may be ahead of the clock


def checks(config: NodeConfig, *, daemon: int | None) -> Iterator[Check]:
    """Check everything but the device.

    daemon   process id of the daemon that runs in this home and holds its port, if there is one.
    """
    yield python(sys.version_info[:2])
    yield libraries()
    yield home(config.home, daemon)
    yield disk(free_bytes(existing(config.home)), config.storage.min_free, config.storage.cache_max)
    memory = psutil.virtual_memory()
    yield ram(memory.total, memory.available)
    yield container.cpu(config.compute.torch_threads, os.cpu_count() or 1, container.granted())
    yield container.memory(memory.total, container.granted())
    if sys.platform == "linux":
        yield container.shared_memory(container.SHARED)
        yield surroundings.file_system(existing(config.home))
        yield surroundings.driver()
    yield clock(time.time(), Path(__file__).stat().st_mtime, _written(config.home))
    yield descriptors(raise_limit())
    for address in config.node.listen:
        yield port(address, daemon)
    yield surroundings.nat(surroundings.own_addresses())
    yield bootstrap(config)
    for seed in config.seeds:
        yield surroundings.seed(seed)


def python(running: tuple[int, ...]) -> Check:
    """Check the interpreter's version."""
    words = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if running >= PYTHON:
        return Check(name="python", verdict="ok", words=words)
    return Check(name="python", verdict="fail", words=words, cure="install Python 3.11 or newer")


def libraries() -> Check:
    """Check that all required libraries are installed, and libp2p in the repaired version."""
    try:
        wanted = [line for line in requires(PACKAGE) or () if "extra ==" not in line]
    except PackageNotFoundError:  # run from a folder
        wanted = list(SHOWN)
    found = {name: _version(name) for name in map(_name, wanted)}
    missing = sorted(name for name, installed in found.items() if installed is None)
    words = ", ".join(f"{name} {found[name]}" for name in SHOWN if found.get(name))
    if missing:
        words, cure = f"missing: {', '.join(missing)}", "run `make`, or pip install them"
        return Check(name="libraries", verdict="fail", words=words, cure=cure)
    if found.get("libp2p") != LIBP2P:
        cure = f"pip install libp2p=={LIBP2P}: this program repairs that version only"
        return Check(name="libraries", verdict="fail", words=words, cure=cure)
    return Check(name="libraries", verdict="ok", words=words)


def _name(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if c in "<>=!~ ;[("), len(requirement))
    return requirement[:end]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def existing(folder: Path) -> Path:
    """Return `folder`, or the nearest folder above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def home(folder: Path, daemon: int | None) -> Check:
    """Check that the home can be used, or made."""
    words, at = str(folder), existing(folder)
    if not at.is_dir() or not os.access(at, os.R_OK | os.W_OK | os.X_OK):
        cure = f"make {at} a folder that you may write, or choose another --home"
        return Check(name="home", verdict="fail", words=f"{words} cannot be used", cure=cure)
    if at != folder:
        words += ", made at the first start"
    elif daemon is not None:
        words += f", held by the running daemon (process {daemon})"
    return Check(name="home", verdict="ok", words=words)


def disk(free: int, least: int, cache: int) -> Check:
    """Compare the free space on the home's disk with the configuration's limits, in bytes."""
    words = f"{size(free)} free"
    if free < least:
        cure = f"free some space, or lower storage.min_free ({size(least)}): no work runs"
        return Check(name="disk", verdict="fail", words=words, cure=cure)
    if free < least + cache:
        cure = f"lower storage.cache_max ({size(cache)}), or a full cache will stop the work"
        return Check(name="disk", verdict="warn", words=words, cure=cure)
    return Check(name="disk", verdict="ok", words=words)


def ram(total: int, available: int) -> Check:
    """Check the memory of the machine; `--fit` measures the need of a model."""
    words = f"{size(available)} of {size(total)} free"
    if available < LEAST_MEMORY:
        cure = "close other programs: daemon and worker need 1 GB beside the model"
        return Check(name="memory", verdict="warn", words=words, cure=cure)
    return Check(name="memory", verdict="ok", words=words)


def descriptors(limit: int) -> Check:
    """Check how many files a process may open at once."""
    if few := shortage(limit):
        cure = "raise the limit: `ulimit -n 4096`, or LimitNOFILE= of a service"
        return Check(name="files", verdict="warn", words=few.partition(":")[0], cure=cure)
    return Check(name="files", verdict="ok", words=f"{limit} may be open at once")


def clock(now: float, installed: float, written: float) -> Check:
    """Check that the clock has not gone backwards; times are Unix seconds.

    installed   the time at which this program's files were written.
    written     the time at which the home's journal was last written.
    """
    words = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    cure = "set the clock (for example with NTP): certificates, leases and records depend on it"
    if now < installed - DAY:
        words += ", before this program was installed"
        return Check(name="clock", verdict="fail", words=words, cure=cure)
    if written > now + FUTURE_SECONDS:
        words += f", {span(written - now)} before this home was last written"
        return Check(name="clock", verdict="warn", words=words, cure=cure)
    return Check(name="clock", verdict="ok", words=words)


def _written(folder: Path) -> float:
    journal = Home(folder).journal
    return journal.stat().st_mtime if journal.exists() else 0.0


def port(address: Address, daemon: int | None) -> Check:
    """Listen on an address of this machine for a moment."""
    cure = "end the other program, or set node.listen to another port (0: any free one)"
    if daemon is not None:
        return Check(name="port", verdict="ok", words=f"{address}, held by the running daemon")
    family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:  # taken or forbidden
        reason = error.strerror or str(error)
        return Check(name="port", verdict="fail", words=f"{address}: {reason}", cure=cure)
    return Check(name="port", verdict="ok", words=f"{address} is free")


def bootstrap(config: NodeConfig) -> Check:
    """Check that there is a peer to dial."""
    if config.seeds:
        words = f"{count(len(config.seeds), 'peer')} to dial first"
        return Check(name="peers", verdict="ok", words=words)
    if config.node.rendezvous:
        return Check(name="peers", verdict="ok", words="none: this node founds a network")
    cure = "join a run by its code (dipaco-node join CODE), or start with --bootstrap ADDR"
    return Check(name="peers", verdict="warn", words="no peer to dial", cure=cure)


def source(manifest: Manifest, *, local_sources: bool) -> Check:
    """Check that a run's documents can be read, as far as this shows without the network."""
    from dipaco.node.data.sources.dispatch import reachable
    from dipaco.node.data.sources.interface import Access

    reach = reachable(manifest.source, Access(local_sources=local_sources))
    verdict: Literal["ok", "fail"] = "fail" if reach.cure else "ok"
    return Check(name="source", verdict=verdict, words=reach.words, cure=reach.cure)


def device(answer: Answer, wish: str) -> Check:
    """Judge the worker's description of the device.

    wish   the configuration's `compute.device`.
    """
    if isinstance(answer, Failed):
        cure = "set compute.device; a GPU needs its driver, and a torch that is built for it"
        return Check(name="device", verdict="fail", words=answer.reason, cure=cure)
    assert isinstance(answer, Described)
    if answer.device == "cpu" and wish == "auto":
        cure = "a GPU needs its driver, and a torch that is built for it; without a GPU do nothing"
        words = f"{answer}; no GPU was found"
        return Check(name="device", verdict="warn", words=words, cure=cure)
    return Check(name="device", verdict="ok", words=str(answer))
