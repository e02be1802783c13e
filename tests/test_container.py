"""The Containerfile: built where a builder runs, and read where none does."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_packaging import PROJECT

ROOT = Path(__file__).parent.parent
TEXT = re.sub(r"\\\n", " ", (ROOT / "Containerfile").read_text())
LINES = [line.split(None, 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
IMAGE = "dipaco-node-test"


def builder() -> str | None:
    """Return the program that can build an image here: it must have a daemon, or need none."""
    for name in ("docker", "podman", "buildah"):
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], capture_output=True).returncode
        ):
            return name
    return None


def values(instruction: str) -> list[str]:
    return [words for name, words in LINES if name == instruction]


def test_the_node_is_no_root_and_process_1() -> None:
    names = [name for name, _ in LINES]
    assert values("USER") == ["node"]
    assert names.index("USER") < names.index("VOLUME") < names.index("ENTRYPOINT")
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])
    assert values("ENTRYPOINT") == ['["dipaco-node"]'] and values("CMD") == ['["start"]']
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_the_home_is_the_volume() -> None:
    assert values("ENV") == ["DIPACO_HOME=/home/node/data"]
    assert values("VOLUME") == ["/home/node/data"]


def test_whatever_is_copied_is_there_and_no_more_goes_to_the_builder() -> None:
    copied = {part for words in values("COPY") for part in words.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert (ROOT / ".dockerignore").readlink() == Path(".containerignore")


def test_the_python_is_one_that_the_project_takes() -> None:
    (base,) = values("FROM")
    found = re.fullmatch(r"python:3\.([0-9]+)-slim", base)
    assert found and int(found[1]) >= int(PROJECT["project"]["requires-python"].split(".")[1])


def test_fastecdsa_is_the_makefiles() -> None:
    made = re.search(r"fastecdsa==[0-9.]+", (ROOT / "Makefile").read_text())
    assert made and any(made[0] in words for words in values("RUN"))


@pytest.mark.slow
@pytest.mark.skipif(builder() is None, reason="no builder of images runs here")
def test_it_is_built_and_says_goodbye() -> None:
    tool = builder()
    assert tool
    subprocess.run([tool, "build", "-f", "Containerfile", "-t", IMAGE, "."], cwd=ROOT, check=True)
    run = [tool, "run", "-d", IMAGE, "start", "--rendezvous"]
    name = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    try:
        with subprocess.Popen(
            [tool, "logs", "-f", name], stderr=subprocess.PIPE, text=True
        ) as logs:
            assert logs.stderr and any(line.startswith("ready") for line in logs.stderr)
            logs.kill()
        subprocess.run([tool, "stop", name], check=True)
        wait = subprocess.run([tool, "wait", name], capture_output=True, text=True, check=True)
        assert wait.stdout.strip() == "0"
    finally:
        subprocess.run([tool, "rm", "-f", name], check=False)
