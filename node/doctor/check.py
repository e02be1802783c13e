"""The result of one check of this machine."""

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    words: str
    """The finding, for people."""
    cure: str = ""
    """The advice to the operator; empty for `ok`."""
