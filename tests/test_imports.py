"""Rules of this file: who may import what is read from the source, and tried in a new process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("protocol", "node", "cli")
"""Each may import from itself and from those before it."""
FLOORS: dict[str, tuple[set[str], ...]] = {
    "protocol": (
        {"errors", "numbers"},
        {"wire"},
        {"run"},
        {"routing", "tensors"},
        {"work"},
    ),
    "node": (
        {
            "condition",
            "descriptors",
            "home_folder",
            "hours",
            "page",
            "quantities",
            "seen",
            "service_state",
            "signals",
            "storage",
        },
        {"log_file", "network"},
        {"config"},
        {"settings"},
        {"config_file", "live_config"},
        {"jobs", "logs"},
        {"aggregation", "data", "status"},
        {"limits", "stay"},
        {"doctor", "routing", "runs"},
        {"training"},
        {"kinds", "models"},
        {"scheduler", "verification", "worker"},
        {"api", "keeper", "reference", "volunteer"},
        {"assembly", "compare", "metrics"},
        {"roles"},
        {"daemon"},
    ),
    "cli": (
        {"answers", "exits", "options"},
        {"views"},
        {"testnet", "inputs", "following", "service_units", "terminal"},
        {"commands"},
        {"main"},
        {"entry"},
        {"member"},
    ),
}
"""Per top folder its files and folders, floor by floor from the ground up.

Each may import from the floors below and from itself, but from no other on its own floor: so there
is no circle of folders.
"""
MODULES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]

IMPURE = frozenset(
    [
        "asyncio",
        "datasets",
        "io",
        "libp2p",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "psutil",
        "random",
        "secrets",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "tokenizers",
        "torch",
        "trio",
    ]
)
"""Clocks, files, processes, networks, chance: nothing for values and pure functions."""
LIBP2P_IN = {
    "node/network/host.py",
    "node/network/libp2p_gossip.py",
    "node/network/libp2p_tcp.py",
    "node/network/libp2p_yamux.py",
    "node/network/shims.py",
}
HEAVY = ("torch", "datasets", "tokenizers", "pyarrow", "pandas")
"""For worker processes alone: they block, crash, or need a second and 200 MB to import."""
BROAD = {
    "node/api/server.py": "a bug in an answer to a local client ends no node that serves peers",
    "node/network/guard.py": "a bug that a peer's value meets ends no node that serves others",
    "node/network/shims.py": "whatever libp2p raises becomes an error of ours, once",
}
"""Where `except Exception` stands, once each, and why."""


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dotted name of what is imported, line), for every import wherever it stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_go_from_cli_to_node_to_protocol() -> None:
    wrong = []
    for path in MODULES:
        allowed = LAYERS[: LAYERS.index(place(path).split("/")[0]) + 1]
        for name, line in imports(path):
            first, *rest = name.split(".")
            if first in (*LAYERS, "tests") or (first == "dipaco" and rest[0] not in allowed):
                wrong.append(f"{place(path)}:{line} imports {name}")
    assert not wrong


def files_in(top: str) -> dict[str, Path]:
    """Return the files of a top folder by their dotted names."""
    files = {}
    for path in (path for path in MODULES if path.is_relative_to(ROOT / top)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(("dipaco", *parts)).removesuffix(".__init__")] = path
    return files


@pytest.mark.parametrize("top", FLOORS)
def test_every_file_and_folder_stands_on_one_floor(top: str) -> None:
    entries = {name.split(".")[2] for name in files_in(top) if name.count(".") > 1}
    assert sorted(name for floor in FLOORS[top] for name in floor) == sorted(entries)


@pytest.mark.parametrize("top", FLOORS)
def test_imports_go_down_from_floor_to_floor(top: str) -> None:
    level = {name: number for number, floor in enumerate(FLOORS[top]) for name in floor}
    wrong = []
    for module, path in files_in(top).items():
        here = f"{module}..".split(".")[2]
        for name, line in imports(path):
            _, layer, there, *_ = f"{name}..".split(".")
            if layer == top and there not in ("", here) and level[there] >= level.get(here, 0):
                wrong.append(f"{place(path)}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("top", FLOORS)
def test_no_files_import_each_other_in_a_circle(top: str) -> None:
    files = files_in(top)
    arrows = {
        name: {
            target
            for imported, _ in imports(path)
            for target in (imported, imported.rpartition(".")[0])  # a module, or a name in one
            if target in files and target != name
        }
        for name, path in files.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_protocol_knows_no_clock_file_process_network_or_chance() -> None:
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in MODULES
        if place(path).startswith("protocol/")
        for name, line in imports(path)
        if name.split(".")[0] in IMPURE
    ]
    assert not wrong


def test_libp2p_is_imported_in_the_host_alone() -> None:
    users = {place(p) for p in MODULES for name, _ in imports(p) if name.startswith("libp2p")}
    assert users and users <= LIBP2P_IN


def handlers(caught: str) -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Yield (file, handler) for every `except` that names the class `caught`."""
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                names = [n.id for n in ast.walk(node.type or node) if isinstance(n, ast.Name)]
                if node.type is None or caught in names:
                    yield place(path), node


def test_only_foreign_errors_are_caught_broadly() -> None:
    assert sorted(where for where, _ in handlers("Exception")) == sorted(BROAD)


def test_what_catches_every_exception_raises_it_again() -> None:
    silent = [
        f"{where}:{handler.lineno}"
        for where, handler in handlers("BaseException")
        if not any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
    ]
    assert not silent


def loaded_by(code: str) -> set[str]:
    """Return the modules that a new process has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["dipaco.node.daemon", "dipaco.cli.main"])
def test_no_torch_or_datasets_come_with(module: str) -> None:
    assert not {name.split(".")[0] for name in loaded_by(f"import {module}")} & set(HEAVY)


def test_the_command_line_alone_loads_no_network() -> None:
    assert not {"libp2p", "trio", "numpy"} & loaded_by("import dipaco.cli.main")


def test_the_folders_are_not_importable_by_their_own_names() -> None:
    assert not set(LAYERS) & set(sys.modules)
    assert not set(LAYERS) & {name.split(".")[0] for name in loaded_by("import dipaco.node.daemon")}
