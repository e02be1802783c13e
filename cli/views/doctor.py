"""The checks of `doctor`, and the fit of a run on a device, for programs and for people."""

import msgspec

from dipaco.cli.views.text import duration
from dipaco.node.doctor.checks import Check
from dipaco.node.doctor.memory_fit import FitReport


def check_text(check: Check) -> str:
    """Return a check as one line, and its cure as a second one."""
    line = f"{check.verdict:<5} {check.name:<10} {check.words}"
    return f"{line}\n{'':<17}{check.cure}" if check.cure else line


def fit_table(fit: FitReport) -> dict[str, object]:
    """Return a fit for programs: the measurements, and the figures derived from them."""
    chosen = fit.chosen
    derived: dict[str, object] = {
        "fits": chosen is not None,
        "chosen": chosen,
        "tokens_per_second": fit.tokens_per_second,
        "lease_seconds": fit.lease_seconds,
        "settings": fit.settings,
    }
    return msgspec.to_builtins(fit) | derived  # type: ignore[no-any-return]


def fit_text(fit: FitReport) -> str:
    """Return a fit for people."""
    usable = fit.device.usable / 1e9
    lines = [
        f"\n{fit.run}: {fit.parameters:,} parameters a path, context {fit.context}, "
        f"batch {fit.batch}; {usable:.1f} GB usable on {fit.device.device}",
        f"{'micro-batch':>11}  {'checkpointing':>13}  {'peak memory':>11}  {'tokens/s':>10}",
    ]
    for each in fit.tries:
        again = "yes" if each.checkpointing else "no"
        peak = f"{each.peak / 1e9:.2f} GB" if each.peak else "too much"
        rate = f"{fit.rate(each):,.0f}" if each.fits else "does not fit"
        lines.append(f"{each.micro_batch:>11}  {again:>13}  {peak:>11}  {rate:>10}")
    return "\n".join([*lines, _conclusion(fit)])


def _conclusion(fit: FitReport) -> str:
    if fit.chosen is None:
        if not fit.tries:
            return f"does not fit: weights, gradients and moments are {fit.least / 1e9:.1f} GB"
        how = " with checkpointing" if fit.tries[-1].checkpointing else ""
        return f"does not fit: one sequence at a time{how} needs more than is usable"
    settings = ", ".join(f"{key} = {value}" for key, value in fit.settings.items()) or "nothing"
    with_ = "with" if fit.chosen.checkpointing else "without"
    return (
        f"fits: micro-batches of {fit.chosen.micro_batch}, {with_} checkpointing, "
        f"{fit.tokens_per_second:,.0f} tokens/s\n"
        f"a lease of {fit.inner_steps} steps takes {duration(fit.lease_seconds)}; it fetches at "
        f"most {fit.down / 1e6:.1f} MB and hands in {fit.up / 1e6:.1f} MB\n"
        f"a round of {fit.paths} paths would take this device alone "
        f"{duration(fit.paths * fit.lease_seconds)}\n"
        f"set: {settings}"
    )
