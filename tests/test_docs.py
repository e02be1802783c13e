"""Rules of this file: what the documents list is compared with the code that it is about."""

import re
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import COMMANDS
from dipaco.node.network import blob_stream, gossip, rpc
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.template import run_template
from dipaco.node.status.document import REASONS, Status
from tests.values import peer

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def block(name: str, kind: str) -> str:
    """Return the one fenced block of a kind in a document."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", text(name), re.DOTALL | re.MULTILINE)
    return str(found)


def section(name: str, title: str) -> str:
    """Return what stands under one heading."""
    _, _, rest = text(name).partition(f"{title}\n")
    assert rest, title
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(table: str) -> list[str]:
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    return rows[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_documents_and_sections_that_code_cites_exist() -> None:
    for path in (
        p for folder in ("protocol", "node", "cli") for p in (ROOT / folder).rglob("*.py")
    ):
        source = " ".join(path.read_text().split())
        for name in re.findall(r"docs/[a-z]+\.[a-z]+\b", source):
            assert (ROOT / name).exists(), f"{path} cites {name}"
        for number in re.findall(r"docs/method\.md,? (?:section )?(\d(?:\.\d+)?)", source):
            heading = rf"^(## |- \*\*|\*\*){re.escape(number)}[. ]"
            assert re.search(heading, text("method.md"), re.M), f"{path} cites section {number}"


def test_every_exit_code_is_explained() -> None:
    cells = " ".join(first_cells(section("operation.md", "## Exit codes")))
    codes = [int(number) for number in re.findall(r"\d+", cells)]
    assert sorted(codes) == sorted({*map(int, Exit), 128})


def test_every_state_and_reason_is_explained() -> None:
    table = section("operation.md", "## States and reasons")
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    told = {state.strip(): set(re.findall(r"`([a-z-]+)`", codes)) for state, codes in rows}
    due: dict[str, set[str]] = {}
    for code, (state, _) in REASONS.items():
        due.setdefault(state, set()).add(code)
    for path in (ROOT / "node/limits").glob("*.py"):  # whose words stand with each limit
        due["paused"].update(re.findall(r'code(?:, why)? ?= ?"([a-z-]+)"', path.read_text()))
    assert {state: codes - {"--run"} for state, codes in told.items()} == due


def test_every_field_of_the_status_is_listed() -> None:
    cells = " ".join(first_cells(text("api.md").partition("| field of")[2]))
    listed = set(re.findall(r"`([a-z_]+)`", cells + section("api.md", "# The local API")))
    assert set(Status.__struct_fields__) <= listed


def test_every_stream_is_named_with_its_limit() -> None:
    streams = section("protocol.md", "## Connections and streams")
    for name in (rpc.CONTROL, gossip.SYNC, blob_stream.BLOB, gossip.TOPIC):
        assert f"`{name}`" in streams
    assert f"{rpc.CONTROL_LIMIT:,} B" in streams and f"{gossip.SYNC_LIMIT:,} B" in streams
    assert blob_stream.OUTLINE_LIMIT == (1 << 20) + 256


def test_every_reason_for_no_lease_is_explained() -> None:
    told = {cell.strip("`") for cell in first_cells(section("protocol.md", "## Leases"))}
    sources = [*(ROOT / "node/scheduler").glob("*.py")]
    used = {code for path in sources for code in re.findall(r'code="([a-z-]+)"', path.read_text())}
    assert told == used


@pytest.mark.parametrize("commented", [True, False])
def test_the_run_shown_can_be_founded(commented: bool, tmp_path: Path) -> None:
    shown = block("runs.md", "toml")
    # These need files, or another min_tokens than the one shown.
    own = r"^# (files|text_field|documents|window|file|sha256|checkpoint|scored_from) =.*$"
    shown = re.sub(own, "", shown, flags=re.MULTILINE)
    if not commented:  # every setting at the value that is shown for it
        shown = re.sub(r"^# (?=[a-z_]+ = )", "", shown, flags=re.MULTILINE)
        shown = shown.replace("schedulers = []", f'schedulers = ["{peer("scheduler")}"]')
        keepers = ", ".join(f'"{peer(name)}"' for name in "abcd")
        shown = shown.replace("keepers = []", f"keepers = [{keepers}]")
    (tmp_path / "my.toml").write_text(shown)
    manifest = create_manifest(tmp_path / "my.toml", owner=peer("owner")).manifest
    assert (manifest.name, manifest.paths) == ("my", 4)
    assert (manifest.routing.capacity is None) == commented


def test_the_run_shown_is_the_one_that_run_init_writes() -> None:
    assert block("runs.md", "toml") == run_template("my", (2, 2), None)


def test_the_readme_names_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^(?:\.venv/bin/)?dipaco-node ([a-z]+)", readme, re.MULTILINE))
    assert len(named) > 5 and named <= set(COMMANDS)


def test_a_page_is_no_wider_than_a_hundred_columns() -> None:
    wide = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 100 and not line.startswith("|") and "-->" not in line
    ]
    assert not wide


def test_the_proof_of_safety_names_tests_and_invariants_that_exist() -> None:
    page = text("safety.md")
    named = [*re.findall(r"`(test_[a-z_]+\.py)::([A-Za-z_.]+)`", page)]
    assert len(named) > 15
    for file, name in named:
        source = (ROOT / "tests/protocol/work" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", source, re.M), f"{file}::{name}"
    invariants = set(re.findall(r"`Oracle\.([a-z_]+)`", page))
    oracle = ROOT / "tests/simulation/oracle.py"
    defined = set(re.findall(r"^    def ([a-z_]+)", oracle.read_text(), re.M))
    assert invariants and invariants <= defined
    steps = re.findall(r"^\*\*(\d+)\. ", page, re.M)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert page.count("Held by:") == len(steps)
