"""Rules of this file: the tests themselves are read, as syntax trees.

A test can fail, and none waits for real time to pass. An exception stands in a table here, with its
reason.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests").rglob("*.py"))
SLEEPERS = [path for path in FILES if "sleep(" in path.read_text()]

SLEEPS: dict[str, str] = {}
"""`FILE:FUNCTION` in which a test waits for real time, and why it must."""
REAL_CLOCK = {
    "tests/node/scheduler/test_closed_gate.py:"
    "test_closing_ends_a_real_worker_process_and_opening_starts_another": "a worker's events",
    "tests/node/status/test_counters.py:test_the_walk_is_done_in_another_thread": "a thread's end",
}
"""`FILE:TEST` that runs on the real clock beside helpers that sleep on a virtual one, and what it
waits for: it calls none of them itself."""
VIRTUAL = ("autojump_clock", "swarm")
"""Fixtures under which time is virtual; `swarm` of tests/node/scheduler asks for the first."""
BROAD = {"Exception", "BaseException", "ValueError", "TypeError", "OSError", "KeyError"}
"""Classes that a slip in the test itself raises too: `pytest.raises` needs a `match`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[Function]:
    """Return a file's functions and methods, and not those within them."""
    bodies = [node.body for node in tree(path).body if isinstance(node, ast.ClassDef)]
    return [
        node for body in (tree(path).body, *bodies) for node in body if isinstance(node, Function)
    ]


def calls(node: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Yield the calls of functions or methods of these names."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and called(each) in names:
            yield each


def called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


# ------------------------------------------------------------------------------ time


@cache
def imported_from(path: Path) -> set[Path]:
    """Return the files of tests/ that a file imports from."""
    names = [n.module for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.module]
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")}
    return files.intersection(FILES)


def users(path: Path) -> set[Path]:
    """Return a file and those that import from it, directly or through others."""
    found = {path}
    while more := {f for f in FILES if f not in found and imported_from(f) & found}:
        found |= more
    return found


def is_virtual(test: Function) -> bool:
    return any(argument.arg in VIRTUAL for argument in test.args.args)


def is_test(function: Function) -> bool:
    return function.name.startswith("test_")


def real_sleeps(path: Path) -> list[str]:
    """Return the functions of a file that sleep though a clock may be real."""
    found = []
    for function in functions(path):
        if not any(calls(function, "sleep")):
            continue
        tests = [function]
        if not is_test(function):  # a helper: its clock is that of whoever may call it
            tests = [
                test
                for file in users(path)
                for test in functions(file)
                if is_test(test) and f"{place(file)}:{test.name}" not in REAL_CLOCK
            ]
        if any(isinstance(t, ast.AsyncFunctionDef) and not is_virtual(t) for t in tests):
            found.append(f"{place(path)}:{function.name}")
    return found


def test_no_test_waits_for_real_time() -> None:
    assert SLEEPERS
    assert {where for path in SLEEPERS for where in real_sleeps(path)} == set(SLEEPS)


def test_a_test_on_the_real_clock_waits_for_events_alone() -> None:
    found = set()
    for path in FILES:
        for test in functions(path):
            if f"{place(path)}:{test.name}" in REAL_CLOCK:
                found.add(f"{place(path)}:{test.name}")
                assert not any(calls(test, "sleep", "until", "pause", "ask_often"))
    assert found == set(REAL_CLOCK)


def test_time_stands_still_for_all_but_trio() -> None:
    wrong = [
        f"{place(path)}:{call.lineno}"
        for path in SLEEPERS
        for call in calls(tree(path), "sleep")
        if ast.unparse(call.func).split(".")[0] in ("time", "asyncio", "sleep")
    ]
    assert not wrong


# ------------------------------------------------------------------------------ what make runs


def made(variable: str) -> list[Path]:
    """Return the folders and files that a variable of the Makefile lists."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(rf"^{variable} := (.*)$", text, re.MULTILINE)
    return [ROOT / name for name in listed.split()]


def is_slow(test: Function) -> bool:
    return any("mark.slow" in ast.unparse(decorator) for decorator in test.decorator_list)


@pytest.mark.parametrize("variable", ["QUICK", "COVERED"])
def test_every_folder_that_make_names_holds_tests_that_it_runs(variable: str) -> None:
    for listed in made(variable):
        files = [listed] if listed.is_file() else list(listed.rglob("test_*.py"))
        tests = [test for file in files for test in functions(file) if is_test(test)]
        assert [test for test in tests if not is_slow(test)], listed


# ------------------------------------------------------------------------------ tests that can fail


def truths(path: Path) -> set[str]:
    """Return the helpers of a file that give a bool: dropped, they hold nothing."""
    return {
        function.name
        for function in functions(path)
        if function.returns is not None and ast.unparse(function.returns) == "bool"
    }


@pytest.mark.parametrize("path", FILES, ids=place)
def test_no_answer_of_yes_or_no_is_dropped(path: Path) -> None:
    near = {path} | imported_from(path)
    asked = set().union(*(truths(file) for file in near))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr):
            value = node.value.value if isinstance(node.value, ast.Await) else node.value
            dropped = isinstance(value, ast.Compare | ast.BoolOp | ast.UnaryOp)
            dropped |= isinstance(value, ast.Call) and called(value) in asked
            assert not dropped, f"{place(path)}:{node.lineno}"


def decided(test: ast.expr) -> bool:
    """Return whether an assertion holds whatever the code does."""
    if isinstance(test, ast.BoolOp):
        return any(isinstance(value, ast.Constant) for value in test.values)
    return isinstance(test, ast.Constant | ast.Tuple | ast.GeneratorExp | ast.Lambda)


def test_no_assertion_is_decided_beforehand() -> None:
    wrong = [
        f"{place(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) and decided(node.test)
    ]
    assert not wrong


def test_an_error_that_a_slip_raises_too_is_known_by_its_words() -> None:
    wrong = [
        f"{place(path)}:{call.lineno}"
        for path in FILES
        for call in calls(tree(path), "raises")
        if any(isinstance(n, ast.Name) and n.id in BROAD for a in call.args for n in ast.walk(a))
        and not any(keyword.arg in ("match", "check") for keyword in call.keywords)
    ]
    assert not wrong
