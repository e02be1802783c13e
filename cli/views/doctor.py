"""The checks of `doctor`, and the fit of a run on a device, for programs and for people."""

from collections.abc import Sequence
from typing import Final

import msgspec

from dipaco.cli.views.layout import Column, fitted, table_text
from dipaco.node.doctor.check import Check
from dipaco.node.doctor.memory_fit import FitReport, Try
from dipaco.node.jobs.values import Described
from dipaco.protocol.numbers import count, size, span

CHECK_HANG: Final = 17  # columns before the words of a check
COLUMNS: Final = (
    Column("micro-batch"),
    Column("checkpointing", drop=1),
    Column("peak memory", drop=2),
    Column("tokens/s"),
)


def check_text(check: Check, width: int | None = None) -> str:
    """Return a check as a line, and its cure as a second one, no wider than `width` columns."""
    line = f"{check.verdict:<5} {check.name:<10} {check.words}"
    text = f"{line}\n{'':<{CHECK_HANG}}{check.cure}" if check.cure else line
    return fitted(text, width, hang=CHECK_HANG)


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The demands of a run on a device, the measurements, and what follows from them."""

    run: str
    """The run's name."""
    device: Described
    """The device that was measured."""
    parameters: int
    """Number of one path's parameters."""
    batch: int
    """Sequences of a step."""
    context: int
    """Tokens of a sequence."""
    inner_steps: int
    """Steps of a lease."""
    paths: int
    """Number of the run's paths."""
    least: int
    """Bytes of weights, gradients and moments, without any sequence: a lower bound."""
    down: int
    """Bytes that a lease fetches at most."""
    up: int
    """Bytes that a lease hands in."""
    tries: tuple[Try, ...]
    """Every measurement."""
    fits: bool
    """Whether a path fits the device."""
    chosen: Try | None
    """The largest micro-batch that fits and is about as fast as any; null: none fits."""
    tokens_per_second: float
    """Of training at that micro-batch; 0: none fits."""
    lease_seconds: float
    """Seconds of a lease's inner steps; 0: none fits."""
    settings: dict[str, int | str]
    """The settings to change, by key of the configuration; empty: the defaults fit."""


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `doctor --json`."""

    checks: tuple[Check, ...]
    """All checks, in their order."""
    fit: Fit | None
    """null without `--fit`."""


def doctor_report(checks: Sequence[Check], fit: FitReport | None) -> DoctorReport:
    """Return the report for programs."""
    return DoctorReport(checks=tuple(checks), fit=None if fit is None else _fit(fit))


def _fit(fit: FitReport) -> Fit:
    return Fit(
        **{name: getattr(fit, name) for name in FitReport.__struct_fields__},
        fits=fit.chosen is not None,
        chosen=fit.chosen,
        tokens_per_second=fit.tokens_per_second,
        lease_seconds=fit.lease_seconds,
        settings=fit.settings,
    )


def fit_text(fit: FitReport, width: int | None = None) -> str:
    """Return a fit for people, no wider than `width` columns; None: of any width."""
    head = (
        f"{fit.run}: {count(fit.parameters, 'parameter')} a path, context {fit.context}, "
        f"batch {fit.batch}; {size(fit.device.usable)} usable on {fit.device.device}"
    )
    rows = []
    for each in fit.tries:
        again = "yes" if each.checkpointing else "no"
        peak = size(each.peak) if each.peak else "too much"
        rate = f"{fit.rate(each):,.0f}" if each.fits else "does not fit"
        rows.append((str(each.micro_batch), again, peak, rate))
    table = [table_text(COLUMNS, rows, width)] if rows else []
    return "\n".join(["", fitted(head, width), *table, fitted(_conclusion(fit), width)])


def _conclusion(fit: FitReport) -> str:
    if fit.chosen is None:
        if not fit.tries:
            return f"does not fit: weights, gradients and moments are {size(fit.least)}"
        how = " with checkpointing" if fit.tries[-1].checkpointing else ""
        return f"does not fit: one sequence at a time{how} needs more than is usable"
    settings = ", ".join(f"{key} = {value}" for key, value in fit.settings.items()) or "nothing"
    with_ = "with" if fit.chosen.checkpointing else "without"
    return (
        f"fits: micro-batches of {fit.chosen.micro_batch}, {with_} checkpointing, "
        f"{fit.tokens_per_second:,.0f} tokens/s\n"
        f"a lease of {count(fit.inner_steps, 'step')} takes {span(fit.lease_seconds)}; it fetches "
        f"at most {size(fit.down)} and hands in {size(fit.up)}\n"
        f"a round of {count(fit.paths, 'path')} would take this device alone "
        f"{span(fit.paths * fit.lease_seconds)}\n"
        f"set: {settings}"
    )
