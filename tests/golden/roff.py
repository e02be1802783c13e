"""A man page in the macros of man(7): only these, and every text escaped."""

from importlib.metadata import version


class Roff:
    """Builds a page of section 1."""

    def __init__(self, name: str, title: str) -> None:
        """Begin the page of a program."""
        self._lines = [
            f'.TH "{name.upper()}" "1" "" "{name} {version(name)}" "{title}"',
            ".nh",  # no hyphens in names of options
            ".ad l",
        ]

    def section(self, name: str) -> "Roff":
        """Begin a section."""
        self._lines.append(f'.SH "{name}"')
        return self

    def subsection(self, name: str) -> None:
        """Begin a section of the section."""
        self._lines.append(f'.SS "{escape(name)}"')

    def text(self, text: str) -> None:
        """Add paragraphs; a blank line is between two."""
        for number, part in enumerate(text.split("\n\n")):
            line = escape(" ".join(part.split()))
            self._lines += [".PP"] * bool(number) + [line] if line else []

    def item(self, term: str, text: str) -> None:
        """Add a term with what it means."""
        self._lines += [".TP", rf"\fB{escape(term)}\fR"]
        self._lines += [escape(" ".join(text.split()))] if text.strip() else []

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def escape(text: str) -> str:
    """Return text that roff prints as it is, at the beginning of a line as well."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{text}" if text[:1] in (".", "'") else text
