"""Rules of this file: real HTTPS on loopback with an authority of its own; no real waits.

Only the operator's word (`local_sources`) lets a run send us to this machine, so the tests give it.
"""

import os
import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from msgspec.structs import replace

from dipaco.node.data import https as module
from dipaco.node.data.downloads import Downloads
from dipaco.node.data.https import HttpsFile, check_url, retry_after
from dipaco.node.data.retry import Broken, RetryPolicy
from dipaco.node.data.sources.dispatch import is_authenticated, rows
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.values import Progress
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.digest import sha256
from tests.node.data.corpora import no_progress
from tests.node.data.network import Waits, certificate, json_gz, noise, parquet
from tests.standin import StandIn, standin_hub

FIRST, SECOND = noise(1200, 1), noise(300, 2)
FILES = {"a.parquet": parquet(FIRST), "b.jsonl.gz": json_gz(SECOND)}


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    authority, tls = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with standin_hub(StandIn(files=dict(FILES)), tls) as served:
        yield served


@pytest.fixture
def downloads(tmp_path: Path, waits: Waits) -> Downloads:
    return Downloads(tmp_path / "sources", 3_000_000, waits.retry())


@pytest.fixture
def source(server: StandIn, tmp_path: Path) -> Source:
    names = [f"{server.cdn}/cdn/{name}" for name in FILES]
    found = pin_files(names, downloads=Downloads(tmp_path / "author", 10**7))
    server.asked.clear()
    return found


def read(source: Source, downloads: Downloads) -> list[str]:
    access = Access(local_sources=True, downloads=downloads)
    return [row["text"] for row in rows(source, start=0, stop=1 << 40, access=access)]


def test_addresses_are_pinned_by_size_digest_and_rows(source: Source, server: StandIn) -> None:
    for file, (name, data) in zip(source.files, FILES.items(), strict=True):
        assert file.name == f"{server.cdn}/cdn/{name}"
        assert (file.size, file.sha256) == (len(data), sha256(data))
    assert [file.rows for file in source.files] == [1200, 300]
    assert is_authenticated(source, Access())


def test_files_are_fetched_once_and_read(
    source: Source, server: StandIn, downloads: Downloads
) -> None:
    for _ in range(2):
        assert read(source, downloads) == FIRST + SECOND
    assert len(server.asked) == 2
    kept = {path.name for path in downloads.folder.iterdir()}
    assert kept == {"lock", *(file.sha256.hex() for file in source.files)}


def test_fetching_tells_how_far_it_is(source: Source, downloads: Downloads) -> None:
    told: list[Progress] = []
    access = Access(local_sources=True, downloads=downloads)
    next(iter(rows(source, start=0, stop=1, access=access, on_progress=told.append)))
    assert (told[-1].stage, told[-1].unit) == ("download", "MB")
    assert told[-1].done == told[-1].total == source.files[0].size // 1_000_000 > 0


@pytest.mark.parametrize("ranged", [True, False])
def test_a_cut_connection_goes_on_where_it_broke(
    ranged: bool, source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.cuts += [400_000, 0, 300_000]
    server.ranged = ranged
    assert read(source, downloads) == FIRST + SECOND
    assert server.cuts == [] and len(waits.slept) == 3
    if ranged:
        assert server.asked[1].endswith("bytes=400000-")
        assert server.asked[3].endswith("bytes=700000-")


def test_a_restart_goes_on_with_what_had_come(
    source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.cuts += [500_000]
    impatient = Downloads(
        downloads.folder, downloads.cache_max, RetryPolicy(-1.0, waits.clock, waits.sleep)
    )
    with pytest.raises(Unavailable, match=r"a\.parquet: the connection ended after 500000 of"):
        read(source, impatient)
    server.asked.clear()
    assert read(source, downloads) == FIRST + SECOND
    assert server.asked[0].endswith("bytes=500000-")


def test_a_server_that_asks_to_come_again_is_asked_when_it_says(
    source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.failures += [(429, {"Retry-After": "40"}), (503, {})]
    assert read(source, downloads) == FIRST + SECOND
    assert sum(waits.slept[:40]) == 40


def test_every_wait_is_told_with_its_cause_and_the_time_until_the_retries_end(
    source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.failures += [(503, {})] * 10_000
    told: list[Progress] = []
    access = Access(local_sources=True, downloads=downloads)
    with pytest.raises(Unavailable):
        list(rows(source, start=0, stop=1, access=access, on_progress=told.append))
    assert {(each.stage, each.total, each.unit) for each in told} == {("retry", 180, "s")}
    assert told[0].done == 0 and 140 <= told[-1].done <= 180
    assert all(0 <= b.done - a.done <= 1 for a, b in pairwise(told))  # a countdown
    cause = r"source\.files: https://.*a\.parquet: the server says 503; trying again in \d+ s"
    assert all(re.fullmatch(cause, each.note) for each in told)


def test_a_server_that_stays_away_is_given_up_within_minutes(
    source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.failures += [(503, {})] * 10_000
    with pytest.raises(Unavailable, match=r"a\.parquet: the server says 503"):
        read(source, downloads)
    assert 120 < waits.now <= 180


def test_what_is_gone_is_named_at_once(
    source: Source, server: StandIn, downloads: Downloads, waits: Waits
) -> None:
    server.failures += [(404, {})]
    with pytest.raises(Unavailable, match=r"a\.parquet: the server says 404"):
        read(source, downloads)
    assert waits.slept == []


@pytest.mark.parametrize("change", [b"", b"x", b"xy"])
def test_another_file_is_never_read(
    change: bytes, source: Source, server: StandIn, downloads: Downloads
) -> None:
    data = FILES["a.parquet"]
    server.files["a.parquet"] = data[:100] + change + data[101:]
    with pytest.raises(Unavailable, match=r"a\.parquet: (not the file|\d+ bytes where)"):
        read(source, downloads)
    assert [path.name for path in downloads.folder.iterdir() if path.stat().st_size] == []


def test_a_file_that_was_damaged_on_the_disk_is_fetched_anew(
    source: Source, server: StandIn, downloads: Downloads
) -> None:
    read(source, downloads)
    path = downloads.folder / source.files[0].sha256.hex()
    os.utime(path, (1, 1))
    path.write_bytes(bytes(source.files[0].size))
    assert read(source, downloads) == FIRST + SECOND
    assert len(server.asked) == 3


def test_the_folder_stays_within_its_bytes(
    source: Source, server: StandIn, tmp_path: Path, waits: Waits
) -> None:
    larger = max(file.size for file in source.files)
    small = Downloads(tmp_path / "small", larger, waits.retry())
    assert read(source, small) == FIRST + SECOND
    kept = [path.name for path in small.folder.iterdir() if path.name != "lock"]
    assert kept == [source.files[1].sha256.hex()]
    with pytest.raises(ConfigError, match=r"storage\.cache_max: .*a\.parquet"):
        read(source, Downloads(tmp_path / "none", larger - 1, waits.retry()))


def test_a_certificate_that_nobody_trusts_ends_it(
    source: Source, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        read(source, downloads)


def test_a_redirect_leads_to_no_place_that_a_run_could_not_name(
    server: StandIn, source: Source
) -> None:
    for target in ("http://localhost/a", "file:///etc/passwd", "https://u:p@localhost/a"):
        server.failures.append((302, {"Location": target}))
        with pytest.raises((Refusal, Unavailable), match=r"source\.files"):
            list(HttpsFile(source.files[0].name, private=True).pieces(0))
    server.failures.append((302, {"Location": f"{server.cdn}/cdn/b.jsonl.gz"}))
    found = b"".join(HttpsFile(source.files[0].name, private=True).pieces(0))
    assert found == FILES["b.jsonl.gz"]


def test_redirects_end(server: StandIn, source: Source) -> None:
    again = (302, {"Location": f"{server.cdn}/cdn/a.parquet"})
    server.failures += [again] * 10
    assert b"".join(HttpsFile(source.files[0].name, private=True).pieces(0)) == FILES["a.parquet"]
    server.failures += [again] * 11
    with pytest.raises(Unavailable, match="more than 10 redirects"):
        list(HttpsFile(source.files[0].name, private=True).pieces(0))


@pytest.mark.parametrize("target", ["https://10.0.0.1/a.txt", "https://router/a.txt"])
def test_a_redirect_into_the_volunteers_network_is_refused(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(302, headers={"Location": target})

    monkeypatch.setattr(
        module, "_client", lambda: httpx2.Client(transport=httpx2.MockTransport(answer))
    )
    with pytest.raises(Refusal, match="own network"):
        list(HttpsFile("https://example.org/a.txt", private=False).pieces(0))
    assert asked == ["example.org"]


@pytest.fixture
def public_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, StandIn]]:
    """A server on loopback that has a name of the internet, and a certificate for it."""
    host, look_up = "files.example.org", socket.getaddrinfo
    authority, tls = certificate(tmp_path, host)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *rest, **more: look_up("127.0.0.1" if name == host else name, *rest, **more),
    )
    with standin_hub(StandIn(files=dict(FILES)), tls) as served:
        yield served.cdn.replace("localhost", host) + "/cdn/a.parquet", served


def test_a_name_that_leads_into_the_volunteers_network_gets_no_byte(
    public_name: tuple[str, StandIn],
) -> None:
    url, served = public_name
    with pytest.raises(Unavailable, match=r"files\.example\.org leads to 127\.0\.0\.1"):
        list(HttpsFile(url, private=False).pieces(0))
    assert served.asked == []
    assert b"".join(HttpsFile(url, private=True).pieces(0)) == FILES["a.parquet"]


def test_a_proxy_may_stand_in_the_volunteers_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with standin_hub(StandIn()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint)
        with pytest.raises(Broken, match="501"):  # what the stand-in says to CONNECT
            list(HttpsFile("https://example.org/a.txt", private=False).pieces(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "ftp://127.0.0.1:1"),
        ("SSL_CERT_FILE", "/proc/nowhere"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        list(HttpsFile("https://example.org/a.txt", private=False).pieces(0))


def test_a_volunteer_is_not_sent_into_his_own_network(source: Source) -> None:
    with pytest.raises(Refusal, match="own network"):
        rows(source, start=0, stop=1, access=Access())


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/a.txt",
        "https://127.0.0.1/a.txt",
        "https://[::1]/a.txt",
        "https://10.0.0.1/a.txt",
        "https://169.254.169.254/latest.txt",
        "https://127.1/a.txt",
        "https://0x7f000001/a.txt",
        "https://router/a.txt",
        "https://printer.local/a.txt",
        "https://user:word@example.org/a.txt",
        "https://example.org/a.txt#b",
        "https://example.org/a b.txt",
        "https://example.org/a\n.txt",
        "https://exa\u00e4mple.org/a.txt",
        "https:///a.txt",
        "https://example.org:99999/a.txt",
        "https://a..example.org/a.txt",
        f"https://{'a' * 64}.example.org/a.txt",
        "http://example.org/a.txt",
        "file:///etc/passwd.txt",
    ],
)
def test_an_address_that_no_run_may_name_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match=r"source\.files"):
        check_url(url, private=False)


def test_an_address_of_the_internet_may_be_named() -> None:
    check_url("https://example.org/a/b.parquet?part=1", private=False)
    check_url("https://93.184.216.34:8443/a.txt", private=False)


def test_an_address_that_is_no_file_we_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a \.parquet"):
        pin_files(["https://example.org/a.csv"], downloads=Downloads(tmp_path, 1))


def test_retry_after_is_seconds_or_a_date() -> None:
    assert [retry_after(said) for said in ("7", " 7 ", "120")] == [7, 7, 120]
    assert {retry_after(said) for said in (None, "", "soon", "-3")} == {0}
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2115 07:28:00 GMT") > 10**9


def test_nobody_there_is_broken_and_may_pass() -> None:
    with pytest.raises(Broken, match="refused"):
        list(HttpsFile("https://127.0.0.1:1/a.txt", private=True).pieces(0))


def test_an_unpinned_file_leaves_nothing_when_it_breaks(server: StandIn, tmp_path: Path) -> None:
    server.failures += [(404, {})]
    folder = tmp_path / "author"
    with pytest.raises(Unavailable, match="404"):
        remote = HttpsFile(f"{server.cdn}/cdn/a.parquet", private=True)
        Downloads(folder, 10**7).get_unpinned("a", remote.pieces, no_progress)
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_source_of_rows_that_the_file_has_not_is_refused(
    source: Source, downloads: Downloads
) -> None:
    first = replace(source.files[0], rows=1201)
    with pytest.raises(Refusal, match="fewer rows than the 1201"):
        read(replace(source, files=(first, source.files[1])), downloads)
