"""`dipaco-node compare`: its options, and one comparison that is killed on its way.

Rules of this file: the one real comparison is a process of its own, killed after a line of its
output, never after a time.
"""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dipaco.cli.commands.compare import methods_of, rate_list, rates_of, seeds_of, windows_of
from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.cli.testnet.local_run import run_named
from dipaco.node.compare.folder import seed_folder
from dipaco.node.compare.rerouting import reroute_trial
from dipaco.node.compare.results import read_result
from dipaco.node.compare.study import finished
from dipaco.node.compare.summary import Comparison
from dipaco.node.compare.trials import own_trial
from dipaco.node.compare.variants import METHODS, USUAL, with_seed
from dipaco.node.compare.work import prepare, train
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError

TINY = """
name = "tiny"
seed = 0
[source]
kind = "synthetic"
documents = 120
[model]
d_model = 8
heads = 2
kv_heads = 1
d_ff = 16
context = 48
[grid]
levels = [{ experts = 2, blocks = 1 }, { experts = 2, blocks = 1 }]
[routing]
sample = 64
dimension = 64
validation_bp = 1500
router_bp = 3000
[training]
seed_steps = 2
rounds = 2
inner_steps = 2
batch = 2
[training.inner]
lr = 0.01
warmup = 1
[training.outer]
"""
COMPARED = ("dense", "diloco", "dipaco", "dipaco-reshard")
"""A method of each kind of stream: `tests/node/compare/test_work.py` trains them all."""
TIMEOUT = 240.0  # seconds; it takes 8 on two cores


def test_methods_are_the_usual_ones_or_those_given_in_that_order() -> None:
    assert methods_of(None) == USUAL
    assert methods_of("dipaco, dense,dipaco") == ("dipaco", "dense")
    assert methods_of("dipaco+int4+reset,dipaco+reset+int4") == ("dipaco+reset+int4",)


def test_an_ablation_that_is_none_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(ConfigError, match=r"--methods: 'int' is none of muon, .*int8\?"):
        methods_of("dipaco+int")
    with pytest.raises(ConfigError, match="--methods: '' is none of"):
        methods_of("dipaco+")


def test_rates_are_for_all_methods_or_for_one() -> None:
    assert rates_of(()) == {}
    assert rates_of(["1e-3,2e-3,1e-3", "dipaco+int4:5e-3"]) == {
        "": (1e-3, 2e-3),
        "dipaco+int4": (5e-3,),
    }


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1e-3;2e-3", "1e4"])
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--outer-rates: "):
        rate_list(text, "--outer-rates")


@pytest.mark.parametrize("text", ["", "dens", "dense,,dipaco", "DENSE", "dense;dipaco"])
def test_a_method_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--methods: '.*' is none of dense, dense-compute"):
        methods_of(text)


def test_a_number_of_seeds_counts_from_zero_and_a_list_is_taken_as_it_is() -> None:
    assert seeds_of("3") == (0, 1, 2)
    assert seeds_of("7,2,7") == (7, 2)
    assert seeds_of("5,") == (5,)


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "1001", "1,,2", "-1,2", "1.5", "9" * 5000, f"0,{2**53 + 1}"]
)
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds: "):
        seeds_of(text)


def test_windows_are_tokens_between_two_choices() -> None:
    assert windows_of(None) == ()
    assert windows_of("128,64,64") == (128, 64)
    for text in ("", "0", "64,-1", "x", "64;32"):
        with pytest.raises(ConfigError, match="--reroute: "):
            windows_of(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "dens"], "--methods: 'dens' is none of"),
        (["--seeds", "no"], "--seeds: 'no' is neither"),
        (["--rates", "0.1,no"], "--rates: '0.1,no' is not a list of rates"),
        (["--rates", "dens:0.1"], "--methods: 'dens' is none of"),
        (["--reroute", "0"], "--reroute: '0' has a window"),
        (["no-such.toml"], "no-such.toml"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_no_folder(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(["compare", *arguments, "--out", str(out)]) == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_a_comparison_that_was_killed_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    """Killed while DiLoCo trains; the second start does all the rest. Here it goes in one piece."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [sys.executable, "-m", "dipaco.cli.main", "compare", "tiny.toml", "--out", "out"]
    first = subprocess.Popen(
        [*command, "--methods", "dense,diloco"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    for line in first.stderr:
        if "diloco,lr=0.01,outer=0.7: begins" in line:
            first.send_signal(signal.SIGKILL)
            break
    first.stderr.close()
    assert first.wait(TIMEOUT) == -signal.SIGKILL
    out = tmp_path / "out"
    assert not (out / "compare.json").exists()
    dense = (out / "seed-0" / "dense,lr=0.01.json").read_bytes()
    everything = ["--jobs", "2", "--methods", ",".join(COMPARED), "--reroute", "16"]
    done = subprocess.run(
        [*command, *everything], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert "written to out: compare.json, compare.md, compare.png" in done.stdout
    assert (out / "seed-0" / "dense,lr=0.01.json").read_bytes() == dense, "it was finished"
    found = read_result(out / "compare.json", Comparison)
    assert timeless(found) == timeless(in_one_piece(tmp_path))


def in_one_piece(folder: Path) -> Comparison:
    """Return the same comparison, made in this process."""
    local = run_named(str(folder / "tiny.toml"), blobs=BlobStore(folder / "blobs"))
    seed = seed_folder(folder / "whole", with_seed(local.run.manifest, 0))
    seed.root.mkdir(parents=True)
    prepare(seed, "cpu", silent)
    for name in COMPARED:
        own = own_trial(name, seed.manifest)
        train(seed, own, "cpu", silent)
        if METHODS[name].is_routed:
            reroute_trial(seed, own, (16,), device="cpu", on_work=silent)
    return finished("tiny", [seed])


def silent(what: str, steps: int) -> None:
    """Hear of no progress."""


def timeless(found: Comparison) -> Comparison:
    """Return a comparison without how long it took."""
    results = tuple(msgspec.structs.replace(each, seconds=0.0) for each in found.results)
    return msgspec.structs.replace(found, results=results)


def test_a_damaged_result_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "out" / "seed-0").mkdir(parents=True)
    (tmp_path / "out" / "seed-0" / "dense,lr=0.01.json").write_text("{")
    given = [str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")]
    assert run(["compare", *given]) == Exit.USAGE
    assert "dense,lr=0.01.json: not a result of a comparison" in capsys.readouterr().err
