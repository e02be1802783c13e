"""No test passes in which the guard reported a bug of the node, unless it feeds one on purpose.

The temporary folders of all tests are in memory where the system has room for them there.
"""

import logging
import os
from collections.abc import Iterator

import pytest

from dipaco.node.network.left_out import leave_out
from tests.memory import folder_in_memory

leave_out()  # before any test imports libp2p: it stands as in a node
if (memory := folder_in_memory()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))

GUARD = logging.getLogger("dipaco.node.network.guard")


class _Reports(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a report with its traceback."""
        self.records.append(record)


@pytest.fixture
def fed_bugs() -> list[logging.LogRecord]:
    """The guard's reports in a test that feeds exceptions on purpose, and looks at them itself."""
    return []


@pytest.fixture(autouse=True)
def _no_bug_is_reported(request: pytest.FixtureRequest) -> Iterator[None]:
    reports = _Reports()
    GUARD.addHandler(reports)
    if "fed_bugs" in request.fixturenames:
        reports.records = request.getfixturevalue("fed_bugs")
    yield
    GUARD.removeHandler(reports)
    if reports.records and "fed_bugs" not in request.fixturenames:
        pytest.fail("\n".join(map(logging.Formatter().format, reports.records)), pytrace=False)
