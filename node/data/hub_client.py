"""Data sets of the Hugging Face hub, by name and commit, through the hub's own client library.

Rows are streamed: a file is read in ranges over the hub's file system, so a node needs disk and
memory only for its own training data. No account, token, cache or code of a data set is used. The
environment variable `HF_ENDPOINT` names another hub, as always with that library.

The library repeats every request a few times, and `RetryPolicy` repeats it for some minutes. A
range comes whole, so a stream continues at the byte where it broke.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar

from dipaco.node.data.downloads import hashed
from dipaco.node.data.https import PASSING, retry_after
from dipaco.node.data.library import import_datasets
from dipaco.node.data.ranges import MAX_RANGE, open_ranges
from dipaco.node.data.readers import Content
from dipaco.node.data.retry import LONGEST_WAIT_ASKED, Broken, RetryPolicy
from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.run.source import DATASET, SourceFile
from dipaco.protocol.wire.digest import Digest

COMMIT = re.compile(r"[0-9a-f]{40}")
ABSENT = frozenset({401, 403, 404, 410})  # without an account a private data set is absent

T = TypeVar("T")


class Hub:
    """One data set at one commit; made anew for every pass over it."""

    def __init__(self, dataset: str, commit: str, retry: RetryPolicy) -> None:
        """Name the data set; this sends no request."""
        self._dataset, self._commit, self._retry = dataset, commit, retry
        self._systems: list[Any] = []

    def content(self, file: SourceFile) -> Content:
        """Return the content of a file, whose bytes are read in ranges on demand.

        Raises Unavailable if the commit or the file is gone, or the hub has another file there.
        """
        self._check(file)
        return Content(self._name(file.name), partial(self._open, file))

    def pieces(self, file: SourceFile, start: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` on."""
        self._check(file)
        with self._open(file) as stream:
            stream.seek(start)
            while piece := stream.read(MAX_RANGE):
                yield piece

    def describe(self, name: str, on_progress: OnProgress = silent) -> SourceFile:
        """Return a file with its size and SHA-256; `rows` stays 0.

        The hub states the SHA-256 of large files; a small one is read and hashed.
        """
        size, digest = self._facts(name)
        file = SourceFile(name=name, size=size, sha256=digest or Digest(bytes(32)), rows=0)
        if digest is None:
            with self._open(file) as stream:
                digest = hashed(iter(partial(stream.read, MAX_RANGE), b""))[1]
        return SourceFile(name=name, size=size, sha256=digest, rows=0)

    def _check(self, file: SourceFile) -> None:
        size, digest = self._facts(file.name)
        if size != file.size or digest not in (None, file.sha256):
            raise Unavailable(
                f"source.files: {self._name(file.name)}: not the file that the run pins"
            )

    def _facts(self, name: str) -> tuple[int, Digest | None]:
        """Return size, and SHA-256 if the hub states it."""
        found = self._ask(
            lambda system: system._api.get_paths_info(
                self._dataset, [name], revision=self._commit, repo_type="dataset"
            ),
            name,
        )
        if len(found) != 1 or not hasattr(found[0], "size"):
            raise Unavailable(f"source.files: {self._name(name)}: no such file on the hub")
        lfs = found[0].lfs
        return int(found[0].size), Digest(bytes.fromhex(lfs.sha256)) if lfs else None

    def _open(self, file: SourceFile) -> BinaryIO:
        path = f"datasets/{self._dataset}@{self._commit}/{file.name}"
        handle = self._ask(
            lambda system: system.open(path, "rb", cache_type="none", size=file.size), file.name
        )

        def fetch(start: int, stop: int) -> bytes:
            def attempt(_: Any) -> bytes:
                handle.seek(start)
                data: bytes = handle.read(stop - start)
                return data

            return self._ask(attempt, file.name)

        return open_ranges(self._name(file.name), file.size, fetch)

    def _ask(self, question: Callable[[Any], T], name: str) -> T:
        """Ask the hub, and retry while a connection breaks; raises Unavailable."""

        def attempt() -> T:
            with _translated(f"{self._dataset}@{self._commit}"):
                return question(self._system())

        return self._retry.retry(attempt, f"source.files: {self._name(name)}")

    def _system(self) -> Any:
        """Return the library's file system; it caches misses, so each `Hub` has its own."""
        if not self._systems:
            import_datasets(hub=True)
            from huggingface_hub import HfFileSystem

            _set_up_client()
            self._systems.append(HfFileSystem(token=False, skip_instance_cache=True))
        return self._systems[0]

    def _name(self, name: str) -> str:
        return f"{self._dataset}@{self._commit[:8]}/{name}"


@dataclass(frozen=True)
class Split:
    """A split of a data set at one commit."""

    commit: str
    config: str
    names: tuple[str, ...]
    """Paths of its files in the repository, in order."""


def find_split(
    dataset: str, *, config: str | None, split: str, revision: str, retry: RetryPolicy
) -> Split:
    """Return the files of a split, as the `datasets` library finds them.

    revision   a commit, branch or tag.

    Raises ConfigError for a data set or split that does not exist, Unavailable if the hub cannot be
    reached.
    """
    if not DATASET.fullmatch(dataset):
        raise ConfigError(f"source.dataset: {dataset!r} is not owner/name")
    datasets = import_datasets(hub=True)
    _set_up_client()
    what = f"source.dataset: {dataset}"
    commit = retry.retry(lambda: _commit_of(dataset, revision), what)

    def build() -> Any:
        with _translated(f"{dataset}@{commit}"):
            return datasets.load_dataset_builder(
                f"hf://datasets/{dataset}", name=config, revision=commit, token=False
            )

    try:
        builder = retry.retry(build, what)
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError) as error:
        raise ConfigError(f"source.config: {dataset}: {_one_line(error)}") from error
    files = builder.config.data_files or {}
    if split not in files:
        has = ", ".join(map(str, files))
        raise ConfigError(f"source.split: {dataset} has no split {split!r}, only: {has}")
    root = f"hf://datasets/{dataset}@{commit}/"
    for path in files[split]:
        if not path.startswith(root):
            raise ConfigError(f"source.dataset: {dataset}: {path} is not in its repository")
    return Split(
        commit, str(builder.config.name), tuple(path.removeprefix(root) for path in files[split])
    )


def _commit_of(dataset: str, revision: str) -> str:
    from huggingface_hub import HfApi

    with _translated(f"{dataset}@{revision}"):
        commit = HfApi(token=False).dataset_info(dataset, revision=revision, timeout=30.0).sha
    if commit is None or not COMMIT.fullmatch(commit):
        raise Unavailable(f"source.revision: {dataset}: the hub has no commit for {revision}")
    return commit


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the library's errors into Broken if they may pass, else into Unavailable."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"source.revision: {what}: not on the hub: {_one_line(error)}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in ABSENT:
            raise Unavailable(f"source.revision: {what}: not on the hub ({status})") from error
        if status in PASSING:
            wait = retry_after(error.response.headers.get("Retry-After"))
            raise Broken(f"the hub says {status}", retry_after=wait) from error
        raise Unavailable(f"source.revision: {what}: the hub says {status}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise Broken(_one_line(error)) from error


def _set_up_client() -> None:
    """Make the library's client refuse whole files in place of ranges, and unbounded waits."""
    from huggingface_hub import set_client_factory

    set_client_factory(_client)


def _client() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks.get("response", []), _check_response]}
    return client


def _check_response(response: Any) -> None:
    """Check a response before its body is read; raises Unavailable."""
    if retry_after(response.headers.get("Retry-After")) > LONGEST_WAIT_ASKED:
        raise Unavailable(
            f"source: the hub asks to come back after {response.headers['Retry-After']} seconds"
        )
    if "range" in response.request.headers and response.status_code == 200:
        raise Unavailable(f"source: {response.url.host} sends whole files where a range is asked")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
