"""Which blobs a scheduler and a volunteer keep: pure, on a schedule without clock and disk."""

from msgspec.structs import replace

from dipaco.node.kinds.changes import Recorded, TrainingAccepted
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.node.volunteer import retention as volunteer
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from tests.node.scheduler.shell import ANNA, BERT, RUN, Shell, train_result
from tests.values import digest, manifest


def begun() -> Shell:
    """Return a run with early stopping that is best at version 0, with one round done."""
    value = manifest()
    training = replace(value.training, early_stopping=True, inner_state="carry", rounds=3)
    shell = Shell(replace(value, training=training), weights=(1, 1, 1, 1))
    shell.seed()
    for path in range(4):
        accept(shell, path, 1)
    while shell.step():
        pass
    shell.arrive()
    for version in (0, 1):
        for path in range(4):
            found = Evaluation(documents=1, tokens=10, nll=10.0 + version)
            shell.make(
                (Recorded(Evaluated(path=path, version=version, peer=ANNA, evaluation=found)),)
            )
    assert [shell.ledger.kept_version(path) for path in range(4)] == [0] * 4
    return shell


def accept(shell: Shell, path: int, round_: int) -> None:
    lease = shell.schedule.lease_again((path, round_))
    shell.make((TrainingAccepted(path, round_, ANNA, train_result(lease)),))


def test_a_round_can_be_trained_again_until_all_modules_of_its_path_took_it_in() -> None:
    shell = begun()
    for path in (0, 1):  # all that go through L1.E0, and none else of a module of theirs
        accept(shell, path, 2)
    assert shell.step() == 1
    shell.arrive()
    assert shell.ledger.version(ModuleId("L1.E0")) == 2 and shell.ledger.path_version(0) == 1
    begins = shell.schedule.lease_again((0, 2)).inputs
    assert len(begins) == 2 * len(shell.ledger.topology.path_modules[0])
    assert begins <= blobs_needed(shell.schedule)
    shell.make(shell.schedule.discard(0, 2))  # its delta is lost after L1.E0 has taken it in
    assert begins <= blobs_needed(shell.schedule)


def test_the_last_round_can_be_trained_again_until_a_result_of_the_next_counts() -> None:
    shell = begun()
    begins = shell.schedule.lease_again((0, 2)).inputs
    before = {each for _, each in shell.ledger.path_moments(0, 2)}
    for path in range(4):
        accept(shell, path, 2)
    while shell.step():
        pass
    shell.arrive()
    assert before <= begins <= blobs_needed(shell.schedule)
    accept(shell, 0, 3)
    assert not before & blobs_needed(shell.schedule)


def record_of(shell: Shell) -> RunRecord:
    record = RunRecord(RUN, shell.ledger.manifest)
    for change in shell.log:
        if isinstance(change, Recorded):
            record.state.apply(change.entry)
    return record


def everywhere(_: Digest) -> bool:
    return True


def test_a_volunteer_keeps_current_states_and_the_moments_that_it_made() -> None:
    record = record_of(begun())
    current = {states[-1] for states in record.state.states.values()}
    used = {states[0] for states in record.state.states.values()}  # under early stopping
    moments = {each for path in range(4) for _, each in record.state.path_moments(path, 2)}
    assert volunteer.blobs_needed(record, ANNA, everywhere) == current | used | moments
    assert volunteer.blobs_needed(record, BERT, everywhere) == current | used


def test_moments_are_kept_while_the_path_has_not_gone_on_and_not_after_the_last_round() -> None:
    shell = begun()
    view, last = shell.ledger, shell.ledger.manifest.training.rounds
    held = {
        path: volunteer.HandedIn(upto, ()) for path, upto in ((0, 0), (1, 1), (2, 2), (3, last))
    }
    assert volunteer.not_handed_over(held, view).keys() == {1, 2}


def test_moments_that_were_made_again_are_kept_though_their_round_has_ended() -> None:
    shell = begun()
    lease = shell.schedule.lease_again((0, 1))
    found = volunteer.handed_in(lease, train_result(lease), shell.ledger)
    assert found.moments and volunteer.not_handed_over({0: found}, shell.ledger) == {0: found}


def test_a_state_of_which_the_newest_version_is_away_is_kept_as_the_way_to_it() -> None:
    record = record_of(begun())
    module = ModuleId("L1.E0")
    older = record.state.states[module][0]
    held = volunteer.blobs_needed(record, BERT, lambda blob: blob == older)
    assert older in held and digest("unknown") not in held
