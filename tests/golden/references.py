"""The references that are made from the code: configuration, commands, metrics, the man page.

    python -m tests.golden.references

writes them again; `python -m tests.golden.regenerate` does so with all else.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import click
import msgspec

from dipaco.cli.commands.start import start
from dipaco.cli.exits import Exit
from dipaco.cli.main import COMMANDS, PROGRAM, dipaco
from dipaco.cli.options import parameter_of
from dipaco.node.config import KEYS, PREFIX, SECTIONS, TEXTS, NodeConfig, plain
from dipaco.node.live_config import LIVE
from dipaco.node.metrics.families import METRICS
from tests.golden.roff import Roff
from tests.golden.schemas import described

DOCS: Final = Path(__file__).parents[2] / "docs"
WIDTH: Final = 98  # columns of the help in the page
MADE: Final = "made from the code by `python -m tests.golden.references`"


# ------------------------------------------------------------------------------ configuration


def config_page() -> str:
    """Return docs/config.md: every key, by section."""
    parts = [
        "# Configuration, key by key",
        f"This page is {MADE}. [operation.md](operation.md#configuration) says how settings are "
        "read, and has them as one file. A key marked * is taken up by a running daemon when the "
        "file changes; the others need a restart.",
    ]
    default = NodeConfig(home=Path("/"))
    for section in SECTIONS:
        kind = type(getattr(default, section))
        head = " ".join((kind.__doc__ or "").split()).partition(": ")[2]
        parts += [f"## [{section}]", f"{head[:1].upper()}{head[1:]}", _keys(section, kind, default)]
    return wrapped("\n\n".join(parts))


def _keys(section: str, kind: type[msgspec.Struct], default: NodeConfig) -> str:
    rows = ["| key | value [default] | environment, flag | meaning |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        key = f"{section}.{field.name}"
        value = msgspec.json.encode(plain(key, getattr(getattr(default, section), field.name)))
        flag = f", `{_flag(key)}`" if _flag(key) else ""
        variable = PREFIX + key.replace(".", "_").upper()
        rows.append(
            f"| `{field.name}`{' *' if key in LIVE else ''} "
            f"| {cell(_allowed(key))} [`{value.decode()}`] "
            f"| `{variable}`{flag} | {cell(described(kind, field.name))} |"
        )
    return "\n".join(rows)


def _flag(key: str) -> str:
    """Return the flag of `start` that sets a key; empty: there is none."""
    name = parameter_of(key)
    return next((each.opts[0] for each in start.params if each.name == name), "")


def _allowed(key: str) -> str:
    """Return which values a key takes."""
    if key in TEXTS:
        return "text with a unit"
    return _type_text(KEYS[key])


def _type_text(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *notes = get_args(kind)
        return next(filter(None, map(_bounds, notes)), _type_text(inner))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if origin is tuple:
        each = _type_text(get_args(kind)[0])
        return "list of texts" if each == "text" else f"list; each {each}"
    return {bool: "`true` or `false`", int: "number", float: "number"}.get(kind, "text")


def _bounds(meta: Any) -> str:
    if not isinstance(meta, msgspec.Meta):
        return ""
    if meta.description:
        return meta.description
    if meta.ge is not None:
        return f"{meta.ge:g} to {meta.le:g}" if meta.le is not None else f"{meta.ge:g} or more"
    return ""


# ------------------------------------------------------------------------------ commands


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command with its full name, groups before their own."""
    root = click.Context(dipaco, info_name=PROGRAM, terminal_width=WIDTH, **dipaco.context_settings)
    yield PROGRAM, dipaco, root
    for name in COMMANDS:
        command = dipaco.get_command(root, name)
        assert command is not None
        yield from _below(command, name, root)


def _below(
    command: click.Command, name: str, parent: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, info_name=name, parent=parent)
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            yield from _below(below, each, context)


def commands_page() -> str:
    """Return docs/commands.md: the help of every command, and the exit codes."""
    parts = [
        "# Commands",
        f"The help of every command, {MADE}. [operation.md](operation.md) tells what they do to a "
        "node, [json.md](json.md) what `--json` prints.",
    ]
    for path, command, context in commands():
        parts += [f"## {path}", f"```text\n{command.get_help(context)}\n```"]
    rows = [f"| {code.value} | {words} |" for code, words in exits().items()]
    parts += ["## Exit codes", "\n".join(["| code | meaning |", "|---|---|", *rows])]
    return wrapped("\n\n".join(parts))


def exits() -> dict[Exit, str]:
    """Return every exit code with its meaning."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(Exit))).body
    assert isinstance(tree, ast.ClassDef)
    found = {Exit.OK: "Done as asked."}
    for member, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(below, ast.Expr):
            assert isinstance(member.targets[0], ast.Name)
            assert isinstance(below.value, ast.Constant)
            found[Exit[member.targets[0].id]] = " ".join(str(below.value.value).split())
    assert set(found) == set(Exit)
    return found


# ------------------------------------------------------------------------------ metrics


def metrics_page() -> str:
    """Return docs/metrics.md."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.sample}` | {metric.kind} | {labels} | {cell(metric.help)} |")
    return wrapped("\n\n".join([METRICS_INTRODUCTION, "\n".join(rows)]))


METRICS_INTRODUCTION: Final = f"""# Metrics

A daemon with `[metrics] listen = "127.0.0.1:7398"` (flag `--metrics-listen`) answers `GET /metrics`
there for Prometheus. The port is of loopback alone and needs no token: it tells no secret and takes
no order. Requests with a foreign `Host`, or with the `Origin` of another page, are refused. To read
it from another machine, forward the port (`ssh -L 7398:127.0.0.1:7398 HOST`).

```yaml
scrape_configs:
  - job_name: dipaco
    static_configs:
      - targets: ["127.0.0.1:7398"]
```

[grafana.json](grafana.json) is a dashboard of these metrics: Dashboards, New, Import. Labels have
few values; `run` is the beginning of a run id, `code` a reason code of
[operation.md](operation.md#states-and-reasons), and no text of a peer is among them. A metric is
missing while there is nothing to tell.

The table is {MADE}."""


# ------------------------------------------------------------------------------ the man page


def man_page() -> str:
    """Return docs/man/dipaco-node.1."""
    page = Roff(PROGRAM, "DiPaCo volunteer node")
    page.section("NAME").text(f"{PROGRAM} - {_first(dipaco)}")
    page.section("SYNOPSIS").text(f"{PROGRAM} COMMAND [OPTIONS] [ARGUMENTS]")
    does = f"{PROGRAM} start runs the daemon; most other commands ask it and end at once."
    page.section("DESCRIPTION").text(f"{dipaco.help}\n\n{does}")
    page.section("COMMANDS")
    for path, command, context in list(commands())[1:]:
        if isinstance(command, click.Group):
            continue
        pieces = " ".join(command.collect_usage_pieces(context))
        page.subsection(f"{path.removeprefix(f'{PROGRAM} ')} {pieces}".strip())
        page.text(inspect.cleandoc(command.help or ""))
        for option in command.params:
            if isinstance(option, click.Option) and (record := option.get_help_record(context)):
                page.item(*record)
    page.section("ENVIRONMENT")
    page.item("DIPACO_HOME", "The home folder, instead of ~/.local/share/dipaco-node.")
    page.item("DIPACO_SECTION_KEY", "A setting of config.toml: DIPACO_NETWORK_MAX_UP for max_up.")
    page.item("NO_COLOR", "If set, nothing is coloured.")
    page.section("FILES")
    page.item("config.toml", "In the home folder: the settings.")
    page.item("identity.key", "In the home folder: the key of the node, mode 0600.")
    page.item("api.sock", "In the home folder: where a running daemon is asked.")
    page.section("EXIT STATUS")
    for code, words in exits().items():
        page.item(str(code.value), words)
    return str(page)


def _first(command: click.Command) -> str:
    return (command.help or "").split("\n")[0].rstrip(".")


# ------------------------------------------------------------------------------ all of them


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def wrapped(text: str) -> str:
    """Return a page whose paragraphs have at most 100 columns; tables and blocks stay."""
    parts, fenced = [], False
    for part in text.split("\n\n"):
        prose = not fenced and part[:1] not in "#|`" and "\n" not in part
        parts.append(textwrap.fill(part, 100, break_long_words=False) if prose else part)
        fenced ^= part.count("```") % 2 == 1
    return "\n\n".join(parts) + "\n"


PAGES: Final[dict[Path, Callable[[], str]]] = {
    DOCS / "config.md": config_page,
    DOCS / "commands.md": commands_page,
    DOCS / "metrics.md": metrics_page,
    DOCS / "man" / f"{PROGRAM}.1": man_page,
}
"""Every file and what makes its text."""


def write() -> None:
    """Write all files."""
    for path, text in PAGES.items():
        path.write_text(text())


if __name__ == "__main__":
    write()
