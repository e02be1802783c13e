"""The template of a run's TOML file: every table and field, with its default and its meaning.

It runs as it stands. A field that has a default stands behind a `#`. The tests compare the defaults
with the types of the manifest.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.wire.text import is_utf8, one_line

SAMPLE = 1024  # documents of the router's sample, if the source has enough
SHORT = 160  # bytes: with fewer a document may have fewer than the 40 tokens of `min_tokens`
MAX_LEVELS = 8
MAX_EXPERTS = 256


@dataclass(frozen=True)
class Data:
    """The local files of a template, as far as it depends on them."""

    files: tuple[str, ...]
    """Their names in the TOML file."""
    text_field: str
    sample: int
    """The most documents that the router can be fitted on, with a margin."""


def parse_grid(text: str) -> tuple[int, ...]:
    """Return the experts of each level of `2x2`; raises ConfigError."""
    if not re.fullmatch(r"[0-9]{1,4}(x[0-9]{1,4})*", text):
        raise ConfigError(f"--grid: {text!r}: the experts of each level, such as 2x2 or 4")
    levels = tuple(int(part) for part in text.split("x"))
    paths = prod(levels)
    if len(levels) > MAX_LEVELS or not all(1 <= experts <= MAX_EXPERTS for experts in levels):
        raise ConfigError(
            f"--grid: {text}: at most {MAX_LEVELS} levels, of 1 to {MAX_EXPERTS} experts each"
        )
    if paths > MAX_PATHS:
        raise ConfigError(f"--grid: {text} has {paths} paths, at most {MAX_PATHS} are possible")
    return levels


def data_of(files: Sequence[Path], field: str, folder: Path, paths: int) -> Data:
    """Read local files once, and return what the template of a run in `folder` says of them.

    Raises ConfigError for files that no run can use, and for fewer documents than a run of so many
    paths needs.
    """
    from dipaco.node.data.readers import read_rows

    documents = long_enough = 0
    for file in files:
        if not is_utf8(f"{file.absolute()}{field}"):
            raise ConfigError(
                f"--data: {one_line(str(file))}: its path or --text-field is not UTF-8: rename it"
            )
        if not file.is_file():
            raise ConfigError(f"--data: {file} is {'a folder' if file.is_dir() else 'not there'}")
        try:
            for _, text in read_rows(file, field):
                documents += 1
                long_enough += len(text.encode("utf-8")) >= SHORT
        except Refusal as error:
            cure = f" (--text-field; {field!r} now)" if "text_field" in str(error) else ""
            raise ConfigError(f"--data: {error}{cure}") from error
    if long_enough < 2 * paths:
        raise ConfigError(
            f"--data: {paths} paths need at least {2 * paths} documents of {SHORT} bytes or more; "
            f"of {documents} {long_enough} are as long"
        )
    return Data(tuple(_name(file, folder) for file in files), field, long_enough // 2)


def _name(file: Path, folder: Path) -> str:
    """Return the name of a file in a TOML file in `folder`: relative only if it lies below it."""
    whole, base = file.absolute(), folder.absolute()
    return str(whole.relative_to(base)) if whole.is_relative_to(base) else str(whole)


def name_of(path: Path) -> str:
    """Return the name of the run whose TOML file will be `path`."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).lstrip("._-")
    return plain[:64] or "my-run"


def run_template(name: str, levels: Sequence[int], data: Data | None) -> str:
    """Return the template of a run with so many experts on each level, each of one block.

    data   None: the packaged corpus.
    """
    paths = prod(levels)
    values = {
        "NAME": name,
        "SOURCE": _EMBEDDED if data is None else _files(data),
        "LEVELS": ", ".join(f"{{ experts = {experts}, blocks = 1 }}" for experts in levels),
        "PATHS": f"{paths} path{'s' if paths > 1 else ''}",
        "SAMPLE": f"{max(paths, min(SAMPLE, data.sample if data else SAMPLE)):<28}",
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], _TEMPLATE)


def _files(data: Data) -> str:
    listed = ", ".join(json.dumps(file, ensure_ascii=False) for file in data.files)
    return f"""\
kind = "files"                       # embedded | files | hub | synthetic: docs/runs.md
files = [{listed}]    # or https addresses; order counts
text_field = {json.dumps(data.text_field)}"""


_EMBEDDED = """\
kind = "embedded"                    # embedded | files | hub | synthetic: docs/runs.md
# files = ["part-00.parquet", "part-01.parquet"]  # of kind files: local ones, or https addresses
# text_field = "text"                # of kinds files and hub"""

_TEMPLATE = """\
# A run for dipaco-node: `dipaco-node reference FILE` trains it here, `dipaco-node run create FILE
# --out my.run` makes a run file. A field behind a # has the value shown, or the one in [ ].
name = "@NAME@"
seed = 1                             # of the initial model

[source]
@SOURCE@
# documents = 1000                   # rows to use, from the first on [all]
# window = 1000                      # rows of the shards of one round [all]

[tokenizer]                          # without a file: the packaged byte-level BPE of 4,096
# file = "tokenizer.json"            # of the tokenizers library
# end_of_text = "<|endoftext|>"
# sha256 = "..."                     # the digest that the file must have

[model]                              # of one path: RMSNorm, rotary embedding, SwiGLU
d_model = 64
heads = 4
kv_heads = 4
d_ff = 192
context = 64
# rope_theta = 10000.0
# norm_eps = 1e-5
# tied = true
# checkpoint = "folder"              # start from a Llama of transformers, which then gives the
                                     # fields above and the tokenizer; levels must have its blocks

[grid]                               # @PATHS@
levels = [@LEVELS@]
# path_specific_blocks = []
# path_specific_stem = false

[routing]
sample = @SAMPLE@# documents that the router is fitted on
# kind = "kmeans"                    # or round_robin
# prefix = 32                        # tokens of a document that the router sees
# prefix_bytes = 256                 # bytes of a document that give these tokens: about 8 a token
# scored_from = 96                   # tokens that are not scored; min_tokens is 8 more [prefix]
# counts = "documents"               # or sample: for corpora too large for every node to read
# dimension = 64                     # features, at most 64; bag-sign-v1 has 256
# validation_bp = 500                # held out, in 1/10,000
# overlap = 1
# router_bp = 500                    # documents for re-sharding, in 1/10,000, not trained on [0]
# reshard = { after_round = 2 }      # fit a new router by the paths' own scores [none]
# capacity = { num = 3, den = 2, unit = "tokens" }  # largest shard over the mean [no bound]
# min_tokens = 40                    # a document with fewer in its prefix_bytes takes no part
# max_tokens = 1048576               # of one document; the rest is cut off
# max_bytes = 1048576                # of one document; the rest is cut off
# featurizer = "idf-svd-v1"          # fitted to the sample; or bag-sign-v1: random signs
# norm_bits = 10                     # the rest is for experiments with the router
# scale_bits = 8
# max_updates = 64
# restarts = 4
# beacon = ""                        # a public value in hexadecimal, fixed after all else

[training]
seed_steps = 40
rounds = 5
inner_steps = 25
batch = 8
# deltas = "int4"                    # 1/8 of the bytes; or f32, bf16, int8, int2, topk: 1 to 1/127
# updates = "int4"                   # 1/8 of the download of new versions; or int8, f32
# inner_state = "carry"              # keep the inner moments from round to round; or reset
# precision = "f32"                  # or bf16: the inputs of training's matrix products
# early_stopping = false             # true: a path is used at the version of its best held-out loss
# quorum = { num = 1, den = 2, grace = 60 }  # step without late paths: share, seconds [all paths]
# batch_order = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # [its run id]

[training.inner]
# kind = "adamw"                     # or muon: orthogonalised momentum of the blocks' matrices
# lr = 1e-3
# floor = 0.1
# warmup = 20
# weight_decay = 0.1
# beta1 = 0.9
# beta2 = 0.95
# eps = 1e-8
# clip = 1.0
#   muon has three more: momentum = 0.95, nesterov = true, and adamw_lr = 1e-3, the rate of
#   embedding, norms and head; its lr is that of the blocks' matrices

[training.outer]
# lr = 0.7
# momentum = 0.9
# rescale = "sqrt"                   # mean over c paths, times sqrt(c); or none
# weights = "tokens"                 # a path's weight is its shard's tokens; or uniform

[schedule]
# lease_ttl = 20                     # seconds without a heartbeat; well above the nodes' own pause
# schedulers = []                    # PeerIDs, in the order of taking over [the owner]
# members = []                       # PeerIDs that may join [all]
# keepers = []                       # PeerIDs that store the ledger and vote, at most 15 [none]
# quorum = 4                         # keepers that make a record final [more than half]
# copies = 3                         # keepers that hold a blob before its record is final [2]
"""
