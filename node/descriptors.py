"""The limit of open files (descriptors): raised at the start, since many systems begin with 256."""

import resource

WANTED = 4096
LEAST = 512  # 256 connections, 32 clients, the worker's pipes, the journal, blobs on their way

FEWEST = 8  # connections, below which a node is of no use


def raise_limit() -> int:
    """Raise this process's limit to `WANTED`, or as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, most = (WANTED if each == resource.RLIM_INFINITY else each for each in (soft, hard))
    raised = max(soft, min(WANTED, most))
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


def shortage(limit: int) -> str | None:
    """Return what a low limit of open files costs, and its cure; None for one that is enough."""
    if limit >= LEAST:
        return None
    return (
        f"only {limit} files may be open at once, of which a node with many peers needs {LEAST}: "
        "it keeps few connections, and work may fail and be tried again; raise the limit "
        "(ulimit -n)"
    )


def connections(limit: int, most: int) -> int:
    """Return how many connections a node may hold, `most` at most, with so many open files.

    A low limit is shared: one in four is for connections, nearly as many for handshakes and
    connections that end, and the others stay free. So a crowd of strangers takes no file from the
    journal, the blobs, the local API and the start of a worker process.
    """
    return most if limit >= LEAST else max(FEWEST, min(most, limit // 4))


def clients(limit: int, most: int) -> int:
    """Return how many clients each end of the local API may have, `most` at most."""
    return max(FEWEST, min(most, limit // 32))
