"""What the tests of network sources share: files, a clock that only waits move, certificates."""

import datetime
import gzip
import io
import json
import math
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dipaco.node.data.retry import RetryPolicy

TICK = 2.0**-20  # s: a clock moves by whole ticks, whose sums and differences are exact


@dataclass
class Waits:
    """A clock that waiting moves on, and nothing else."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait, at once."""
        self.slept.append(seconds)
        self.now = math.ceil((self.now + seconds) / TICK) * TICK

    def retry(self) -> RetryPolicy:
        """The product's own, on this clock."""
        return RetryPolicy(clock=self.clock, sleep=self.sleep)


def noise(count: int, seed: int = 0) -> list[str]:
    """Documents of about a kilobyte that hardly compress: files of many ranges stay small."""
    drawn = random.Random(seed)
    return [f"{i} {drawn.randbytes(500).hex()}" for i in range(count)]


def parquet(column: Sequence[str], *, rows_per_group: int = 100) -> bytes:
    """A parquet file of a text column and one more."""
    out = io.BytesIO()
    table = pa.table({"id": range(len(column)), "text": list(column)})
    pq.write_table(table, out, row_group_size=rows_per_group)
    return out.getvalue()


def json_lines(column: Sequence[str]) -> bytes:
    """JSON lines of a text and one more field."""
    return b"".join(
        json.dumps({"id": i, "text": text}).encode() + b"\n" for i, text in enumerate(column)
    )


def json_gz(column: Sequence[str]) -> bytes:
    """The same, packed."""
    return gzip.compress(json_lines(column), mtime=0)


def certificate(folder: Path, host: str = "localhost") -> tuple[Path, ssl.SSLContext]:
    """Return a new authority's file, and a server's settings with its certificate for `host`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "authority.pem").write_bytes(pem)
    (folder / "server.pem").write_bytes(secret + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "authority.pem", context
