"""A manifest as text, for a person who may lend a machine to the run."""

from typing import Any

import msgspec

from dipaco.node.runs.files import RunFile
from dipaco.protocol.run.manifest import Manifest, run_id


def manifest_line(manifest: Manifest) -> str:
    """Return name, id and grid in a line."""
    grid = "x".join(str(level.experts) for level in manifest.grid.levels)
    return f"{manifest.name} {run_id(manifest).hex()[:16]}, {grid}, {manifest.paths} paths"


def run_table(manifest: Manifest, signed: bool = True) -> dict[str, Any]:
    """Return a run's id, name, owner, grid and number of paths, for JSON."""
    return {
        "id": run_id(manifest).hex(),
        "name": manifest.name,
        "owner": manifest.owner,
        "grid": [level.experts for level in manifest.grid.levels],
        "paths": manifest.paths,
        "signed": signed,
    }


def manifest_table(run: RunFile) -> dict[str, Any]:
    """Return the whole manifest under its own names, for JSON; bytes are hexadecimal."""
    fields = _in_hex(msgspec.to_builtins(run.manifest, builtin_types=(bytes,)))
    return {"id": run.id.hex(), "signer": run.signed.signer, "manifest": fields}


def _in_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _in_hex(each) for name, each in value.items()}
    return [_in_hex(each) for each in value] if isinstance(value, list | tuple) else value


def manifest_text(run: RunFile) -> str:
    """Return the whole manifest as text, a line per part."""
    m = run.manifest
    rows = [
        ("run", f"{m.name}  id {run.id.hex()}"),
        ("owner", f"{m.owner}  (signature checked)"),
        ("source", _source(m)),
        ("files", "\n         ".join(_files(m)) or "none"),
        ("tokens", f"{m.tokenizer.vocabulary} ids, tokenizer {m.tokenizer.sha256.hex()[:16]}"),
        ("model", _model(m)),
        ("grid", _grid(m)),
        ("router", _router(m)),
        ("training", _training(m)),
        ("schedule", _schedule(m)),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in rows)


def _source(m: Manifest) -> str:
    s = m.source
    return (
        f"{s.kind} {s.revision}, {s.documents} documents, field {s.text_field!r}, "
        f"{s.windows} windows of {s.window}"
    )


def _files(m: Manifest) -> list[str]:
    shown = [f"{f.name}  {f.size} bytes  {f.sha256.hex()[:16]}" for f in m.source.files[:8]]
    more = len(m.source.files) - len(shown)
    return [*shown, f"and {more} more"] if more else shown


def _model(m: Manifest) -> str:
    top = m.topology
    path = sum(tensor.size for tensor in top.path_tensors(0))
    total = sum(top.elements(module) for module in top.modules)
    return (
        f"{m.grid.blocks} blocks, d_model {m.model.d_model}, {m.model.heads} heads, "
        f"context {m.model.context}; {path:,} parameters a path, {total:,} in all"
    )


def _grid(m: Manifest) -> str:
    levels = " x ".join(f"{v.experts} experts of {v.blocks} blocks" for v in m.grid.levels)
    own = [f"block {i}" for i in m.grid.path_specific_blocks]
    own += ["stem"] if m.grid.path_specific_stem else []
    return f"{levels}; {m.paths} paths{'; own to each path: ' + ', '.join(own) if own else ''}"


def _router(m: Manifest) -> str:
    r = m.routing
    if r.kind != "kmeans":
        return r.kind
    return (
        f"{r.kind} on {r.sample} documents, first {r.prefix} tokens, {r.dimension} features, "
        f"{r.restarts} restarts; {r.validation_bp / 100:g} % held out"
    )


def _training(m: Manifest) -> str:
    t = m.training
    return (
        f"{t.seed_steps} seed steps, {t.rounds} rounds of {t.inner_steps} steps of {t.batch} "
        f"sequences; AdamW {t.inner.lr:g}, Nesterov {t.outer.lr:g}/{t.outer.momentum:g}; "
        f"deltas {t.deltas}, updates {t.updates}; seed {m.seed}"
    )


def _schedule(m: Manifest) -> str:
    s = m.schedule
    who = f"{len(s.members)} listed peers" if s.members else "anybody"
    return f"by {', '.join(s.schedulers)}; {who} may join; leases of {s.lease_ttl} s"
