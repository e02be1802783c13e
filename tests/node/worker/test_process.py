"""The worker process as a real child: real pipes, real time, no sleeps; ends are waited for."""

import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import psutil
import pytest
import trio

from dipaco.node.aggregation.outer import take_outer_step
from dipaco.node.config import ComputeSection, RunSection, StorageSection
from dipaco.node.jobs.frames import (
    MAX_FRAME,
    body_length,
    pack,
    read_job,
    read_report,
    read_settings,
)
from dipaco.node.jobs.runner import COMMAND, Worker, describe_death
from dipaco.node.jobs.settings import environment, worker_environment
from dipaco.node.jobs.values import (
    Answer,
    Derive,
    DerivedAnswer,
    Failed,
    FailureKind,
    Inspected,
    Job,
    OuterStep,
    PerformLease,
    Progress,
    Stepped,
)
from dipaco.node.quantities import MemoryBound
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull, Home
from dipaco.node.verification.verifier import derivation_of
from dipaco.node.worker.performer import Performer
from dipaco.node.worker.process import Throttle, perform
from dipaco.protocol.errors import (
    ConfigError,
    DipacoError,
    LocalProtocolError,
    Refusal,
    Unavailable,
)
from dipaco.protocol.routing.verdict import (
    Derivation,
    Derived,
    FalseLabels,
    LocalFailure,
    SourceFailure,
)
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.source import Source, SourceFile
from dipaco.protocol.run.topology import STEM
from dipaco.protocol.work.kinds import SeedResult
from dipaco.protocol.work.ledger import Contribution
from tests.node.reference.test_run import TRAINING, tiny
from tests.node.training.small import Reports, any_spec, job_of, seed_lease, small_manifest
from tests.settings import settings
from tests.values import digest, peer

CORPUS = SourceFile(name="/srv/corpus.txt", size=1, sha256=digest("corpus"), rows=400)
PATIENCE = 180  # seconds until a test that waits for a process gives up


@asynccontextmanager
async def worker(home: Path, log: list[str] | None = None) -> AsyncIterator[Worker]:
    lines: list[str] = [] if log is None else log
    made = Worker(settings(home), lines.append)
    with trio.fail_after(PATIENCE):
        try:
            yield made
        finally:
            await made.close()


def step_job(home: Path) -> OuterStep:
    """Return an outer step whose blobs lie in `home`."""
    value, blobs = small_manifest(), BlobStore(Home.at(home).blobs)
    state = initial_module(value, STEM)
    return OuterStep(
        manifest=value,
        module=STEM,
        state=blobs.write_array(state),
        momentum=None,
        contributions=(
            Contribution(path=0, peer=peer("anna"), delta=blobs.write_array(state * 0.5), weight=1),
        ),
    )


def endless_job() -> PerformLease:
    """Return a seed phase that ends in days."""
    value = tiny(training=msgspec.structs.replace(TRAINING, seed_steps=1 << 30))
    return job_of(value, seed_lease())


def ignore(progress: Progress) -> None:
    """Take no notice."""


async def test_a_job_is_done_by_a_child_that_serves_the_next_one_too(tmp_path: Path) -> None:
    job = step_job(tmp_path)
    async with worker(tmp_path) as made:
        assert made.pid is None
        answer = await made.run(job, ignore)
        first = made.pid
        assert answer == take_outer_step(BlobStore(Home.at(tmp_path).blobs), job)
        assert await made.run(job, ignore) == answer
        assert made.pid == first != os.getpid()
    assert made.pid is None


async def test_a_run_in_the_child_equals_a_run_in_this_process(tmp_path: Path) -> None:
    value, reports = tiny(), Reports()
    own = Performer(settings(tmp_path / "own"))
    async with worker(tmp_path / "child") as made:
        answer = await made.run(Derive(manifest=value), ignore)
        assert isinstance(answer, DerivedAnswer) and isinstance(answer.derivation, Derived)
        assert answer == own.perform(Derive(manifest=value), ignore)
        job = job_of(value, seed_lease(), answer.derivation.spec)
        trained = await made.run(job, reports)
        again = own.perform(job, ignore)
        assert isinstance(trained, SeedResult) and isinstance(again, SeedResult)
        assert trained.states == again.states
        assert (trained.loss_first, trained.loss_last) == (again.loss_first, again.loss_last)
        states = {blob.module: blob.digest for blob in trained.states}
        assert len(states) == 3
    assert reports.all[-1].done == reports.all[-1].total == TRAINING.seed_steps


async def test_what_goes_wrong_for_a_reason_comes_back_as_failed(tmp_path: Path) -> None:
    job = step_job(tmp_path)
    lost = msgspec.structs.replace(job, state=digest("nowhere"))
    there = Source(kind="files", revision="local", files=(CORPUS,), documents=120, window=120)
    hidden = job_of(tiny(source=there), seed_lease())
    async with worker(tmp_path) as made:
        answer = await made.run(lost, ignore)
        assert isinstance(answer, Failed)
        assert (answer.kind, answer.reason) == (
            "unavailable",
            f"blob {digest('nowhere')[:4].hex()} is not here",
        )
        answer = await made.run(hidden, ignore)
        assert isinstance(answer, Failed)
        assert answer.kind == "local" and "run.local_sources" in answer.reason
        assert isinstance(await made.run(job, ignore), Stepped)


async def test_cancelling_kills_the_child_in_mid_job_and_the_next_job_gets_a_new_one(
    tmp_path: Path,
) -> None:
    async with worker(tmp_path) as made:
        with trio.CancelScope() as scope:
            seen: list[Progress] = []

            def stop_at_the_second(progress: Progress) -> None:
                if progress.stage == "train":
                    seen.append(progress)
                if len(seen) == 2:
                    scope.cancel()

            await made.run(endless_job(), stop_at_the_second)
        assert scope.cancelled_caught
        assert made.pid is None
        assert (
            seen[1].done > seen[0].done
            and seen[1].tokens_per_second > 0
            and seen[1].loss is not None
        )
        assert isinstance(await made.run(step_job(tmp_path), ignore), Stepped)


async def test_a_child_that_is_killed_is_reported_and_replaced(tmp_path: Path) -> None:
    async with worker(tmp_path) as made:

        def kill(progress: Progress) -> None:
            if progress.stage == "train" and made.pid is not None:
                os.kill(made.pid, signal.SIGKILL)

        answer = await made.run(endless_job(), kill)
        assert isinstance(answer, Failed) and answer.kind == "local"
        assert "killed by the kernel: out of memory" in answer.reason
        assert isinstance(await made.run(step_job(tmp_path), ignore), Stepped)
        assert made.pid is not None
        os.kill(made.pid, signal.SIGKILL)  # while it has nothing to do
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
        assert isinstance(await made.run(step_job(tmp_path), ignore), Stepped)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refusal("no"), "refused"),
        (DiskFull("no"), "disk"),
        (Unavailable("no"), "unavailable"),
        (ConfigError("no"), "local"),
    ],
)
def test_what_goes_wrong_for_a_reason_says_of_which_kind_it_is(
    error: DipacoError, kind: str, tmp_path: Path
) -> None:
    class Failing(Performer):
        def perform(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
            raise error

    failing = Failing(settings(tmp_path))
    answer = perform(failing, step_job(tmp_path), ignore)
    assert answer == Failed(kind=kind, reason="no")  # type: ignore[arg-type]


async def test_jobs_take_turns_and_close_ends_a_running_one(tmp_path: Path) -> None:
    job, answers = step_job(tmp_path), []
    async with worker(tmp_path) as made:

        async def one() -> None:
            answers.append(await made.run(job, ignore))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert len(answers) == 3 and len(set(map(str, answers))) == 1

        started = trio.Event()

        async def endless() -> None:
            answers.append(await made.run(endless_job(), lambda progress: started.set()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(endless)
            await started.wait()
            await made.close()
    assert answers[-1] == Failed(kind="local", reason="this node ended the worker process")


async def test_a_bug_in_the_child_ends_it_and_its_last_words_are_told(tmp_path: Path) -> None:
    log: list[str] = []
    bug = msgspec.structs.replace(step_job(tmp_path), module="L9.E9")  # no such module
    async with worker(tmp_path, log) as made:
        answer = await made.run(bug, ignore)
        assert isinstance(answer, Failed)
        assert answer.reason.endswith("exited with code 1; its last line: KeyError: 'L9.E9'")
    assert any("Traceback" in line for line in log)


def child() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        COMMAND,
        env=environment(threads=1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_child_leaves_when_its_stdin_ends() -> None:
    with child() as process:
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, b"", b"")


def test_the_child_leaves_when_its_stdin_ends_within_a_frame(tmp_path: Path) -> None:
    with child() as process:
        frames = pack(settings(tmp_path)) + pack(endless_job())
        out, err = process.communicate(frames[:-1], timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, b"", b"")


def test_the_child_leaves_in_mid_job_when_its_stdin_ends(tmp_path: Path) -> None:
    with child() as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(pack(settings(tmp_path)) + pack(endless_job()))
        process.stdin.flush()
        header = process.stdout.read(4)
        assert isinstance(read_report(process.stdout.read(body_length(header))), Progress)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (struct.pack("<I", MAX_FRAME + 1), b"frame of 16777217 bytes where 16777216 are allowed"),
        (struct.pack("<I", 3) + b"abc", b"not a job: malformed"),
        (pack(Progress(stage="train", done=1, total=2)), b"not a job: malformed"),
    ],
)
def test_garbage_on_its_stdin_ends_the_child_with_a_line(
    tmp_path: Path, garbage: bytes, said: bytes
) -> None:
    with child() as process:
        out, err = process.communicate(pack(settings(tmp_path)) + garbage, timeout=PATIENCE)
        assert (process.returncode, out) == (2, b"")
        assert said in err and err.count(b"\n") == 1


async def test_garbage_from_the_child_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.stdout.write('hello, world'); sys.stdout.flush(); input()")

    made = Worker(settings(tmp_path), lambda line: None, command=[sys.executable, str(script)])
    with trio.fail_after(PATIENCE):
        answer = await made.run(step_job(tmp_path), ignore)
        await made.close()
    assert isinstance(answer, Failed) and "wrote a bad frame: a frame of" in answer.reason


def test_what_libraries_print_goes_to_stderr(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from dipaco.node.worker.process import protect_stdout\n"
        "pipe = protect_stdout()\n"
        "print('from python', flush=True); os.system('echo from a child'); os.write(1, b'raw')\n"
        "pipe.write(b'frames'); pipe.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert done.stdout == b"frames"
    assert done.stderr == b"from python\nfrom a child\nraw"


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def test_the_child_has_low_priority_and_never_spins(tmp_path: Path) -> None:
    assert environment(3)["OMP_WAIT_POLICY"] == "passive"
    assert environment(3)["OMP_NUM_THREADS"] == "3"
    low = settings(tmp_path, compute=ComputeSection(device="cpu", nice=7))
    with child() as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(pack(low) + pack(step_job(tmp_path)))
        process.stdin.flush()
        process.stdout.read(4)
        assert nice(process.pid) - nice(os.getpid()) == 7
        if sys.platform == "linux":
            assert psutil.Process(process.pid).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        process.communicate(timeout=PATIENCE)


def test_the_first_frame_carries_every_setting(tmp_path: Path) -> None:
    other = settings(
        tmp_path / "x y",
        run=RunSection(
            id=("tiny",),
            signers=(peer("owner"),),
            invitation="CODE",
            verify="warn",
            local_sources=True,
            whole_files=True,
        ),
        compute=ComputeSection(
            device="cuda:1",
            threads=7,
            max_batch=5,
            checkpointing="on",
            compile=True,
            moment_bits=8,
            nice=3,
            max_ram=MemoryBound(percent=50),
            duty=80,
            max_temp_c=70,
        ),
        storage=StorageSection(max_shards=9, cache_max=123, min_free=5),
    )
    for section in (other.run, other.compute, other.storage):
        plain = type(section)()
        fields = section.__struct_fields__
        assert [f for f in fields if getattr(section, f) != getattr(plain, f)] == list(fields)
    assert read_settings(pack(other)[4:]) == other


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"compute": ComputeSection(nice=99)},
            "compute.nice: 99 is not",
        ),
        (
            {"storage": StorageSection(max_shards=0)},
            "storage.max_shards: 0 is not",
        ),
    ],
)
def test_settings_out_of_their_bounds_end_the_child_with_a_line(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with child() as process:
        out, err = process.communicate(pack(settings(tmp_path, **wrong)), timeout=PATIENCE)
    assert (process.returncode, out) == (2, b"")
    assert "not a worker's settings: malformed WorkerSettings: " in err.decode()
    assert said in err.decode() and err.count(b"\n") == 1


def test_the_home_of_a_worker_is_an_absolute_path_in_utf_8() -> None:
    plain = settings(Path("here"))
    assert Path(plain.home) == Path.cwd() / "here"
    with pytest.raises(ValueError, match="home"):
        msgspec.structs.replace(plain, home="here")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        settings(Path(os.fsdecode(b"/srv/\xff")))


def test_a_home_that_an_ascii_locale_hides_is_refused_by_the_locale(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.settings import settings\n"
        "settings(Path(os.fsdecode(b'/srv/caf\\xc3\\xa9')))"
    )
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | ascii_alone,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=PATIENCE,
    )
    last = done.stderr.decode("ascii").splitlines()[-1]
    assert "ConfigError: home: " in last and "set LC_ALL=C.UTF-8" in last


async def test_the_child_stands_in_its_home_and_imports_nothing_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(tmp_path / "none")]))
    trap = tmp_path / "queue.py"  # the standard library's name for something it imports
    trap.write_text("raise SystemExit(9)")
    async with worker(tmp_path) as made:
        assert isinstance(await made.run(step_job(tmp_path), ignore), Stepped)
        assert psutil.Process(made.pid).cwd() == str(tmp_path.resolve())
    assert worker_environment(1)["PYTHONPATH"] == str(tmp_path / "none")
    assert worker_environment(1)["PYTHONSAFEPATH"] == "1"


async def test_the_signals_of_a_terminal_are_left_to_the_daemon(tmp_path: Path) -> None:
    async with worker(tmp_path) as made:
        await made.run(step_job(tmp_path), ignore)
        first = made.pid
        assert first is not None
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(first, number)
        assert isinstance(await made.run(step_job(tmp_path), ignore), Stepped)
        assert made.pid == first


async def test_a_child_that_finds_no_descriptor_fails_and_the_next_one_starts(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    job = step_job(tmp_path)
    async with worker(tmp_path) as made:
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            answer = await made.run(job, ignore)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert answer == Failed(
            kind="local", reason="no worker process starts: too many open files"
        )
        assert isinstance(await made.run(job, ignore), Stepped)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("jobs.runner", "torch datasets tokenizers pyarrow"),
        ("worker.performer", "torch datasets tokenizers"),
    ],
)
def test_heavy_libraries_are_loaded_by_the_jobs_that_need_them(module: str, heavy: str) -> None:
    code = (
        f"import sys, dipaco.node.{module}\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert (done.stdout.strip(), done.stderr) == (b"[]", b"")


def test_progress_is_sent_a_few_times_a_second_and_at_the_ends_of_a_stage() -> None:
    sent: list[Progress] = []
    now = 0.0
    throttle = Throttle(sent.append, lambda: now)
    for step in range(1, 11):
        throttle(Progress(stage="train", done=step, total=10))
        now += 0.1
    throttle(Progress(stage="evaluate", done=1, total=0))
    throttle(Progress(stage="evaluate", done=2, total=0))
    assert [(p.stage, p.done) for p in sent] == [
        ("train", 1),
        ("train", 4),
        ("train", 7),
        ("train", 10),
        ("evaluate", 1),
    ]


def test_a_death_is_described_for_a_person() -> None:
    assert "out of memory" in describe_death(-9, "")
    assert describe_death(-11, "") == "the worker process was ended by signal SIGSEGV"
    assert describe_death(1, "boom").endswith("exited with code 1; its last line: boom")
    assert "had to be killed" in describe_death(None, "")


@pytest.mark.parametrize(
    "derivation",
    [
        Derived(spec=any_spec(small_manifest()), authenticated=True),
        SourceFailure(stage="tokenizer", reason="nobody has it"),
        SourceFailure(stage="source", reason="no text column", lasting=True),
        LocalFailure(reason="out of memory"),
        FalseLabels(reason="no sheet"),
    ],
)
def test_what_a_derivation_came_to_is_told_as_it_is(derivation: Derivation) -> None:
    answer = DerivedAnswer(derivation=derivation)
    assert read_report(pack(answer)[4:]) == answer
    assert derivation_of(answer) is derivation


def test_a_worker_that_cannot_derive_is_a_failure_of_this_machine() -> None:
    for kind in get_args(FailureKind):
        failed = Failed(kind=kind, reason="killed")
        assert derivation_of(failed) == LocalFailure(reason="killed")


def test_frames_hold_what_was_packed_and_bugs_are_ours() -> None:
    report: Answer = Inspected(wrong="")
    assert read_report(pack(report)[4:]) == report
    value = small_manifest()
    job = job_of(value, seed_lease())
    assert read_job(pack(job)[4:]) == job
    with pytest.raises(LocalProtocolError, match="not a worker's answer"):
        read_report(pack(job)[4:])
