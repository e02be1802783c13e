"""Rules of this file: what is kept is read again from the file itself."""

from pathlib import Path

import cbor2
import pytest
from msgspec.structs import replace

from dipaco.node.runs.local_result import (
    LocalResult,
    keep_local_result,
    kept_local_result,
    local_result_of,
)
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from tests.node.training.small import any_spec
from tests.protocol.work.test_run_state import evaluated
from tests.values import digest, manifest

RUN = manifest()
OTHER = replace(RUN, name="other")
SPEC = any_spec(RUN)
EVALUATIONS = (evaluated(0, 0), evaluated(3, 0), evaluated(0, 1))
STATES: dict[ModuleId, tuple[Digest, ...]] = {
    module: (digest(f"{module} 0"), digest(f"{module} 1")) for module in RUN.topology.modules
}
ACCOUNT = local_result_of((SPEC,), STATES, EVALUATIONS)


def file_of(home: Path) -> Path:
    return home / "accounts" / f"{run_id(RUN).hex()}.account"


def test_a_run_that_was_never_trained_here_has_no_account(tmp_path: Path) -> None:
    assert kept_local_result(tmp_path, RUN) is None
    keep_local_result(tmp_path, run_id(OTHER), ACCOUNT)
    assert kept_local_result(tmp_path, RUN) is None


def test_an_account_gives_back_specs_states_and_losses(tmp_path: Path) -> None:
    keep_local_result(tmp_path, run_id(RUN), ACCOUNT)
    kept = kept_local_result(tmp_path, RUN)
    assert kept is not None
    specs, view = kept
    assert specs == (SPEC,) and view.specs == [spec_digest(SPEC)]
    assert view.states == {module: list(states) for module, states in STATES.items()}
    assert view.evaluations == {(each.version, each.path): each for each in EVALUATIONS}


def test_an_account_of_an_earlier_day_is_refused_by_its_name(tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir(parents=True)
    earlier = {"type": "Account", "specs": [], "modules": [], "evaluations": []}
    file_of(tmp_path).write_bytes(cbor2.dumps(earlier, canonical=True))
    with pytest.raises(ConfigError, match=r"\.account: made by another version.*move it away"):
        kept_local_result(tmp_path, RUN)


def test_a_later_account_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    keep_local_result(tmp_path, run_id(RUN), local_result_of((SPEC,), STATES, ()))
    keep_local_result(tmp_path, run_id(RUN), ACCOUNT)
    kept = kept_local_result(tmp_path, RUN)
    assert kept is not None and len(kept[1].evaluations) == len(EVALUATIONS)
    assert list(file_of(tmp_path).parent.iterdir()) == [file_of(tmp_path)]


def without_a_module() -> LocalResult:
    return local_result_of((SPEC,), dict(list(STATES.items())[1:]), EVALUATIONS)


def with_a_foreign_module() -> LocalResult:
    return local_result_of((SPEC,), STATES | {ModuleId("L9.E9"): (digest("x"),)}, EVALUATIONS)


@pytest.mark.parametrize("made", [without_a_module, with_a_foreign_module])
def test_an_account_of_other_modules_is_refused_by_its_file(made: object, tmp_path: Path) -> None:
    assert callable(made)
    keep_local_result(tmp_path, run_id(RUN), made())
    with pytest.raises(ConfigError, match=r"\.account: not a local result of the run tiny"):
        kept_local_result(tmp_path, RUN)


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\xa0"])
def test_a_file_that_is_no_account_is_refused_by_its_name(damage: bytes, tmp_path: Path) -> None:
    keep_local_result(tmp_path, run_id(RUN), ACCOUNT)
    file_of(tmp_path).write_bytes(damage)
    with pytest.raises(ConfigError, match=r"\.account: not the local result of a run"):
        kept_local_result(tmp_path, RUN)
