"""The source of a run's documents, and its tokenizer: both identified by content."""

import re
from typing import Annotated, Final, Literal

from msgspec import Meta

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.faults import shown

MAX_FILES = 2048  # of one source; the English part of C4 has 1,024
MAX_DOCUMENTS = 1 << 40  # of one source

DATASET: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
PATH_IN_REPOSITORY: Final = re.compile(r"[^/\x00-\x1f?#@\\]+(/[^/\x00-\x1f?#@\\]+)*")

Count = Annotated[int, Meta(ge=1, le=MAX_DOCUMENTS)]


class SourceFile(Wire, frozen=True, kw_only=True):
    """One pinned file of a source."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    """The file's place in the terms of this kind of source; never joined to a local path."""
    size: Annotated[int, Meta(ge=0, le=1 << 50)]
    """Bytes."""
    sha256: DigestField
    rows: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Number of rows, from the first, that belong to the source. So the number of the next
    file's first row is known without reading this file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_printable("name", self.name)


class Source(Wire, frozen=True, kw_only=True):
    """The source of the documents, pinned to the byte."""

    kind: Literal["embedded", "files", "hub", "synthetic"]
    revision: Annotated[str, Meta(min_length=1, max_length=128)]
    """The version, in the terms of this kind of source; for `hub` a commit, 40 hexadecimal
    digits."""
    dataset: Annotated[str, Meta(max_length=200)] = ""
    """For `hub`: owner/name. This and the next two are empty for every other kind."""
    config: Annotated[str, Meta(max_length=128)] = ""
    split: Annotated[str, Meta(max_length=128)] = ""
    files: Annotated[tuple[SourceFile, ...], Meta(max_length=MAX_FILES)]
    """In the order in which their rows are counted; empty for `synthetic`."""
    text_field: Annotated[str, Meta(min_length=1, max_length=128)] = "text"
    documents: Count
    """Number of rows, from the first, that belong to the run."""
    window: Count
    """Number of documents of one window; a lease's shard is cut from one window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("revision", "dataset", "config", "split", "text_field"):
            _check_printable(name, getattr(self, name))
        if (self.kind == "synthetic") != (not self.files):
            raise ValueError("files: a synthetic source has none, every other at least one")
        if self.window > self.documents:
            raise ValueError(
                f"window: {self.window} documents, more than the source's {self.documents}"
            )
        rows = sum(file.rows for file in self.files)
        if self.files and self.documents > rows:
            raise ValueError(f"documents: {self.documents}, but the files hold {rows}")
        if self.kind == "hub":
            self._check_hub()
        elif self.dataset or self.config or self.split:
            raise ValueError(f"dataset, config, split: a source of kind {self.kind} has none")

    def _check_hub(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "revision: not a commit of 40 hexadecimal digits; a branch or tag moves on"
            )
        if not DATASET.fullmatch(self.dataset) or ".." in self.dataset:
            raise ValueError("dataset: not owner/name")
        if not self.config or not re.fullmatch(r"\w+(\.\w+)*", self.split):
            raise ValueError("config, split: a source of kind hub names both")
        for file in self.files:
            if not PATH_IN_REPOSITORY.fullmatch(file.name) or ".." in file.name.split("/"):
                raise ValueError(f"files: {file.name!r} is no path in a repository")

    @property
    def windows(self) -> int:
        """The number of windows."""
        return -(-self.documents // self.window)

    def place(self, index: int) -> str:
        """Return the file and row of a row's index, as errors name them."""
        first = 0
        for file in self.files:
            if index < first + file.rows:
                return f"{file.name}: row {index - first}"
            first += file.rows
        return f"row {index}"


def _check_printable(field: str, text: str) -> None:
    """Refuse texts that a terminal or a log would obey: control and direction characters."""
    if not text.isprintable():
        raise ValueError(f"{field}: {shown(text)} has characters that cannot be printed")


class Tokenizer(Wire, frozen=True, kw_only=True):
    """A tokenizer's file, identified by content."""

    kind: Literal["tokenizers-json"] = "tokenizers-json"
    """The library that reads the file and makes token ids of text."""
    sha256: DigestField
    size: Annotated[int, Meta(ge=1, le=64 << 20)]
    """Bytes of the file."""
    vocabulary: Annotated[int, Meta(ge=2, le=1 << 20)]
    """Token ids are 0 to vocabulary - 1."""
    end_of_text: Annotated[int, Meta(ge=0)]
    """The id appended to every document."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_of_text >= self.vocabulary:
            raise ValueError("end_of_text: not an id of the vocabulary")
