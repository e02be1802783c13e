"""The report of a finished run, of `testnet` and of `reference`, as JSON and as a table.

Both verbs write the same type, so that `reference --compare` can compare two reports: the module
digests of every version must be equal.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dipaco.cli.views.chaos import Chaos, chaos_lines, fault_table
from dipaco.cli.views.layout import Column, fitted_table, table_console
from dipaco.cli.views.text import label
from dipaco.node.api.values import EvaluationView
from dipaco.node.status.document import BlobBytes, Memory, StageTime, Totals, Verdict
from dipaco.node.storage.files import read_file, write_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.numbers import span
from dipaco.protocol.run.early_stopping import kept_version
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.work.losses import (
    bits_per_byte,
    bits_text,
    perplexity,
    sum_if_known,
    vocabulary_text,
)

SCHEMA: Final = 1
MAX_REPORT = 64 << 20  # bytes
EXACT: Final = ("documents", "tokens", "bytes")
"""Fields of an evaluation that follow from the data and the tokenizer."""


class PathLoss(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out loss of one path."""

    path: int
    version: int
    experts: tuple[int, ...]
    documents: int
    tokens: int
    """Scored positions."""
    nll: float
    """Summed, in nats."""
    perplexity: float | None
    """null: nothing was scored."""
    bytes: int | None = None
    """UTF-8 bytes of text that the tokens stand for; null: not known."""
    bits_per_byte: float | None = None


class RoutedLoss(msgspec.Struct, frozen=True, kw_only=True):
    """Routed held-out loss, with each path at its own version or all at the same one."""

    version: int | None
    """The version of all modules, 0: the seed model; None: each path has its own."""
    documents: int
    tokens: int
    nll: float
    perplexity: float | None
    """exp(sum of nll / sum of tokens): token-weighted over the paths; null: nothing was scored."""
    bytes: int | None = None
    """UTF-8 bytes of text that the tokens stand for; null: not known."""
    bits_per_byte: float | None = None
    paths: tuple[PathLoss, ...]


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the network, by its last status."""

    name: str
    peer: str
    verdict: Verdict
    killed: bool
    sent: int
    received: int
    """Bytes."""
    blobs: BlobBytes | None = None
    """The part of them that is blobs; null: a report of before this field."""
    memory: Memory
    totals: Totals
    stages: tuple[StageTime, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a run."""

    schema: Literal[1] = SCHEMA
    kind: Literal["testnet", "reference"]
    name: str
    run: str
    """Run id, hex."""
    manifest: str
    """Its canonical encoding, hex."""
    vocabulary: int | None = None
    """Token ids of the run's tokenizer: perplexities of two vocabularies do not compare."""
    completed: bool
    seconds: float
    states: dict[str, dict[int, str]]
    """Module: version: SHA-256 of the state, hex."""
    losses: tuple[RoutedLoss, ...]
    """By version, ascending."""
    early_stopped: RoutedLoss | None
    """The loss with each path at the version that it is used with; None without early stopping.

    The same documents choose the versions and give the loss, so it is a little too low.
    """
    nodes: tuple[NodeReport, ...]
    chaos: Chaos | None = None
    """The faults that the network met; null: none were ordered."""


def losses(manifest: Manifest, evaluations: Iterable[EvaluationView]) -> tuple[RoutedLoss, ...]:
    """Return the routed loss of every version that was evaluated, ascending."""
    by_version: dict[int, list[EvaluationView]] = {}
    for evaluation in evaluations:
        by_version.setdefault(evaluation.version, []).append(evaluation)
    return tuple(_routed(manifest, v, found) for v, found in sorted(by_version.items()))


def early_stopped(manifest: Manifest, evaluations: Iterable[EvaluationView]) -> RoutedLoss | None:
    """Return the routed loss with each path at the version that it is used with.

    None without early stopping.
    """
    if not manifest.training.early_stopping:
        return None
    by_path: dict[int, dict[int, EvaluationView]] = {}
    for evaluation in evaluations:
        by_path.setdefault(evaluation.path, {})[evaluation.version] = evaluation
    epoch = max((manifest.epoch_of(v) for own in by_path.values() for v in own), default=0)
    found = []
    for versions in by_path.values():
        if manifest.epoch_of(max(versions)) < epoch:
            continue  # the new router has no documents for it
        known = {v: e.nll / e.tokens for v, e in versions.items() if e.tokens}
        found.append(versions[kept_version(manifest, max(versions), known)])
    return _routed(manifest, None, found)


def _routed(manifest: Manifest, version: int | None, found: list[EvaluationView]) -> RoutedLoss:
    tokens, nll = sum(e.tokens for e in found), sum(e.nll for e in found)
    size = sum_if_known([e.bytes for e in found])
    return RoutedLoss(
        version=version,
        documents=sum(e.documents for e in found),
        tokens=tokens,
        nll=nll,
        perplexity=perplexity(nll, tokens),
        bytes=size,
        bits_per_byte=bits_per_byte(nll, size),
        paths=tuple(
            PathLoss(
                path=e.path,
                version=e.version,
                experts=experts_of(manifest.grid, e.path),
                documents=e.documents,
                tokens=e.tokens,
                nll=e.nll,
                perplexity=perplexity(e.nll, e.tokens),
                bytes=e.bytes,
                bits_per_byte=bits_per_byte(e.nll, e.bytes),
            )
            for e in sorted(found, key=lambda e: e.path)
        ),
    )


def build(
    kind: Literal["testnet", "reference"],
    manifest: Manifest,
    *,
    completed: bool,
    seconds: float,
    states: Mapping[str, dict[int, str]],
    evaluations: Iterable[EvaluationView],
    nodes: Iterable[NodeReport] = (),
    chaos: Chaos | None = None,
) -> Report:
    """Return the report of a run."""
    evaluated = tuple(evaluations)
    return Report(
        kind=kind,
        name=manifest.name,
        run=run_id(manifest).hex(),
        manifest=encode(manifest).hex(),
        vocabulary=manifest.tokenizer.vocabulary,
        completed=completed,
        seconds=seconds,
        states=dict(states),
        losses=losses(manifest, evaluated),
        early_stopped=early_stopped(manifest, evaluated),
        nodes=tuple(nodes),
        chaos=chaos,
    )


def write_report(path: Path, report: Report) -> None:
    """Write the report as JSON."""
    write_file(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read_report(path: Path) -> Report:
    """Read a report; raises ConfigError."""
    try:
        return msgspec.json.decode(read_file(path, limit=MAX_REPORT), type=Report)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: not a report: {error}") from None


def differences(ours: Report, theirs: Report) -> list[str]:
    """Return the differences in what is exact, a line each; empty if there are none.

    That is the run, the states, and the documents, tokens and bytes of each evaluation that both
    have; a report of before bytes were counted has none.
    """
    if ours.run != theirs.run:
        return [f"different runs: {ours.run[:16]} and {theirs.run[:16]}"]
    found = []
    for module in sorted(ours.states.keys() | theirs.states.keys()):
        left, right = ours.states.get(module, {}), theirs.states.get(module, {})
        for version in sorted(left.keys() | right.keys()):
            if left.get(version) != right.get(version):
                found.append(f"module {module} version {version}: {_pair(left, right, version)}")
    return found + _scored_differences(ours, theirs)


def checked(report: Report, single: Report) -> Report:
    """Return a network's report with the outcome of its check against one process."""
    if report.chaos is None:
        return report
    found = differences(report, single)
    chaos = msgspec.structs.replace(
        report.chaos, checked="differs" if found else "same", differences=tuple(found)
    )
    return msgspec.structs.replace(report, chaos=chaos, completed=report.completed and not found)


def _scored_differences(ours: Report, theirs: Report) -> list[str]:
    """Return the differences in what was scored, which is exact, unlike the loss of it."""
    found = []
    known = {(each.version, each.path): each for loss in theirs.losses for each in loss.paths}
    for left in (each for loss in ours.losses for each in loss.paths):
        right = known.get((left.version, left.path))
        if right is None:
            continue
        pairs = {name: (getattr(left, name), getattr(right, name)) for name in EXACT}
        found += [
            f"evaluation {left.version} of path {left.path}: {mine} and {other} {name}"
            for name, (mine, other) in pairs.items()
            if mine != other and None not in (mine, other)
        ]
    return found


def _pair(left: Mapping[int, str], right: Mapping[int, str], version: int) -> str:
    digests = [side.get(version, "missing")[:16] for side in (left, right)]
    return f"{digests[0]} and {digests[1]}"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the table of losses, and of the nodes if there are any; on stdout by default."""
    console = console or table_console()
    console.print(_loss_table(report, console.width))
    if report.nodes:
        console.print(_node_table(report, console.width))
        console.print(_stage_table(report, console.width))
    if report.chaos is not None:
        console.print(fault_table(report.chaos, console.width))
        for line in chaos_lines(report.chaos):
            console.print(Text(line))
    console.print(_summary(report))


def _loss_table(report: Report, width: int) -> Table:
    paths = report.losses[-1].paths if report.losses else ()
    columns = [Column("model", words=True), Column("routed"), Column("bits/byte", drop=1)]
    columns += [Column(f"path {label(p.experts)}", drop=2) for p in paths]
    rows = []
    last = len(report.losses) - 1
    for place, loss in enumerate(report.losses):
        name = "seed model" if loss.version == 0 else f"round {loss.version}"
        name = "final model" if place == last and loss.version and report.completed else name
        per_path = {p.path: _shown(p.perplexity) for p in loss.paths}
        cells = (per_path.get(p.path, "-") for p in paths)
        rows.append((name, *_both(loss), *cells))
    if report.early_stopped:
        best = {p.path: f"{_shown(p.perplexity)} @{p.version}" for p in report.early_stopped.paths}
        cells = (best.get(p.path, "-") for p in paths)
        rows.append(("early-stopped", *_both(report.early_stopped), *cells))
    end = len(rows) - 1
    if paths:
        tokens = (str(p.tokens) for p in paths)
        rows.append(("tokens", str(report.losses[-1].tokens), "", *tokens))
    title = f"routed validation perplexity{_vocabulary(report)}"
    return fitted_table(title, columns, rows, width, ends={end})


def _both(loss: RoutedLoss) -> tuple[str, str]:
    return _shown(loss.perplexity), bits_text(loss.bits_per_byte)


def _vocabulary(report: Report) -> str:
    """Return the vocabulary in brackets; nothing for a report of before this field."""
    found = report.vocabulary
    return "" if found is None else f" ({vocabulary_text(found)})"


NODE_COLUMNS: Final = (
    Column("node", words=True),
    Column("router", words=True, drop=1),
    Column("tasks"),
    Column("sent MB", drop=3),
    Column("recv MB", drop=4),
    Column("of all blobs", drop=3),
    Column("RSS MB", drop=2),
    Column("peak", drop=6),
    Column("worker", drop=5),
)


def _node_table(report: Report, width: int) -> Table:
    rows, blobs = [], sum(node.blobs.sent for node in report.nodes if node.blobs)
    for node in report.nodes:
        memory = (node.memory.daemon, node.memory.peak, node.memory.worker)
        cells = (
            node.name + (" (killed)" if node.killed else ""),
            node.verdict,
            str(node.totals.accepted),
            f"{node.sent / 1e6:.1f}",
            f"{node.received / 1e6:.1f}",
            f"{node.blobs.sent / blobs:.0%}" if node.blobs and blobs else "",
            *(f"{size / 1e6:.0f}" for size in memory),
        )
        rows.append(cells)
    return fitted_table("nodes", NODE_COLUMNS, rows, width)


def stage_seconds(nodes: Iterable[NodeReport]) -> dict[str, tuple[float, int]]:
    """Return per stage its seconds and its count, summed over `nodes`."""
    total: dict[str, tuple[float, int]] = {}
    for node in nodes:
        for stage in node.stages:
            seconds, count = total.get(stage.stage, (0.0, 0))
            total[stage.stage] = (seconds + stage.seconds, count + stage.count)
    return total


def _stage_table(report: Report, width: int) -> Table:
    columns = (Column("stage", words=True), Column("seconds"), Column("times"))
    rows = [
        (stage, f"{seconds:.1f}", str(times))
        for stage, (seconds, times) in stage_seconds(report.nodes).items()
    ]
    return fitted_table("time per stage, all nodes", columns, rows, width)


def _shown(found: float | None) -> str:
    return "-" if found is None else f"{found:.2f}"


def _summary(report: Report) -> str:
    ended = f"{'completed' if report.completed else 'not completed'} in {span(report.seconds)}"
    scored = [each for each in report.losses if each.perplexity is not None]
    if len(scored) < 2:
        return ended
    first, last, bits = scored[0].perplexity, scored[-1].perplexity, scored[-1].bits_per_byte
    assert first is not None and last is not None
    return (
        f"{ended}: perplexity {first:.1f} -> {last:.1f} ({last / first:.3f} of the seed model's)"
        + ("" if bits is None else f", {bits:.3f} bits per byte")
    )
