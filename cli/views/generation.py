"""The text of `generate`: streamed for people, with notes on stderr, or as one JSON object."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import click
import msgspec

from dipaco.cli.views.progress import Display, Work, display
from dipaco.cli.views.text import label
from dipaco.node.data.text_stream import TextDecoder
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.node.models.generation import Generation, Step
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.protocol.numbers import count as number
from dipaco.protocol.run.topology import experts_of


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in a row of one path."""

    path: int
    experts: tuple[int, ...]
    version: int
    """The version of the path's modules."""
    tokens: int


class GenerationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of `generate --json`."""

    schema: int = 1
    name: str
    run: str
    """Run id, hex."""
    prompt: str
    text: str
    """The new text."""
    tokens: int
    """Of the new text."""
    parts: tuple[Part, ...]
    """In the order of the text; more than one only with `--reroute`."""
    seed: int
    end: str
    """`end of text` or `max tokens`."""
    seconds: float


@dataclass
class Printer:
    """Prints a text as it is generated."""

    checkpoint: Checkpoint
    encoder: TextEncoder
    prompt: str
    ids: list[int]
    """Of the prompt."""
    path: int
    """The first token's."""
    seed: int
    as_json: bool
    _paths: list[int] = field(default_factory=list)

    def print(self, generation: Generation) -> None:
        """Generate; the text goes to stdout as it comes, or in a JSON object at its end."""
        began = time.monotonic()
        pieces: list[str] = []
        write = pieces.append if self.as_json else _write
        with display("generating", silent=sys.stdout.isatty() and not self.as_json) as shown:
            count = self._stream(generation, shown, write)
        seconds = max(time.monotonic() - began, 1e-9)
        if self.as_json:
            report = self._report("".join(pieces), count, generation.end, seconds)
            click.echo(msgspec.json.encode(report))
            return
        _write("\n")
        tokens = f"{number(count, 'token')}, {count / seconds:.1f} tokens/s"
        click.echo(f"{tokens}, seed {self.seed}, ended: {generation.end}", err=True)

    def _report(self, text: str, count: int, end: str, seconds: float) -> GenerationReport:
        return GenerationReport(
            name=self.checkpoint.manifest.name,
            run=self.checkpoint.run.id.hex(),
            prompt=self.prompt,
            text=text,
            tokens=count,
            parts=parts_of(self.checkpoint, self._paths),
            seed=self.seed,
            end=end,
            seconds=seconds,
        )

    def _stream(
        self, generation: Generation, shown: Display, write: Callable[[str], object]
    ) -> int:
        """Write the text token by token; returns the number of tokens."""
        decoder, count, path = TextDecoder(self.encoder, self.ids), 0, self.path
        for count, step in enumerate(generation, 1):
            self._note(step, path, count, shown)
            path = step.path
            self._paths.append(path)
            write(decoder.step(step.token))
            work = Work(title="generating", done=count, total=generation.max_tokens, unit="tokens")
            shown.show(work)
        write(decoder.rest())
        return count

    def _note(self, step: Step, path: int, count: int, shown: Display) -> None:
        """Tell of another path, and of a context that is full."""
        if not self.as_json and sys.stdout.isatty() and (step.path != path or step.slid):
            _write("\n")  # so that a note does not stand in the middle of a line of text
        if step.path != path:
            why = f"routed anew after {number(count - 1, 'token')}"
            shown.say(choice(self.checkpoint, step.path, why))
        if step.slid:
            context = self.checkpoint.manifest.model.context
            shown.say(f"the context of {context} tokens is full: the last {context // 2} are kept")


def parts_of(checkpoint: Checkpoint, paths: Sequence[int]) -> tuple[Part, ...]:
    """Return the parts of a text whose tokens are of these paths."""
    return tuple(
        Part(
            path=path,
            experts=experts_of(checkpoint.manifest.grid, path),
            version=checkpoint.version(path),
            tokens=len(list(tokens)),
        )
        for path, tokens in groupby(paths)
    )


def choice(checkpoint: Checkpoint, path: int, why: str) -> str:
    """Return the chosen path and the reason as text."""
    experts = label(experts_of(checkpoint.manifest.grid, path))
    return f"path {path} {experts} at version {checkpoint.version(path)}: {why}"


def _write(text: str) -> None:
    if text:
        click.echo(text.encode("utf-8"), nl=False)
