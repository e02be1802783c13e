"""What this program leaves out of libp2p: parts that a node never uses, and that cost much to load.

libp2p imports all of itself at once: QUIC, WebSockets, TLS with its certificates by ACME, relays,
discovery, the DHT, with the libraries for them. That is half of its time and 30 MB of memory. An
import of such a part gives a module of placeholders here. A placeholder is no instance's class, and
whoever calls one gets an ImportError that names it: nothing pretends to work. What libp2p has in
memory of its own (transport over TCP, Noise, yamux, gossip) is loaded as it is.

The finder has to stand before libp2p is imported for the first time, so the package installs it.
"""

import sys
import types
from collections.abc import MutableSequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any, Final

PARTS: Final = (
    "aioquic",
    "dns",  # names are looked up by the system's resolver
    "libp2p.discovery",
    "libp2p.kad_dht",
    "libp2p.relay",
    "libp2p.security.secio",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
)
"""Modules that are left out, with all below them; no other library of ours imports one."""


class _Placeholder(type):
    """The class of all placeholders.

    Each is a class of errors that nobody raises, so that it can stand in annotations, in tests of
    classes and after `except`.
    """

    def __getattr__(cls, name: str) -> "_Placeholder":
        if name.startswith("__"):
            raise AttributeError(name)
        return _placeholder(cls.__module__, f"{cls.__qualname__}.{name}")

    def __call__(cls, *arguments: object, **named: object) -> Any:
        raise ImportError(f"{cls.__module__}.{cls.__qualname__} is left out of this program")


def _placeholder(module: str, name: str) -> _Placeholder:
    return _Placeholder(name, (Exception,), {"__module__": module, "__qualname__": name})


class _LeftOut(types.ModuleType):
    """A module that has a placeholder for every name."""

    __path__: MutableSequence[str] = []  # noqa: RUF012  it stays empty

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _placeholder(self.__name__, name)
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if any(name == part or name.startswith(f"{part}.") for part in PARTS):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _LeftOut(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing of it is executed."""


def leave_out() -> None:
    """Have all later imports of these parts give placeholders; a second call does nothing."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
