"""The report of a run as one HTML file: no script, and no request to anywhere.

All that stands in it follows from the signed ledger, so one ledger gives one file. Every text goes
through `_text`: names of sources and files are their owner's, and may hold anything.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from dipaco.cli.views.line_chart import Line, chart
from dipaco.cli.views.run_facts import Loss, RunFacts, modules_of
from dipaco.protocol.numbers import count, size
from dipaco.protocol.routing.stages import stage_digests
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.identity import fingerprint, short_peer
from dipaco.protocol.wire.text import escaped

STYLE: Final = Path(__file__).with_name("run_page.css")
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
MAX_LINES: Final = 8  # paths with a line of their own; more cannot be told apart
MAX_ROWS: Final = 4096  # of a table: more make a file that no browser shows


def page(facts: RunFacts) -> str:
    """Return the whole file."""
    name = _text(facts.run.manifest.name)
    parts = (
        _head(facts),
        _losses(facts),
        _grid(facts),
        _contributions(facts),
        _data(facts),
        _router(facts),
        _digests(facts),
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<style>\n{STYLE.read_text('utf-8')}</style></head>\n<body><main>\n"
        f"{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _text(text: object) -> str:
    return escape(escaped(str(text)), quote=True)


def _head(facts: RunFacts) -> str:
    m = facts.run.manifest
    rounds = min((version for _, version, _ in modules_of(facts.state)), default=0)
    state = "over" if facts.over else f"after round {rounds} of {m.training.rounds}"
    cards = [
        ("rounds", f"{rounds} of {m.training.rounds}"),
        ("paths", f"{m.paths}"),
        ("peers", f"{len(facts.credits)}"),
        ("inner steps", f"{sum(each.steps for each in facts.credits):,}"),
    ]
    if facts.overall:
        first, last = facts.overall[0], facts.overall[-1]
        cards.append(("perplexity", f"{first.perplexity:,.1f} &rarr; {last.perplexity:,.1f}"))
        if last.bits_per_byte is not None:
            cards.append(("bits per byte", f"{last.bits_per_byte:.3f}"))
    listed = "".join(f"<div><dt>{term}</dt><dd>{told}</dd></div>" for term, told in cards)
    return (
        f"<h1>{_text(m.name)}</h1>\n"
        f'<p class="faint">DiPaCo run <code>{facts.run.id.hex()}</code>, {state}; signed by '
        f"<code>{fingerprint(m.owner)}</code></p>\n<dl class=cards>{listed}</dl>"
    )


def _losses(facts: RunFacts) -> str:
    manifest = facts.run.manifest
    few = len(facts.losses) <= MAX_LINES
    lines = [Line("all", _points(facts.overall), "all")]
    lines += [
        Line(_label(manifest, path), _points(found), f"p{path % MAX_LINES}")
        for path, found in facts.losses.items()
        if few
    ]
    drawn = chart(lines, along="round", up="held-out loss, nats per token")
    if not drawn:
        return "<h2>Held-out loss</h2><p>No version is evaluated yet.</p>"
    rows = [[str(each.version), *_figures(each)] for each in facts.overall[-MAX_ROWS:]]
    return (
        f"<h2>Held-out loss</h2>\n<figure>{drawn}<figcaption>Nats per token, all paths together"
        f"{' and each path' if few else ''}; round 0 is the seed model.</figcaption></figure>\n"
        + _table(
            ["round", "tokens", "loss", "perplexity", "bits per byte"],
            rows,
            caption=f"All paths together, vocabulary {manifest.tokenizer.vocabulary:,}",
        )
    )


def _points(found: Sequence[Loss]) -> tuple[tuple[float, float], ...]:
    return tuple((float(each.version), each.per_token) for each in found)


def _figures(loss: Loss) -> list[str]:
    bits = loss.bits_per_byte
    return [
        f"{loss.tokens:,}",
        f"{loss.per_token:.4f}",
        f"{loss.perplexity:,.2f}",
        "-" if bits is None else f"{bits:.3f}",
    ]


def _label(manifest: Manifest, path: int) -> str:
    return ",".join(map(str, experts_of(manifest.grid, path)))


def _grid(facts: RunFacts) -> str:
    manifest, state = facts.run.manifest, facts.state
    rows = []
    for path in range(min(manifest.paths, MAX_ROWS)):
        found = facts.losses.get(path, ())
        peer = state.contributors.get(path)
        rows.append(
            [
                str(path),
                _label(manifest, path),
                str(state.path_version(path)) if state.seeded else "-",
                f"{found[0].perplexity:,.1f}" if found else "-",
                f"{found[-1].perplexity:,.1f}" if found else "-",
                short_peer(peer) if peer else "-",
            ]
        )
    levels = " x ".join(
        f"{count(each.experts, 'expert')} of {count(each.blocks, 'block')}"
        for each in manifest.grid.levels
    )
    return f"<h2>Grid</h2>\n<p>{levels}.</p>\n" + _table(
        ["path", "experts", "version", "perplexity at first", "last", "last trained by"], rows
    )


def _contributions(facts: RunFacts) -> str:
    most = max((each.steps for each in facts.credits), default=0)
    rows = [
        [
            f"{short_peer(each.peer)} {_bar(each.steps, most)}",
            f"{each.rounds:,}",
            f"{each.steps:,}",
            f"{each.tokens:,}",
            f"{each.evaluations:,}",
            f"{each.improvement:.3f}",
        ]
        for each in facts.credits[:MAX_ROWS]
    ]
    heads = ["peer", "rounds", "inner steps", "tokens at most", "evaluations", "loss fell by"]
    return "<h2>Contributions</h2>\n" + _table(
        heads,
        rows,
        caption="From the ledger alone. The last column sums, over a peer's rounds, by how many "
        "nats per token the held-out loss of its path fell; others' work on shared modules is in "
        "it.",
    )


def _bar(steps: int, most: int) -> str:
    share = 100 * steps / most if most else 0
    return f'<span class=bar style="width:{share:.0f}%"></span>'


def _data(facts: RunFacts) -> str:
    m = facts.run.manifest
    s = m.source
    rows = [
        ["source", f"{_text(s.kind)} {_text(s.revision)}, field {_text(s.text_field)}"],
        ["documents", f"{s.documents:,} in {count(s.windows, 'window')}"],
        ["tokenizer", f"{m.tokenizer.vocabulary:,} ids, {_code(m.tokenizer.sha256.hex())}"],
        ["model", f"d_model {m.model.d_model}, {m.grid.blocks} blocks, context {m.model.context}"],
        [
            "training",
            f"{m.training.seed_steps} seed steps, {m.training.rounds} rounds of "
            f"{m.training.inner_steps} inner steps of {m.training.batch} sequences, seed {m.seed}",
        ],
    ]
    rows += [
        [_text(file.name), f"{size(file.size)}, {_code(file.sha256.hex())}"]
        for file in s.files[:MAX_ROWS]
    ]
    return "<h2>Data and model</h2>\n" + _table([], rows, numbers=False)


def _router(facts: RunFacts) -> str:
    rows = []
    for epoch, digest in enumerate(facts.state.specs):
        spec = facts.specs.get(digest)
        if spec is None:
            rows.append([str(epoch), "spec", _code(digest.hex())])
            continue
        rows += [[str(epoch), stage, _code(each.hex())] for stage, each in stage_digests(spec)]
    m = facts.run.manifest
    return (
        f"<h2>Router</h2>\n<p>{_text(m.routing.kind)} on {count(m.routing.sample, 'document')}, "
        f"the first {count(m.routing.prefix, 'token')} of each.</p>\n"
        + _table(["epoch", "stage", "digest"], rows, numbers=False)
    )


def _digests(facts: RunFacts) -> str:
    rows = [
        [_text(module), str(version), _code(digest.hex())]
        for module, version, digest in modules_of(facts.state)[:MAX_ROWS]
    ]
    name = _text(facts.run.manifest.name)
    return (
        "<h2>Digests of the end</h2>\n"
        + _table(["module", "version", "SHA-256 of its state"], rows, numbers=False)
        + f"<p>{count(facts.records, 'record')} of the ledger, head {_code(facts.head.hex())}. "
        "Whoever has the ledger can check all of this without a network:</p>\n"
        f"<pre>dipaco-node run ledger {name} --out {name}.ledger\n"
        f"dipaco-node verify --history {name}.ledger\n"
        f"dipaco-node credits {name}.ledger</pre>"
    )


def _code(text: str) -> str:
    return f"<code>{text}</code>"


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    numbers: bool = True,
) -> str:
    """Return a table of cells that are HTML already; `numbers`: all but the first are numbers."""
    told = f"<p class=faint>{_text(caption)}</p>" if caption else ""
    return f'{told}<div class="wide"><table>{"".join(_rows(heads, rows, numbers))}</table></div>'


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool) -> Iterator[str]:
    def kind(place: int) -> str:
        return ' class="n"' if numbers and place else ""

    if heads:
        cells = (f"<th{kind(place)}>{_text(head)}</th>" for place, head in enumerate(heads))
        yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        cells = (f"<td{kind(place)}>{cell}</td>" for place, cell in enumerate(row))
        yield f"<tr>{''.join(cells)}</tr>\n"
    yield "</tbody>"
