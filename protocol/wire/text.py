"""Text for people that travels between nodes: one line of printable ASCII, of bounded length.

It is shown in logs, terminals and status pages of strangers, so it may hold no line break and no
escape sequence. Senders make it with `one_line`; the wire types refuse any other text.
"""

from typing import Annotated, Final

from msgspec import Meta

MAX_CHARACTERS = 500

ASCII_PATTERN: Final = r"^[ -~]*\Z"
Text = Annotated[
    str,
    Meta(
        max_length=MAX_CHARACTERS,
        pattern=ASCII_PATTERN,
        description=f"a line of at most {MAX_CHARACTERS} printable ASCII characters",
    ),
]
"""A reason inside a wire value."""


def printable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return `text` on one line for people: spaces for line breaks, escapes for control characters.

    Unlike `Text` it keeps letters of all alphabets.
    """
    return escaped(" ".join(text[: 2 * limit].split())[:limit])[:limit]


def escaped(text: str) -> str:
    """Return `text` with its spaces and letters, and everything escaped that a terminal obeys.

    Control characters (ESC, C1, line breaks), invisible and direction-changing ones, and half
    surrogates. Every value of a peer goes through here on its way to a terminal or a log.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_utf8(text: str) -> bool:
    """Return whether `text` is text: a file's name from the system may hold bytes that are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return `text` as `Text` of at most `limit` characters.

    It may quote file names and foreign error messages, so characters outside ASCII are escaped.
    """
    line = " ".join(text[: 2 * limit].split()).encode("ascii", "backslashreplace").decode("ascii")
    return "".join(c for c in line if c.isprintable())[:limit]
