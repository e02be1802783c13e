"""Rules of this file: what a wheel holds is looked up in a wheel that was built here."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOPS = {ROOT / folder for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()}
MODULES = sorted(path for top in TOPS for path in top.rglob("*.py"))
MAN = "docs/man/dipaco-node.1"
UNPINNED = {"fastecdsa"}
"""The Makefile says why."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel from what the working tree holds, without the network; its file names."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(_copy(folder / "source"))]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [*command, *options, "--disable-pip-version-check", "--wheel-dir", str(folder)],
        check=True,
        timeout=240,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def _copy(target: Path) -> Path:
    """Copy what is packaged: building in place would leave folders of setuptools behind."""
    for top in TOPS:
        unneeded = shutil.ignore_patterns("__pycache__")
        shutil.copytree(top, target / top.relative_to(ROOT), ignore=unneeded)
    (target / "docs" / "man").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", MAN):
        shutil.copy(ROOT / name, target / name)
    return target


def test_every_folder_with_code_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    found = {".".join(("dipaco", *folder.parts)) for folder in folders}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_folder_with_code_is_a_package() -> None:
    assert not [p for p in MODULES if not (p.parent / "__init__.py").exists()]


def test_the_wheel_holds_every_module(wheel: set[str]) -> None:
    assert {f"dipaco/{path.relative_to(ROOT)}" for path in MODULES} <= wheel


def test_the_wheel_holds_the_default_network_and_the_demo(wheel: set[str]) -> None:
    demo = {path.name for path in (ROOT / "node/data/demo").iterdir() if path.is_file()}
    assert any(name.endswith(".parquet") for name in demo)
    assert any(name.startswith("NOTICE") for name in demo)
    assert any(name.endswith(".json") for name in demo)  # the tokenizer
    expected = {f"dipaco/node/data/demo/{name}" for name in demo}
    assert expected | {"dipaco/cli/bootstrap.toml"} <= wheel


def test_the_wheel_puts_the_man_page_where_man_looks(wheel: set[str]) -> None:
    (page,) = [name for name in wheel if name.endswith(".1")]
    assert page.endswith(".data/data/share/man/man1/dipaco-node.1")


def test_the_wheel_holds_the_page(wheel: set[str]) -> None:
    files = {path.name for path in (ROOT / "node/page").iterdir() if path.suffix != ".py"}
    assert {"index.html", "page.js", "page.css"} <= files
    assert {f"dipaco/node/page/{name}" for name in files - {"__pycache__"}} <= wheel


def test_the_wheel_holds_the_licence_and_nothing_outside_the_package(wheel: set[str]) -> None:
    assert any(re.fullmatch(r"dipaco_node-[^/]+\.dist-info/licenses/LICENSE", f) for f in wheel)
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"dipaco", "dipaco_node"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return dict((name, version) for name, version in pairs)


def needed(texts: Iterable[str], *, everywhere: bool) -> set[str]:
    """Return the names of all that is needed, here or, as far as it is installed, `everywhere`."""
    found: set[str] = set()
    open_ = [Requirement(text) for text in texts]
    while open_:
        requirement = open_.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            below = distribution(name).requires or ()
        except PackageNotFoundError:
            if everywhere:
                continue  # another system's
            raise
        found.add(name)
        for each in map(Requirement, below):
            extra = each.marker is not None and "extra" in str(each.marker)
            if (everywhere and not extra) or _holds(each.marker, requirement.extras):
                open_.append(each)
    return found


def _holds(marker: Marker | None, extras: set[str]) -> bool:
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


PROJECT_NEEDS = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["dev"],
]


def test_every_package_that_is_needed_is_pinned() -> None:
    found = needed(PROJECT_NEEDS, everywhere=False)
    cuda = {name for name in found if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert found - UNPINNED - cuda <= set(pins())  # torch pins what its CUDA build needs itself


def test_no_package_is_pinned_that_is_not_needed() -> None:
    assert set(pins()) <= needed(PROJECT_NEEDS, everywhere=True)


def test_the_pinned_versions_are_the_ones_tested_with() -> None:
    for name, version in pins().items():
        assert distribution(name).version.split("+")[0] == version, name


def test_the_pins_name_no_index_host_or_local_build() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[0-9a-z.]+", version)
    assert pins()["torch"] == "2.13.0" and pins()["libp2p"] == "0.8.1"
