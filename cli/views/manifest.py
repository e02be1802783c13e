"""A manifest as text, for a person who may lend a machine to the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from dipaco.cli.answers import MadeAnswer, ManifestAnswer, RunAnswer
from dipaco.cli.views.layout import Column, fitted, table_text
from dipaco.node.runs.files import RunFile
from dipaco.protocol.numbers import count, span
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.training import Adam, Muon
from dipaco.protocol.wire.identity import PeerId, fingerprint, short_peer
from dipaco.protocol.wire.text import escaped

WHOLE_PEERS: Final = 100  # columns from which on PeerIDs are shown whole
RUN_COLUMNS: Final = (
    Column("id", words=True),
    Column("name", words=True),
    Column("signer", words=True, drop=2),
    Column("owner", words=True, drop=1),
)


def manifest_line(manifest: Manifest) -> str:
    """Return name, id and grid in a line."""
    grid = "x".join(str(level.experts) for level in manifest.grid.levels)
    return f"{manifest.name} {run_id(manifest).hex()[:16]}, {grid}, {count(manifest.paths, 'path')}"


def run_answer(manifest: Manifest) -> RunAnswer:
    """Return a run of a list, for JSON."""
    return RunAnswer(**_of_run(manifest))


def made_answer(file: Path, manifest: Manifest, *, signed: bool) -> MadeAnswer:
    """Return a run that was made, for JSON."""
    return MadeAnswer(**_of_run(manifest), signed=signed, file=str(file))


def _of_run(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": run_id(manifest).hex(),
        "name": manifest.name,
        "owner": manifest.owner,
        "grid": tuple(level.experts for level in manifest.grid.levels),
        "paths": manifest.paths,
    }


def manifest_answer(run: RunFile) -> ManifestAnswer:
    """Return the whole manifest under its own names, for JSON; bytes are hexadecimal."""
    fields = _in_hex(msgspec.to_builtins(run.manifest, builtin_types=(bytes,)))
    return ManifestAnswer(id=run.id.hex(), signer=run.signed.signer, manifest=fields)


def _in_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _in_hex(each) for name, each in value.items()}
    return [_in_hex(each) for each in value] if isinstance(value, list | tuple) else value


def runs_text(runs: Sequence[RunFile], width: int | None = None) -> str:
    """Return a line for each run, no wider than `width` columns; None: of any width."""
    rows: list[tuple[str, ...]] = [
        (
            each.id.hex()[:16],
            each.manifest.name,
            fingerprint(each.manifest.owner),
            each.manifest.owner,
        )
        for each in runs
    ]
    if width is not None and width < WHOLE_PEERS:
        rows = [(*others, short_peer(PeerId(owner))) for *others, owner in rows]
    return table_text(RUN_COLUMNS, rows, width)


def manifest_text(run: RunFile, width: int | None = None) -> str:
    """Return the whole manifest, a line per part, no wider than `width`; None: of any width."""
    m = run.manifest
    rows = [
        ("run", f"{m.name}  id {run.id.hex()}"),
        ("owner", f"{m.owner}  (signature checked)"),
        ("signer", fingerprint(m.owner)),
        ("source", _source(m)),
        ("files", "\n         ".join(_files(m)) or "none"),
        (
            "tokens",
            f"{count(m.tokenizer.vocabulary, 'id')}, tokenizer {m.tokenizer.sha256.hex()[:16]}",
        ),
        ("model", _model(m)),
        ("grid", _grid(m)),
        ("router", _router(m)),
        ("training", _training(m)),
        ("schedule", _schedule(m)),
    ]
    text = "\n".join(f"{name:<8} {text}" for name, text in rows)
    return fitted(text, width, hang=9)


def _source(m: Manifest) -> str:
    s = m.source
    return (
        f"{s.kind} {escaped(s.revision)}, {count(s.documents, 'document')}, "
        f"field {s.text_field!r}, {count(s.windows, 'window')} of {s.window:,}"
    )


def _files(m: Manifest) -> list[str]:
    shown = [
        f"{escaped(f.name)}  {count(f.size, 'byte')}  {f.sha256.hex()[:16]}"
        for f in m.source.files[:8]
    ]
    more = len(m.source.files) - len(shown)
    return [*shown, f"and {more} more"] if more else shown


def _model(m: Manifest) -> str:
    top = m.topology
    path = sum(tensor.size for tensor in top.path_tensors(0))
    total = sum(top.elements(module) for module in top.modules)
    return (
        f"{count(m.grid.blocks, 'block')}, d_model {m.model.d_model}, "
        f"{count(m.model.heads, 'head')}, context {m.model.context}; "
        f"{count(path, 'parameter')} a path, {total:,} in all"
    )


def _grid(m: Manifest) -> str:
    levels = " x ".join(
        f"{count(v.experts, 'expert')} of {count(v.blocks, 'block')}" for v in m.grid.levels
    )
    own = [f"block {i}" for i in m.grid.path_specific_blocks]
    own += ["stem"] if m.grid.path_specific_stem else []
    each = f"; own to each path: {', '.join(own)}" if own else ""
    return f"{levels}; {count(m.paths, 'path')}{each}"


def _router(m: Manifest) -> str:
    r = m.routing
    if r.kind != "kmeans":
        return r.kind
    return (
        f"{r.kind} on {count(r.sample, 'document')}, first {count(r.prefix, 'token')}, "
        f"{count(r.dimension, 'feature')} of {r.featurizer}, "
        f"{count(r.restarts, 'restart')}; {r.validation_bp / 100:g} % held out"
        + ("" if r.scored_from is msgspec.UNSET else f", scored from token {r.scored_from} on")
    )


def _training(m: Manifest) -> str:
    t = m.training
    return (
        f"{count(t.seed_steps, 'seed step')}, {count(t.rounds, 'round')} of "
        f"{count(t.inner_steps, 'step')} of {count(t.batch, 'sequence')}; "
        f"{_inner(t.inner)}, Nesterov {t.outer.lr:g}/{t.outer.momentum:g}; "
        f"deltas {t.deltas}, updates {t.updates}; seed {m.seed}"
    )


def _inner(inner: Adam | Muon) -> str:
    if isinstance(inner, Muon):
        return f"Muon {inner.lr:g}, AdamW {inner.adamw_lr:g}"
    return f"AdamW {inner.lr:g}"


def _schedule(m: Manifest) -> str:
    s = m.schedule
    who = count(len(s.members), "listed peer") if s.members else "anybody"
    return f"by {', '.join(s.schedulers)}; {who} may join; leases of {span(s.lease_ttl)}"
