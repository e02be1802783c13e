"""The schema of the JSON that programs read: docs/json.schema.json and docs/json.md.

A field is described by the docstring below it, else by its name in `GLOSSARY`.
"""

import ast
import inspect
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from dipaco.cli.answers import (
    CacheAnswer,
    ConfigAnswer,
    ConfigFaults,
    IdAnswer,
    InviteAnswer,
    MadeAnswer,
    ManifestAnswer,
    RunAnswer,
    ServiceAnswer,
    SettingAnswer,
    UpdateAnswer,
    VersionAnswer,
)
from dipaco.cli.views.assessment import AssessmentReport
from dipaco.cli.views.checkpoint import Listing
from dipaco.cli.views.credits import CreditBoard
from dipaco.cli.views.doctor import DoctorReport
from dipaco.cli.views.following import RoundSeen
from dipaco.cli.views.generation import GenerationReport
from dipaco.cli.views.peers import PeerList
from dipaco.cli.views.report import Report
from dipaco.cli.views.verification import HistoryReport, VerifyReport
from dipaco.node.api.values import (
    ConfigView,
    LedgerView,
    LossView,
    Ordered,
    PageView,
    RecordPage,
    Why,
)
from dipaco.node.compare.summary import Comparison
from dipaco.node.status.document import Status
from dipaco.node.status.events import Event, EventPage, LogLine, LogPage, TaskPage

DOCS: Final = Path(__file__).parents[2] / "docs"
SCHEMA, PAGE = DOCS / "json.schema.json", DOCS / "json.md"
VERBS: Final[dict[str, Any]] = {
    "status": Status,
    "peers": PeerList,
    "tasks": TaskPage,
    "log": LogLine,
    "events": Event,
    "why": Why,
    "pause": Ordered,
    "resume": Ordered,
    "finish": Ordered,
    "run create": MadeAnswer,
    "run show": ManifestAnswer,
    "run list": list[RunAnswer],
    "run follow": RoundSeen,
    "doctor": DoctorReport,
    "verify": VerifyReport,
    "verify --history": HistoryReport,
    "credits": CreditBoard,
    "eval": AssessmentReport,
    "generate": GenerationReport,
    "ckpt list": Listing,
    "cache info": CacheAnswer,
    "config show": ConfigAnswer,
    "config get": SettingAnswer,
    "config check": ConfigFaults,
    "service status": ServiceAnswer,
    "update": UpdateAnswer,
    "ui": PageView,
    "id": IdAnswer,
    "invite": InviteAnswer,
    "version": VersionAnswer,
}
"""What a verb prints with `--json`; `log`, `events` and `run follow` print one on each line."""
REQUESTS: Final[dict[str, type[msgspec.Struct]]] = {
    "GET /v1/ledger": LedgerView,
    "GET /v1/config": ConfigView,
    "GET /v1/events": EventPage,
    "GET /v1/log": LogPage,
    "GET /v1/losses": LossView,
    "GET /v1/records": RecordPage,
}
"""What the local API answers with and no verb prints."""
REPORTS: Final[dict[str, type[msgspec.Struct]]] = {
    "testnet --report`, `reference --report": Report,
    "compare`: `compare.json": Comparison,
}
DOCUMENTS: Final[dict[str, Any]] = {
    **{f"`{verb} --json`": kind for verb, kind in VERBS.items()},
    **{f"`{request}`": kind for request, kind in REQUESTS.items()},
    **{f"`{name}`": kind for name, kind in REPORTS.items()},
}
GLOSSARY: Final = {
    "code": "The code.",
    "tasks": "The tasks of this node; of an event the number of those that were begun so far.",
    "outcome": "How it ended; `working`: it has not.",
    "level": "How severe it is.",
    "prompt": "The text that was continued.",
    "settings": "Every setting, in the order of the documentation.",
    "value": "As `config.toml` has it.",
    "file": "The file.",
    "installed": "Whether the file is there.",
    "python": "Of Python.",
    "libp2p": "Of the library, or `missing`.",
    "numpy": "Of the library, or `missing`.",
    "tokenizers": "Of the library, or `missing`.",
    "events": "Ascending by number.",
    "lines": "The oldest first.",
    "half": "`choice` chooses rates, `score` is shown.",
    "label": "The label.",
    "high": "The upper end.",
    "low": "The lower end of the interval of 95 %.",
    "repeat": "The number of the order of batches.",
    "runs": "The runs, or their number.",
    "outer_lr": "The rate of the outer optimizer; null: the method has none to choose.",
    "lr": "The largest rate of the inner optimizer.",
    "accepted": "Number of tasks whose result was accepted.",
    "address": "Its IP address; empty: not known.",
    "bits_per_byte": "Bits per byte of the scored text, nll / ln 2 / bytes; null: not known.",
    "bytes": "Bytes.",
    "caption": "The sentence that stands under every table.",
    "checkpointing": "Whether activations are computed again to save memory.",
    "completed": "Whether the run reached its last round.",
    "compute": "Inner steps after the seed model, as a multiple of those of dense.",
    "count": "How many times.",
    "daemon": "Bytes of the daemon's process.",
    "documents": "Number of documents.",
    "domain": "The domain of the documents.",
    "done": "In `unit`.",
    "early_stopped": "The loss with each path at the version that it is used with.",
    "evaluations": "All held-out losses so far.",
    "experts": "The expert that the path takes at each level.",
    "finished": "Whether the run has reached its last round and every version is evaluated.",
    "fits": "Whether it fits.",
    "here": "Whether the state is in this home.",
    "highest": "The highest perplexity of all seeds.",
    "home": "The home folder.",
    "id": "The PeerID of a peer, the run id of a run.",
    "killed": "Whether a fault killed it, and it was not started again.",
    "kind": "Its kind.",
    "loss": "Nats per token; null: not known.",
    "lowest": "The lowest perplexity of all seeds.",
    "max": "Bytes that it may grow to.",
    "mean": "The mean perplexity of all seeds.",
    "memory": "Bytes of main memory.",
    "method": "The method's short name.",
    "micro_seconds": "Seconds of one micro-batch.",
    "module": "The module's name.",
    "modules": "All modules in use.",
    "name": "The name.",
    "network": "Addresses, connections and traffic.",
    "nodes": "Every process of the network; empty for `reference`.",
    "nll": "Negative log-likelihood, summed, nats.",
    "offers": "The runs that peers offer.",
    "owner": "The PeerID of the run's owner.",
    "parameters": "Number of parameters of all modules together.",
    "passes": "The pass that is routed once, then the re-routed ones.",
    "path": "Number of the path, from 0.",
    "path_parameters": "Number of parameters of one path's model.",
    "paths": "The paths, or their number.",
    "peer": "PeerID.",
    "peers": "The connected peers, or their number.",
    "perplexity": "exp(nll / tokens); null: nothing was scored.",
    "pid": "Process id of the daemon.",
    "point": "The held-out loss of the seed model.",
    "reason": "The reason of the state.",
    "received": "Bytes received.",
    "records": "Number of records of the ledger that are here.",
    "refused": "Number of tasks whose result was refused.",
    "refuted": "Number of other peers whose receipt says refuted.",
    "rendezvous": "Whether the node keeps the peer directory.",
    "reroute_rows": "The rows of routing anew within a document.",
    "rerouted": "The losses that those rows are made from.",
    "results": "Every method of every seed.",
    "round": "The round, from 1; 0: the seed model.",
    "rounds": "Number of the run's rounds.",
    "rows": "The rows of the main table, a method each.",
    "rss": "Bytes.",
    "rtt_ms": "Round trip, milliseconds; null: not measured yet.",
    "run": "Run id, hex; in a status the busiest run; null: none is chosen.",
    "schema": "The version of this document: 2 once a field is removed or means something else.",
    "seconds": "Seconds.",
    "seed": "The run's seed.",
    "sent": "Bytes sent.",
    "shard": "Number of the shard, from 0.",
    "shards": "The shards, or the most that are kept.",
    "spec": "Digest of the router spec, hex; empty: there is none.",
    "stage": "The stage of the work.",
    "stages": "The time spent in each kind of work since the start.",
    "starts": "The common start of all methods, of every seed.",
    "state": "The state.",
    "states": "Module: version: SHA-256 of the state, hex.",
    "step_seconds": "Seconds of what a step does besides its micro-batches.",
    "steps": "Inner steps.",
    "swarm": "Every path.",
    "task": "The current work; null: none.",
    "text": "The reason for people, one line.",
    "title": "The method's name for people.",
    "type": "The name of the type.",
    "tokens": "Number of tokens.",
    "tokens_per_second": "Tokens per second of training; 0 for other work.",
    "total": "In `unit`; 0: not known.",
    "totals": "The node's work since the first start of its home.",
    "cache": "The shard cache.",
    "uptime_s": "Seconds since the daemon's start.",
    "verdict": "The verdict on the router, or of the check.",
    "verified": "Number of other peers whose receipt says verified.",
    "version": "Version of the program, or of a path's or module's state; null: of each its own.",
    "versions": "Module: its latest version.",
    "points": "The held-out loss of the seed model, then after each round.",
    "losses": "The held-out losses.",
}


def components() -> dict[str, Any]:
    """Return the schema of every type, each field with its description."""
    _, found = msgspec.json.schema_components(DOCUMENTS.values(), ref_template="#/$defs/{name}")
    types = {kind.__name__: kind for kind in _structs()}
    for name, schema in found.items():
        schema.pop("title", None)
        names = {each.encode_name: each.name for each in msgspec.structs.fields(types[name])}
        for field, part in schema["properties"].items():
            part["description"] = described(types[name], names.get(field, field))
    return dict(sorted(found.items()))


@cache
def _structs() -> tuple[type[msgspec.Struct], ...]:
    """Return every type of the documents, those of their fields included."""
    found: dict[str, type[msgspec.Struct]] = {}
    due: list[Any] = [msgspec.inspect.type_info(kind) for kind in DOCUMENTS.values()]
    while due:
        info = due.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls.__name__ in found:
                continue
            found[info.cls.__name__] = info.cls
            due += [field.type for field in info.fields]
        due += [getattr(info, name) for name in ("item_type", "value_type") if hasattr(info, name)]
        due += [*getattr(info, "item_types", ()), *getattr(info, "types", ())]
    return tuple(found.values())


def described(kind: type[msgspec.Struct], field: str) -> str:
    """Return what a field holds; KeyError if nothing says it."""
    for each in kind.__mro__:
        if field in (told := _docstrings(each)):
            return told[field]
    return GLOSSARY[field]


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a class."""
    if kind.__module__.split(".")[0] != "dipaco":
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(below.value, ast.Constant)
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def reference(kind: Any) -> dict[str, Any]:
    """Return the schema of a document: a type's, or a list's of one."""
    if found := get_args(kind):
        return {"type": "array", "items": reference(found[0])}
    return {"$ref": f"#/$defs/{kind.__name__}"}


def schema_text() -> str:
    """Return docs/json.schema.json."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What dipaco-node prints and writes for programs",
        "anyOf": [reference(kind) for kind in dict.fromkeys(DOCUMENTS.values())],
        "verbs": {verb: reference(kind) for verb, kind in VERBS.items()},
        "$defs": components(),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def page_text() -> str:
    """Return docs/json.md."""
    rows = [f"| {where} | {_type_text(reference(k))} |" for where, k in DOCUMENTS.items()]
    parts = [INTRODUCTION, "\n".join(["| output | type |", "|---|---|", *rows])]
    for name, schema in components().items():
        head = [
            f"## {name}",
            "",
            schema.get("description", ""),
            "",
            "| field | type | content |",
            "|---|---|---|",
        ]
        fields = [
            f"| `{field}` | {_type_text(part)} | {part['description']} |"
            for field, part in schema["properties"].items()
        ]
        parts.append("\n".join([*head, *fields]))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# JSON for programs

Every field of what `--json` prints and of the reports that are written, with its type and unit.
This page and [json.schema.json](json.schema.json), a JSON schema (draft 2020-12), are made from the
types by `python -m tests.golden.regenerate`; its `verbs` tells the type of each verb, and the tests
hold every verb's output against it. `log`, `events`, `run follow` and `status --watch` print one
document on each line. Fields may be added, so ignore unknown ones; `schema`
becomes 2 when a field is removed or changes its meaning. Digests and ids are hex, times Unix
seconds, losses nats per token."""


def _type_text(part: dict[str, Any]) -> str:
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in part:
        return " or ".join(map(_type_text, part["anyOf"]))
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of {_type_text(part['items'])}"
    if part.get("type") == "object":
        values = part.get("additionalProperties")
        return f"map to {_type_text(values)}" if values else "map"
    return str(part["type"])


def write() -> None:
    """Write both files."""
    SCHEMA.write_text(schema_text())
    PAGE.write_text(page_text())
