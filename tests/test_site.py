"""The documents as a site: it builds without a warning and asks nobody for anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTICE = Path("node/data/demo/NOTICE.md")


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    pages = tmp_path / "build" / "pages"
    shutil.copytree(ROOT / "docs", pages / "docs")
    for path in [*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / NOTICE]:
        (pages / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pages / path.relative_to(ROOT))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    built = list((tmp_path / "build" / "site").rglob("*"))
    assert len([path for path in built if path.suffix == ".html"]) > 30
    foreign = re.compile(
        r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//|url\(h"
    )
    for path in built:
        if path.suffix in (".html", ".css"):
            assert not foreign.search(path.read_text()), path
