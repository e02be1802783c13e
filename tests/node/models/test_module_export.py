"""A module export gives back what went in, and nothing that was changed on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from dipaco.node.jobs.meter import silent
from dipaco.node.models.module_export import (
    is_module_export,
    open_module_export,
    write_module_export,
)
from dipaco.node.runs.checkpoint import Checkpoint, ModuleState
from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.wire.digest import Digest
from tests.node.training.checkpointed import checkpointed, tokenizer
from tests.node.training.small import Reports


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return checkpointed(tmp_path / "blobs")


@pytest.fixture
def export(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    write_module_export(checkpoint, tokenizer(), tmp_path / "export", silent)
    return tmp_path / "export"


def test_a_module_export_gives_back_the_checkpoint(checkpoint: Checkpoint, export: Path) -> None:
    found, file = open_module_export(export)
    assert is_module_export(export) and not is_module_export(export / "index.json")
    assert (found.run, found.spec, found.paths) == (
        checkpoint.run,
        checkpoint.spec,
        checkpoint.paths,
    )
    assert found.newest == checkpoint.newest and file == tokenizer()
    assert found.missing() == ()
    for path in range(4):
        states = found.path_states(path)
        for module, state in checkpoint.path_states(path).items():
            assert states[module].tobytes() == state.tobytes()


def test_other_software_finds_its_way_by_the_index(checkpoint: Checkpoint, export: Path) -> None:
    index = json.loads((export / "index.json").read_text())
    assert index["paths"][2] == {
        "path": 2,
        "experts": [1, 0],
        "modules": {"stem": 2, "L1.E1": 2, "L2.E0": 2},
    }
    (held,) = (each for each in index["modules"] if each["module"] == "L1.E1")
    state = checkpoint.path_states(2)[checkpoint.paths[2][1].module]
    with safe_open(export / held["file"], framework="numpy") as file:
        assert file.metadata()["dipaco.module"] == "L1.E1"
        name = "model.layers.0.input_layernorm.weight"
        np.testing.assert_array_equal(file.get_tensor(name), state[:16])
    files = {each["file"] for each in [*index["modules"], *index["files"]]}
    assert files | {"index.json"} == {path.name for path in export.iterdir()}


def test_paths_may_be_used_with_other_versions_of_one_module(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    store = checkpoint.states
    older = []
    for state in checkpoint.paths[3]:
        flat = checkpoint.read(state) + np.float32(1)
        assert isinstance(store, BlobStore)
        older.append(ModuleState(state.module, 1, store.write_array(flat)))
    mixed = Checkpoint(
        checkpoint.run,
        checkpoint.spec,
        (*checkpoint.paths[:3], tuple(older)),
        checkpoint.newest,
        store,
    )
    write_module_export(mixed, tokenizer(), tmp_path / "export", silent)
    found, _ = open_module_export(tmp_path / "export")
    assert found.paths == mixed.paths
    assert (found.version(0), found.version(3)) == (2, 1)
    assert {"stem.v1.safetensors", "stem.v2.safetensors"} <= {
        path.name for path in (tmp_path / "export").iterdir()
    }


def test_progress_is_told_in_bytes(tmp_path: Path, checkpoint: Checkpoint) -> None:
    reports = Reports()
    write_module_export(checkpoint, tokenizer(), tmp_path / "export", reports)
    last = reports.all[-1]
    assert (
        last.done
        == last.total
        == sum(checkpoint.topology.state_bytes(module) for module in checkpoint.topology.modules)
    )


def test_a_module_export_is_whole_or_not_there(
    tmp_path: Path, checkpoint: Checkpoint, export: Path
) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        write_module_export(checkpoint, tokenizer(), export, silent)
    assert isinstance(checkpoint.states, BlobStore)
    checkpoint.states.remove(checkpoint.paths[3][2].digest)
    with pytest.raises(BlobMissing):
        write_module_export(checkpoint, tokenizer(), tmp_path / "half", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "export"]


def test_a_module_whose_file_is_gone_is_missing(export: Path) -> None:
    (export / "L1.E0.v2.safetensors").unlink()
    found, _ = open_module_export(export)
    (lost,) = found.missing()
    assert (lost.module, lost.version) == ("L1.E0", 2)
    with pytest.raises(BlobMissing):
        found.path_states(0)
    with pytest.raises(BlobMissing):
        found.states.read_array(Digest(bytes(32)), 5)


@pytest.mark.parametrize("offset", [-1, 0, 20])
def test_a_module_s_file_that_was_changed_is_refused(export: Path, offset: int) -> None:
    path = export / "stem.v2.safetensors"
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(Refusal, match="stem"):
        open_module_export(export)[0].path_states(0)


@pytest.mark.parametrize("name", ["manifest.run", "router.spec", "tokenizer.json"])
def test_another_file_that_was_changed_is_refused(export: Path, name: str) -> None:
    data = bytearray((export / name).read_bytes())
    data[len(data) // 2] ^= 1
    (export / name).write_bytes(data)
    with pytest.raises(Refusal):
        open_module_export(export)[0].path_states(0)


def drop_path(index: dict[str, Any]) -> None:
    index["paths"].pop()


def wrong_version(index: dict[str, Any]) -> None:
    index["paths"][1]["modules"]["stem"] = 1


def strange_module(index: dict[str, Any]) -> None:
    index["modules"][0]["module"] = "../../etc/passwd"


def strange_version(index: dict[str, Any]) -> None:
    index["modules"][0]["version"] = 99


def no_digest(index: dict[str, Any]) -> None:
    index["modules"][0]["state"] = "zz"


def other_run(index: dict[str, Any]) -> None:
    index["run"] = "00" * 32


def newer_format(index: dict[str, Any]) -> None:
    index["format"] = 2


@pytest.mark.parametrize(
    "change",
    [
        drop_path,
        wrong_version,
        strange_module,
        strange_version,
        no_digest,
        other_run,
        newer_format,
    ],
)
def test_an_index_that_does_not_fit_the_run_is_refused(
    export: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    index = json.loads((export / "index.json").read_text())
    change(index)
    (export / "index.json").write_text(json.dumps(index))
    with pytest.raises(Refusal, match=str(export)):
        open_module_export(export)
