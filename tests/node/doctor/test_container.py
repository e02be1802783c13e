"""What the kernel grants: control groups as the kernel shows them, in files of ours."""

from pathlib import Path

import pytest

from dipaco.node.doctor.container import Granted, cpu, granted, memory, shared_memory

GB = 10**9


def group(root: Path, name: str, memory_max: str = "max", cpu_max: str = "max 100000") -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "memory.max").write_text(f"{memory_max}\n")
    (root / name / "cpu.max").write_text(f"{cpu_max}\n")


def own(root: Path, line: str) -> Path:
    (root / "own").write_text(f"{line}\n")
    return root / "own"


def test_the_narrowest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root, "a/b", memory_max=str(3 * GB), cpu_max="max 100000")
    group(root, "a", memory_max=str(2 * GB), cpu_max="150000 100000")
    found = granted(root, own(tmp_path, "0::/a/b"))
    assert found == Granted(memory=2 * GB, cores=1.5)


def test_the_group_of_a_container_is_the_root(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root, "", memory_max=str(GB))
    assert granted(root, own(tmp_path, "0::/")) == Granted(memory=GB)


@pytest.mark.parametrize("line", ["1:memory:/a", "", "0::/gone"])
def test_without_groups_of_version_2_no_limit_is_known(tmp_path: Path, line: str) -> None:
    assert granted(tmp_path / "cgroup", own(tmp_path, line)) == Granted()
    assert granted(tmp_path / "cgroup", tmp_path / "missing") == Granted()


def test_threads_beyond_the_cores_are_too_many() -> None:
    assert cpu(1, 8, Granted(cores=1.5)).words == "1.5 of 8 cores granted"
    few = cpu(7, 8, Granted(cores=1.5))
    assert few.verdict == "warn" and "compute.threads to 1" in few.cure
    assert cpu(1, 8, Granted()).verdict == "ok"
    assert cpu(5000, 8, Granted()).verdict == "warn"


def test_little_memory_is_told_with_the_machines_own() -> None:
    assert memory(8 * GB, Granted()).words == "all 8.0 GB of memory"
    assert memory(8 * GB, Granted(memory=9 * GB)).words == "all 8.0 GB of memory"
    assert memory(8 * GB, Granted(memory=4 * GB)).words == "4.0 GB of 8.0 GB of memory"
    assert memory(8 * GB, Granted(memory=GB)).verdict == "warn"


def test_shared_memory_may_be_missing(tmp_path: Path) -> None:
    assert shared_memory(tmp_path / "none").verdict == "warn"
    assert shared_memory(tmp_path).verdict == "ok"
