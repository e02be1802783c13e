"""`dipaco-node generate`: routes a prompt, and streams the text that continues it."""

import math
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from dipaco.cli.inputs import fetch_states, open_checkpoint, worker_settings
from dipaco.cli.options import checkpoint_options, device_option, home_of, json_option
from dipaco.protocol.numbers import count as number

if TYPE_CHECKING:
    from dipaco.node.data.tokenizers import TextEncoder
    from dipaco.node.runs.checkpoint import Checkpoint

SEED_BITS = 32
MAX_PROMPT = 1 << 20  # bytes from stdin: a book; what a context holds is far less


class Temperature(click.FloatRange):
    """A number from 0 to 100. It refuses `nan`, which a range alone accepts."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; raises BadParameter."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("prompt")
@click.option("--max-tokens", default=128, type=click.IntRange(1), metavar="N", help="[128]")
@click.option(
    "--temperature",
    default=0.8,
    type=Temperature(0, 100),
    metavar="T",
    help="0: always take the likeliest token [0.8].",
)
@click.option(
    "--top-k",
    default=0,
    type=click.IntRange(0),
    metavar="K",
    help="Draw from the K likeliest tokens; 0: from all [0].",
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    help="The same seed gives the same text on a CPU [another every time].",
)
@click.option(
    "--reroute", type=click.IntRange(1), metavar="W", help="Choose the path anew every W tokens."
)
@click.option("--path", metavar="P", help="Take this path, an index or experts such as 0,1.")
@device_option
@checkpoint_options
@json_option
def generate(
    name: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int | None,
    reroute: int | None,
    path: str | None,
    device: str | None,
    at: int | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Continue PROMPT on the path that it is routed to; only the new text goes to stdout.

    RUN is an id or name known to this node, a run file, or the folder of an export. PROMPT is -
    for the text of stdin, without a line break at its end.
    """
    prompt = _of_stdin(sys.stdin.buffer) if prompt == "-" else prompt
    if path is not None and reroute is not None:
        raise click.UsageError("--path and --reroute exclude each other")
    folder = home_of(home)
    settings = worker_settings(folder, {"compute.device": device})
    checkpoint = open_checkpoint(name, folder, at)
    encoder = _tokenizer(checkpoint, folder)
    ids = _ids(encoder, prompt)
    chosen = _route(checkpoint, encoder, prompt, path)
    fetch_states(checkpoint, folder, None if reroute else (chosen,))
    from dipaco.cli.views.generation import Printer
    from dipaco.node.models.generation import Generation, Sampling
    from dipaco.node.models.path_models import PathModels
    from dipaco.protocol.routing.assign import Router

    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    generation = Generation(
        ids,
        chosen,
        PathModels(
            checkpoint, device=settings.compute.device, threads=settings.compute.torch_threads
        ),
        router=Router(checkpoint.spec),
        reroute=reroute,
        sampling=Sampling(temperature=temperature, top_k=top_k, seed=seed),
        max_tokens=max_tokens,
        end_of_text=encoder.end_of_text,
    )
    Printer(checkpoint, encoder, prompt, ids, chosen, seed, as_json).print(generation)


def _of_stdin(stdin: BinaryIO) -> str:
    """Return the prompt that stdin holds; raises ConfigError for too many bytes, or no UTF-8."""
    from dipaco.protocol.errors import ConfigError

    data = stdin.read(MAX_PROMPT + 1)
    if len(data) > MAX_PROMPT:
        raise ConfigError(f"PROMPT: stdin has more than {MAX_PROMPT:,} bytes: give less text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1:,} is 0x{data[error.start]:02x}"
        raise ConfigError(f"PROMPT: stdin is not UTF-8: {wrong}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _tokenizer(checkpoint: "Checkpoint", home: Path) -> "TextEncoder":
    from dipaco.node.data.tokenizers import load_tokenizer
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home

    fetch_states(checkpoint, home, ())
    return load_tokenizer(checkpoint.manifest.tokenizer, BlobStore(Home.at(home).blobs))


def _ids(encoder: "TextEncoder", prompt: str) -> list[int]:
    """Return the ids of a prompt, none for an empty one; raises ConfigError."""
    from dipaco.node.data.tokenizers import BadText
    from dipaco.protocol.errors import ConfigError

    try:
        return encoder.encode([prompt])[0] if prompt else []
    except BadText as error:
        raise ConfigError(f"PROMPT: {error}") from error


def _route(checkpoint: "Checkpoint", encoder: "TextEncoder", prompt: str, path: str | None) -> int:
    """Return the first path, and print the reason for it on stderr."""
    import numpy as np

    from dipaco.node.runs.checkpoint import path_named
    from dipaco.protocol.routing.assign import Router
    from dipaco.protocol.routing.documents import cut, prefix_of_prompt
    from dipaco.protocol.routing.spec import ROUND_ROBIN

    spec = checkpoint.spec
    if path is not None:
        chosen = path_named(checkpoint.manifest, path)
        return _say(checkpoint, chosen, "named by --path")
    head_text = cut(prompt.encode("utf-8"), spec.prefix_bytes).decode("utf-8")
    head = _ids(encoder, head_text)
    prefix = np.array([prefix_of_prompt(head, spec.prefix, encoder.end_of_text)])
    chosen = int(Router(spec).route(prefix, np.zeros(1, dtype=np.int64))[0, 0])
    if spec.kind == ROUND_ROBIN:
        return _say(checkpoint, chosen, "this run's router does not use the text")
    if len(head) >= spec.prefix:
        return _say(checkpoint, chosen, f"routed by the first {number(spec.prefix, 'token')}")
    if not head:
        return _say(
            checkpoint, chosen, f"no prompt: routed by {number(spec.prefix, 'end-of-text token')}"
        )
    known = number(len(head), "token")
    why = f"routed by {known}, repeated up to the {spec.prefix} that the router sees"
    return _say(checkpoint, chosen, why)


def _say(checkpoint: "Checkpoint", path: int, why: str) -> int:
    from dipaco.cli.views.generation import choice

    click.echo(choice(checkpoint, path, why), err=True)
    return path
