"""A dry run: find the run, verify its router, measure whether a path fits, and lease nothing."""

from collections.abc import Callable

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.doctor.memory_fit import find_fit
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.jobs.values import Describe, Described, Failed
from dipaco.node.roles.offers import RunChooser
from dipaco.node.runs.record import RunRecord
from dipaco.node.stay import PEER_SECONDS
from dipaco.protocol.errors import NoDevice, Unavailable
from dipaco.protocol.numbers import count, size
from dipaco.protocol.wire.digest import short
from dipaco.protocol.wire.identity import fingerprint

VERIFY_SECONDS = 600.0  # for the router: a long derivation takes minutes; a source may be away


async def rehearse(node: Node, reporter: StatusReporter, say: Callable[[str], None]) -> None:
    """Do all that comes before the first lease, and tell the outcome in lines.

    Raises Unavailable if that takes too long, with the reason that holds then; NoDevice if no path
    fits; Refusal and Unverifiable as training does.
    """
    record = None
    with trio.move_on_after(PEER_SECONDS):
        record = await RunChooser(node).next_run()
    if record is None:
        raise Unavailable(f"no run in {PEER_SECONDS:g} s: {node.activity.reason.text}")
    reporter.runs[:] = [record]
    with trio.move_on_after(VERIFY_SECONDS) as verifying:
        await _verify(node, record, say)
    if verifying.cancelled_caught:
        raise Unavailable(f"not verified in {VERIFY_SECONDS:g} s: {node.activity.reason.text}")
    await _fit(node, record, say)


async def _verify(node: Node, record: RunRecord, say: Callable[[str], None]) -> None:
    manifest = record.manifest
    signed = fingerprint(manifest.owner)
    say(f"run      {manifest.name}  {short(record.run)}  signed by {signed}")
    check_moment_bits(node.config.compute.moment_bits, manifest)
    for epoch in range(max(record.state.epoch, 0) + 1):
        await node.verifier.verified_spec(record, epoch)
    say(f"router   {node.activity.of(record.run).verdict}")
    say(f"lease    {_next_lease(record)}")


def _next_lease(record: RunRecord) -> str:
    """Return what this node would ask the scheduler for."""
    if record.over:
        return "none: the run is over"
    training, paths = record.manifest.training, record.manifest.paths
    round_ = min(map(record.state.path_version, range(paths))) + 1
    if not round_:
        return "the seed model, or while another node trains it a wait for round 1"
    steps = count(training.inner_steps, "step")
    return f"{steps} of one of {paths} paths in round {round_} of {training.rounds}"


async def _fit(node: Node, record: RunRecord, say: Callable[[str], None]) -> None:
    device = await node.worker.run(Describe(), lambda progress: None)
    if not isinstance(device, Described):
        raise NoDevice(device.reason if isinstance(device, Failed) else "it cannot be asked")
    compute = node.config.compute
    fit = await find_fit(record.manifest, node.worker, device, compute=compute, on_try=_quiet)
    if fit.chosen is None:
        raise NoDevice(f"a path of {record.manifest.name} does not fit {device}")
    sequences = count(fit.chosen.micro_batch, "sequence")
    say(
        f"fits     {device}: {sequences} at once, {size(fit.chosen.peak)}, "
        f"{fit.tokens_per_second:,.0f} tokens/s"
    )


def _quiet(_tried: object) -> None:
    """Take a measurement that is not told: the last one sums them up."""
