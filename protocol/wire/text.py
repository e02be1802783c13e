"""Text that one node says to another's people: one line of printable ASCII, and bounded.

They end in logs, terminals and status pages of strangers, so no line break and no escape sequence
may travel in them. Senders make them so by `one_line`; the wire types let nothing else in.
"""

from typing import Annotated

from msgspec import Meta

MAX_WORDS = 500  # characters

Text = Annotated[str, Meta(max_length=MAX_WORDS, pattern=r"^[ -~]*\Z")]
"""A reason inside a wire value."""


def one_line(text: str, limit: int = MAX_WORDS) -> str:
    """Return `text` as `Text` of at most `limit` characters.

    It may quote file names and foreign error messages, so what is not ASCII is escaped.
    """
    line = " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")
    return "".join(c for c in line if c.isprintable())[:limit]
