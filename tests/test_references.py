"""Rules of this file: pages, man page and dashboard hold what the code has."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dipaco.node.config import KEYS, SECRETS, VARIABLES
from dipaco.node.metrics.families import METRICS
from tests.golden import references
from tests.golden.roff import escape

DOCS = references.DOCS
MAN = DOCS / "man" / "dipaco-node.1"


@pytest.mark.parametrize("path", references.PAGES, ids=lambda path: path.name)
def test_a_reference_is_what_the_code_makes(path: Path) -> None:
    assert path.read_text() == references.PAGES[path](), "python -m tests.golden.references"


def test_every_key_variable_and_flag_of_the_configuration_is_on_its_page() -> None:
    page = (DOCS / "config.md").read_text()
    for variable, key in VARIABLES.items():
        (row,) = [line for line in page.splitlines() if f"`{variable}`" in line]
        assert row.startswith(f"| `{key.partition('.')[2]}`")
        assert ("`--" in row) == (key not in SECRETS | {"run.invitation"})  # that of `join`
    assert len(VARIABLES) == len(KEYS)


def expressions(value: Any) -> list[str]:
    """Return every query of a dashboard."""
    if isinstance(value, dict):
        found = [each for key in ("expr", "query") if isinstance(each := value.get(key), str)]
        return found + [e for each in value.values() for e in expressions(each)]
    return [e for each in value for e in expressions(each)] if isinstance(value, list) else []


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    queries = expressions(dashboard)
    named = {name for query in queries for name in re.findall(r"\bdipaco_[a-z_]+", query)}
    known = {metric.sample: metric for metric in METRICS}
    assert named <= set(known) and len(named) > 15
    for target in (target for panel in dashboard["panels"] for target in panel["targets"]):
        (name,) = re.findall(r"\bdipaco_[a-z_]+", target["expr"])
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert labels - {"instance", "job", "version"} <= set(known[name].labels)
        assert ("rate(" in target["expr"]) <= (known[name].kind == "counter")
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_man_page_uses_the_macros_of_man_and_obeys_no_text() -> None:
    lines = MAN.read_text().splitlines()
    macros = {line.split()[0] for line in lines if line[:1] in ".'"}
    assert macros <= {".TH", ".nh", ".ad", ".SH", ".SS", ".PP", ".TP"}
    for above, line in pairwise(lines):
        assert line and (above != ".TP" or line.startswith(r"\fB"))
        assert not re.search(r"(?<!\\)-", re.sub(r'^\.TH .*|"dipaco-node.*', "", line)), line
    assert escape(".so /etc/passwd") == r"\&.so /etc/passwd"
    assert escape("'a\\b") == r"\&'a\eb"


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_man_finds_no_fault() -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", "-z", str(MAN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
