"""The policies of a volunteer for routers that it cannot verify, as its configuration names them.

They are not in the module of the verdicts, so that reading a configuration imports no arithmetic.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

POLICY_PATTERN: Final = r"^(require|warn|receipts:[1-9][0-9]{0,2})\Z"


@dataclass(frozen=True)
class Policy:
    """A node's policy for routers that it cannot verify. No policy trains on REFUTED."""

    kind: Literal["require", "warn", "receipts"]
    """`require` trains on VERIFIED only; `warn` on UNVERIFIABLE too, with a warning; `receipts` on
    UNVERIFIABLE if enough others verified it."""
    quorum: int = 0
    """The number of others, for `receipts`."""

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Return the policy `require`, `warn` or `receipts:Q`; ValueError for another text."""
        if not re.match(POLICY_PATTERN, text):
            raise ValueError(f"policy {text!r} is not require, warn or receipts:Q")
        if text.startswith("receipts:"):
            return cls("receipts", int(text.partition(":")[2]))
        return cls("warn" if text == "warn" else "require")

    def __str__(self) -> str:
        return f"{self.kind}:{self.quorum}" if self.quorum else self.kind
