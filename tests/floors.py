"""The structure of the product in figures: `python -m tests.floors [FOLDER]`.

Counts, for each top folder, the floors of its entries (files and folders), the arrows between them
and the arrows that go up or sideways by the table of tests/test_imports.py; and for all files the
circles. FOLDER: another checkout; its floors are then counted as they are, without a table.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Graph = dict[str, set[str]]


def imports_of(root: Path) -> Graph:
    """Return every file of the product, by dotted name, with the files that it imports."""
    files = {
        ".".join(("dipaco", *path.relative_to(root).with_suffix("").parts)): path
        for top in ("protocol", "node", "cli")
        for path in (root / top).rglob("*.py")
        if path.name != "__init__.py"
    }
    found: Graph = {}
    for name, path in files.items():
        wanted = {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for each in node.names
            for target in (node.module, f"{node.module}.{each.name}")
        }
        found[name] = (wanted & files.keys()) - {name}
    return found


def entries_of(files: Graph, top: str) -> Graph:
    """Return the entries of a top folder, and the other entries that each imports from."""
    found: Graph = {}
    for name, targets in files.items():
        _, layer, entry, *_ = name.split(".")
        if layer == top:
            others = {t.split(".")[2] for t in targets if t.split(".")[1] == top}
            found.setdefault(entry, set()).update(others - {entry})
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return circles one after the other, each broken before the next is looked for."""
    left, found = {name: set(targets) for name, targets in graph.items()}, []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            found.append(circle)
            left[circle[0]].discard(circle[1])
        else:
            return found


def floors(graph: Graph) -> list[list[str]]:
    """Return the entries floor by floor: each stands above all that it imports from."""
    left = {name: set(targets) for name, targets in graph.items()}
    for circle in circles(graph):
        left[circle[0]].discard(circle[1])
    sorter, found = TopologicalSorter(left), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found


def main() -> None:
    """Print the figures."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    files = imports_of(root)
    print(f"{len(files)} files, {sum(map(len, files.values()))} arrows between files, ", end="")
    print(f"{len(circles(files))} circles of files")
    for top in ("protocol", "node", "cli"):
        graph = entries_of(files, top)
        wrong = circles(graph)
        arrows = sum(map(len, graph.values()))
        print(f"{top}: {len(floors(graph))} floors, {arrows} arrows, {len(wrong)} circles")
        for circle in wrong:
            print("  circle: " + " -> ".join(circle))
        for number, floor in enumerate(floors(graph)):
            print(f"  {number}: {', '.join(floor)}")


if __name__ == "__main__":
    main()
