"""The facts of a run that its report shows, from the signed manifest and ledger alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dipaco.node.runs.files import RunFile
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.credits import Credit, credits_of
from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.losses import bits_per_byte, perplexity, stated_bytes, sum_if_known
from dipaco.protocol.work.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The held-out loss of one path, or of all, at one version."""

    version: int
    tokens: int
    nll: float
    """Nats, summed."""
    bytes: int | None

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens

    @property
    def perplexity(self) -> float:
        """Of the run's vocabulary."""
        found = perplexity(self.nll, self.tokens)
        assert found is not None
        return found

    @property
    def bits_per_byte(self) -> float | None:
        """None: the bytes are not known."""
        return bits_per_byte(self.nll, self.bytes)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """All that a report shows of a run."""

    run: RunFile
    records: int
    head: Digest
    """Of the ledger that all of this follows from."""
    state: RunState
    over: bool
    credits: tuple[Credit, ...]
    overall: tuple[Loss, ...]
    """By version: of all paths that are evaluated there, if these are all that ever are."""
    losses: Mapping[int, tuple[Loss, ...]]
    """By path."""
    specs: Mapping[Digest, RouterSpec]
    """The routers that are here, of those that the ledger adopted."""


def facts_of(
    run: RunFile,
    records: Sequence[LedgerRecord],
    head: Digest,
    specs: Mapping[Digest, RouterSpec],
) -> RunFacts:
    """Fold a ledger that was checked."""
    state = RunState(run.manifest)
    for record in records:
        state.apply(record.entry)
    found: dict[int, list[Loss]] = {}
    for (version, path), entry in sorted(state.evaluations.items()):
        if entry.evaluation.tokens:
            found.setdefault(path, []).append(_loss(version, [entry.evaluation]))
    return RunFacts(
        run=run,
        records=len(records),
        head=head,
        state=state,
        over=_over(state),
        credits=credits_of(run.manifest, (record.entry for record in records)),
        overall=overall_losses(state, {path for _, path in state.evaluations}),
        losses={path: tuple(each) for path, each in sorted(found.items())},
        specs={digest: specs[digest] for digest in state.specs if digest in specs},
    )


def modules_of(state: RunState) -> list[tuple[ModuleId, int, Digest]]:
    """Return every module with its last version and the digest of its state."""
    return [(module, len(held) - 1, held[-1]) for module, held in state.states.items()]


def _over(state: RunState) -> bool:
    last = state.manifest.training.rounds
    return state.seeded and all(len(held) - 1 >= last for held in state.states.values())


def overall_losses(state: RunState, paths: Collection[int]) -> tuple[Loss, ...]:
    """Return the loss of each version that all of `paths` are evaluated at, ascending."""
    by_version: dict[int, dict[int, Evaluation]] = {}
    for (version, path), entry in state.evaluations.items():
        by_version.setdefault(version, {})[path] = entry.evaluation
    return tuple(
        _loss(version, list(held.values()))
        for version, held in sorted(by_version.items())
        if held.keys() >= set(paths) and any(each.tokens for each in held.values())
    )


def _loss(version: int, found: Sequence[Evaluation]) -> Loss:
    return Loss(
        version=version,
        tokens=sum(each.tokens for each in found),
        nll=sum(each.nll for each in found),
        bytes=sum_if_known(stated_bytes(each) for each in found),
    )
