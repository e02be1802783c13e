"""The verb in this process, its worker in a real one; no GPU is needed, nothing is left behind."""

import json
from pathlib import Path

import pytest
import torch

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.cli.views.doctor import fit_text
from dipaco.node.doctor.memory_fit import FitReport, Try
from dipaco.node.jobs.values import Described
from tests.e2e.tiny import TINY

HUGE = TINY.replace("d_model = 16", "d_model = 8192").replace("d_ff = 32", "d_ff = 65536")
GB = 10**9


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").write_text('[node]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n')
    return tmp_path


FIT = FitReport(
    run="shelf",
    device=Described(device="cuda:0", name="Card", driver="", memory=8 * GB, usable=7 * GB),
    parameters=150_000_000,
    batch=8,
    context=1024,
    inner_steps=100,
    paths=16,
    least=2_400_000_000,
    down=600_000_000,
    up=300_000_000,
    tries=(
        Try(micro_batch=1, checkpointing=False, fits=False, peak=8 * GB),
        Try(
            micro_batch=1,
            checkpointing=True,
            fits=True,
            peak=6 * GB,
            micro_seconds=0.1,
            step_seconds=0.2,
        ),
    ),
)


def said(
    capsys: pytest.CaptureFixture[str], home: Path, toml: str | None, *flags: str
) -> tuple[int, str]:
    given = ["doctor", "--home", str(home), *flags]
    if toml is not None:
        (home / "my.toml").write_text(toml)
        given += ["--fit", str(home / "my.toml")]
    capsys.readouterr()
    return run(given), capsys.readouterr().out


def test_a_path_is_measured_before_anything_is_leased(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--device", "cpu", "--max-batch", "1", "--json")
    code, out = said(capsys, home, TINY, *flags)
    found = json.loads(out)
    assert code == Exit.OK
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert verdicts["device"] == verdicts["source"] == verdicts["port"] == "ok"
    fit = found["fit"]
    assert fit["fits"] and [t["micro_batch"] for t in fit["tries"]] == [1]
    assert fit["chosen"] == fit["tries"][-1] and not fit["chosen"]["checkpointing"]
    assert 0 < fit["up"] <= fit["down"] == 4 * fit["parameters"]
    assert fit["settings"] == {"compute.max_batch": 1}
    assert fit["tokens_per_second"] > 0 and fit["lease_seconds"] > 0
    assert sorted(path.name for path in home.iterdir()) == ["config.toml", "my.toml"]


def test_a_path_that_does_not_fit_has_a_code_of_its_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = said(capsys, home, HUGE, "--device", "cpu")
    assert code == Exit.NO_DEVICE
    assert out.splitlines()[-1].startswith("does not fit: weights, gradients and moments are ")


def test_a_missing_device_has_the_same_code(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = said(capsys, home, None, "--device", "cuda:99")
    assert code == Exit.NO_DEVICE
    why = "there are" if torch.cuda.is_available() else "this torch sees no CUDA device"
    assert f"fail  device     device cuda:99: {why}" in out


def test_a_fit_is_told_in_words() -> None:
    words = fit_text(FIT)
    assert "150,000,000 parameters a path, context 1024, batch 8; 7.0 GB usable on cuda:0" in words
    assert "fits: micro-batches of 1, with checkpointing, 8,192 tokens/s" in words
    assert "a round of 16 paths would take this device alone 26 min 40 s" in words
    assert words.splitlines()[-1] == ("set: compute.max_batch = 1, compute.checkpointing = on")
    assert "fetches at most 600.0 MB and hands in 300.0 MB" in words
