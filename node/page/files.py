"""The files of the page, which the local API serves without a token: they hold nothing of a node.

They are as they stand here: no build step, no framework, no request to anywhere else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FIRST: Final = "index.html"
HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
"""Of every file: no script but ours, no frame of another page, no request to another host."""


@dataclass(frozen=True)
class PageFile:
    """One file."""

    kind: str
    """Its media type."""
    body: bytes


def _read() -> dict[str, PageFile]:
    folder = Path(__file__).parent
    found = {
        f"/{path.name}": PageFile(TYPES[path.suffix], path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.suffix in TYPES
    }
    return {"/": found[f"/{FIRST}"], **found}


FILES: Final = _read()
"""By target."""
