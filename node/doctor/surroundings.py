"""What is around a node: its disk's kind, the driver, its line to the world, and its seeds."""

import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil

from dipaco.node.doctor.check import Check
from dipaco.node.network.outside import GREETING
from dipaco.protocol.wire.address import Address

MOUNTS = Path("/proc/mounts")
DEVICES = Path("/sys/bus/pci/devices")
NVIDIA = Path("/proc/driver/nvidia/version")
AMD = Path("/dev/kfd")
NETWORK_DISKS = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs"}
)
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD"}
DISPLAY = "0x03"  # the class of devices that draw or compute
CARRIER = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598: shared by the customers of a provider
ANSWER_SECONDS = 3.0  # for a seed to greet


def file_system(folder: Path, mounts: Path = MOUNTS) -> Check:
    """Check that a home is on a disk of this machine."""
    try:
        table = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return Check(name="home disk", verdict="ok", words="its kind is not known here")
    real = os.path.realpath(folder)
    points = [(_plain(words[1]), words[2]) for words in table if len(words) > 2]
    holding = [(point, kind) for point, kind in points if Path(real).is_relative_to(point)]
    point, kind = max(holding, key=lambda each: len(each[0]), default=("/", "unknown"))
    words = f"{kind} on {point}"
    if kind in NETWORK_DISKS:
        cure = "choose a --home on a disk of this machine: the journal needs its locks"
        return Check(name="home disk", verdict="warn", words=words, cure=cure)
    return Check(name="home disk", verdict="ok", words=words)


def _plain(point: str) -> str:
    """Return a mount point without the escapes of /proc/mounts."""
    return point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def driver(devices: Path = DEVICES, nvidia: Path = NVIDIA, amd: Path = AMD) -> Check:
    """Check that a GPU which is plugged in has its driver."""
    found = sorted({VENDORS[each] for each in _display_vendors(devices) if each in VENDORS})
    loaded = {"NVIDIA": nvidia.exists(), "AMD": amd.exists()}
    missing = [name for name in found if not loaded[name]]
    if missing:
        words = f"a GPU of {' and '.join(missing)} without its driver"
        cure = "install the driver and start the computer again, or set compute.device to cpu"
        return Check(name="driver", verdict="warn", words=words, cure=cure)
    if loaded["NVIDIA"]:
        return Check(name="driver", verdict="ok", words=_nvidia_version(nvidia))
    return Check(name="driver", verdict="ok", words=f"{', '.join(found) or 'no GPU'}")


def _display_vendors(devices: Path) -> list[str]:
    """Return the vendors of the devices that draw or compute."""
    found = []
    for each in devices.glob("*"):
        try:
            if (each / "class").read_text().startswith(DISPLAY):
                found.append((each / "vendor").read_text().strip())
        except OSError:  # it was just unplugged
            continue
    return found


def _nvidia_version(file: Path) -> str:
    words = file.read_text().split()
    version = next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    return f"NVIDIA {version}"


def own_addresses() -> list[str]:
    """Return the IP addresses of this machine's interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    table = psutil.net_if_addrs().values()
    return [
        each.address.partition("%")[0] for row in table for each in row if each.family in families
    ]


def nat(addresses: Iterable[str]) -> Check:
    """Tell how others can reach this machine, as far as its own addresses show it."""
    found = [ipaddress.ip_address(each) for each in addresses]
    if any(each.version == 4 and each in CARRIER for each in found):
        words = "behind the NAT of a provider (100.64.0.0/10): nobody can dial this machine"
        cure = "nothing to do: a node that only dials out is a full member"
        return Check(name="nat", verdict="warn", words=words, cure=cure)
    world = [str(each) for each in found if each.is_global]
    if world:
        return Check(name="nat", verdict="ok", words=f"none: {', '.join(world[:2])}")
    if any(each.is_private and not each.is_loopback for each in found):
        words = "behind a NAT: private addresses alone; a node that dials out is a full member"
        return Check(name="nat", verdict="ok", words=words)
    cure = "connect this computer to a network"
    return Check(name="nat", verdict="warn", words="no network", cure=cure)


def seed(address: Address, *, timeout: float = ANSWER_SECONDS) -> Check:
    """Dial a seed and wait for the first bytes of libp2p; nothing more is sent."""
    begun = time.monotonic()
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout) as line:
            line.settimeout(timeout)
            line.sendall(GREETING)
            heard = line.recv(len(GREETING))
    except OSError as error:  # refused, silent, an unknown name
        return _silent(address, (error.strerror or str(error) or "no answer").lower(), "warn")
    if heard != GREETING:
        return _silent(address, "no libp2p node answers there", "fail")
    took = (time.monotonic() - begun) * 1000
    return Check(name="seed", verdict="ok", words=f"{address.host}:{address.port}, {took:.0f} ms")


def _silent(address: Address, reason: str, verdict: Literal["warn", "fail"]) -> Check:
    cure = "compare the address with the one that its node prints; a node tries again by itself"
    words = f"{address.host}:{address.port}: {reason}"
    return Check(name="seed", verdict=verdict, words=words, cure=cure)
