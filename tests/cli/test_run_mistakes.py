# ruff: noqa: E501 - an answer is one line, however long
"""Mistakes in the TOML file of a run, and in the place of one.

Rules of this file: a mistake a row, with its answer; see the fixture `answer`.
"""

import os
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from tests.cli.conftest import Answer
from tests.cli.tiny import TINY

RUNS = [
    (
        'name = "tiny"',
        "name = tiny",
        ", line 1: no value: a text stands in quotes, a list in [ ], a yes or no is true or false: 'name = tiny'",
    ),
    (
        'name = "tiny"',
        'name = "tiny',
        ", line 1: a text without its closing quotes: 'name = \"tiny'",
    ),
    ("heads = 2", "heads 2", ", line 8: Expected '=' after a key in a key/value pair: 'heads 2'"),
    ("[grid]", "[grid", ", line 12: Expected ']' at the end of a table declaration: '[grid'"),
    ("seed = 3", "seed = 3\nseed = 4", ", line 3: this key is there twice: 'seed = 4'"),
    ("[grid]", "[model]\n[grid]", ", line 12: this table is there twice: '[model]'"),
    ("[model]", "[[model]]\n[model]", ", line 7: this table is there twice: '[model]'"),
    (
        "seed = 3",
        "seed = 08",
        ", line 2: Expected newline or end of document after a statement: 'seed = 08'",
    ),
    (
        "seed = 3",
        "seed = ",
        ", line 2: no value: a text stands in quotes, a list in [ ], a yes or no is true or false: 'seed ='",
    ),
    (
        "[model]\n",
        "[model]\nd_model = 16 heads = 2\n",
        ", line 7: Expected newline or end of document after a statement: 'd_model = 16 heads = 2'",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        "levels = [{ experts = 2, blocks = 1 }",
        ", line 14: Unclosed array: '[routing]'",
    ),
    (
        '"tiny"',
        '"Tiny"',
        ": name: the text 'Tiny' is not a name of at most 64 characters: lower-case letters, digits, '.', '_' and '-'; it begins with a letter or digit",
    ),
    (
        '"tiny"',
        '"a b"',
        ": name: the text 'a b' is not a name of at most 64 characters: lower-case letters, digits, '.', '_' and '-'; it begins with a letter or digit",
    ),
    (
        '"tiny"',
        '"-a"',
        ": name: the text '-a' is not a name of at most 64 characters: lower-case letters, digits, '.', '_' and '-'; it begins with a letter or digit",
    ),
    (
        '"tiny"',
        '""',
        ": name: the text '' is not a name of at most 64 characters: lower-case letters, digits, '.', '_' and '-'; it begins with a letter or digit",
    ),
    (
        '"tiny"',
        "3",
        ": name: 3 is not a name of at most 64 characters: lower-case letters, digits, '.', '_' and '-'; it begins with a letter or digit",
    ),
    ('name = "tiny"\n', "", ": name: is missing; it stands above the first [table]"),
    ("seed = 3\n", "", ": seed: is missing; it stands above the first [table]"),
    ("seed = 3", "seed = -1", ": seed: -1 is not a whole number from 0 to 9007199254740992"),
    (
        "seed = 3",
        'seed = "3"',
        ": seed: the text '3' is not a whole number from 0 to 9007199254740992",
    ),
    ("seed = 3", "seed = 3.0", ": seed: 3.0 is not a whole number from 0 to 9007199254740992"),
    ("seed = 3", "seed = true", ": seed: true is not a whole number from 0 to 9007199254740992"),
    (
        "seed = 3",
        "seed = 2026-01-01",
        ": seed: the date or time 2026-01-01 is not a whole number from 0 to 9007199254740992",
    ),
    (
        "seed = 3",
        "seed = 99999999999999999999",
        ": seed: 99999999999999999999 is not a whole number from 0 to 9007199254740992",
    ),
    (
        "seed = 3",
        "seed = [1, 2]",
        ": seed: a list of 2 is not a whole number from 0 to 9007199254740992",
    ),
    ("seed = 3", "seed = 3\nsede = 4", ": sede: no such table or field; did you mean seed?"),
    ("seed = 3", "seed = 3\nrounds = 5", ": rounds: no such field; rounds stands in [training]"),
    (
        "seed = 3",
        'seed = 3\nowner = "me"',
        ": owner: the manifest's own, which `run create` fills in (the owner: --owner or --key)",
    ),
    ("[model]", "[modell]", ": modell: no such table or field; did you mean model?"),
    ("[routing]", "[router]", ": router: no such table or field; did you mean routing?"),
    (
        "[grid]",
        "[x]\n[grid]",
        ": x: no such table or field; there are grid, model, name, routing, schedule, seed, source, tokenizer, training",
    ),
    (
        "seed = 3",
        'seed = 3\n"a\\nb" = 1',
        ": a b: no such table or field; there are grid, model, name, routing, schedule, seed, source, tokenizer, training",
    ),
    ("d_model = 16", "d_modle = 16", ": model.d_modle: no such field; did you mean model.d_model?"),
    ("d_model = 16", "d_model = 17", ": model.heads: 2 do not divide d_model 17"),
    (
        "d_model = 16",
        'd_model = "16"',
        ": model.d_model: the text '16' is not a whole number from 8 to 16384",
    ),
    ("d_model = 16", "d_model = 4", ": model.d_model: 4 is not a whole number from 8 to 16384"),
    ("heads = 2\nkv", "heads = 3\nkv", ": model.heads: 3 do not divide d_model 16"),
    ("kv_heads = 2", "kv_heads = 3", ": model.kv_heads: 3 do not divide heads 2"),
    (
        "heads = 2\nkv_heads = 2",
        "heads = 16\nkv_heads = 16",
        ": model.heads: rotary embedding needs an even d_model / heads",
    ),
    ("d_ff = 32\n", "", ": model.d_ff: is missing: a whole number from 8 to 65536"),
    (
        "d_ff = 32",
        "d_ff = 32\nvocab = 9",
        ": model.vocab: no such field; [model] has checkpoint, context, d_ff, d_model, heads, kv_heads, norm_eps, rope_theta, tied",
    ),
    ("d_ff = 32", 'd_ff = 32\ntied = "no"', ": model.tied: the text 'no' is not true or false"),
    (
        "d_ff = 32",
        "d_ff = 32\nnorm_eps = 0",
        ": model.norm_eps: 0 is not a number above 0 and up to 0.01",
    ),
    (
        "d_ff = 32",
        "d_ff = 32\nrope_theta = inf",
        ": model.rope_theta: inf is not a number from 1 to 1000000000",
    ),
    (
        "d_ff = 32",
        "d_ff = 32\nbatch = 4",
        ": model.batch: no such field; batch stands in [training]",
    ),
    ("context = 40", "context = 32", ": model.context: 32, not longer than routing.prefix, 32"),
    (
        "context = 40",
        "context = 100000",
        ": model.context: 100000 is not a whole number from 8 to 65536",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        "levels = []",
        ": grid.levels: an empty list is not a list of 1 to 8 tables with experts, blocks",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        'levels = "2x2"',
        ": grid.levels: the text '2x2' is not a list of 1 to 8 tables with experts, blocks",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        "levels = [2, 2]",
        ": grid.levels[0]: 2 is not a table with experts, blocks",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        "level = [{ experts = 2, blocks = 1 }]",
        ": grid.level: no such field; did you mean grid.levels?",
    ),
    (
        "experts = 2",
        "expert = 2",
        ": grid.levels.expert: no such field; did you mean grid.levels.experts?",
    ),
    (
        "experts = 2",
        "experts = 0",
        ": grid.levels[0].experts: 0 is not a whole number from 1 to 256",
    ),
    (
        "experts = 2",
        "experts = 300",
        ": grid.levels[0].experts: 300 is not a whole number from 1 to 256",
    ),
    (
        "levels = [{ experts = 2, blocks = 1 }]",
        "levels = [{ experts = 64, blocks = 1 }, { experts = 64, blocks = 1 }]",
        ": grid.levels: 4096 paths, at most 1024",
    ),
    ("blocks = 1", "blocks = 0", ": grid.levels: together they have no block"),
    (", blocks = 1", "", ": grid.levels[0].blocks: is missing: a whole number from 0 to 256"),
    (
        "[routing]",
        "path_specific_blocks = [5]\n[routing]",
        ": grid.path_specific_blocks: not ascending indices of blocks, 0 to 0",
    ),
    ("sample = 32\n", "", ": routing.sample: is missing: a whole number from 1 to 1048576"),
    ("sample = 32", "sample = 1", ": routing.sample: 1, below the number of paths, 2"),
    ("sample = 32", "sample = 65", ": routing.sample: 65 of 64 documents"),
    (
        "dimension = 16",
        "dimension = 17",
        ": routing.dimension: 17 is not a multiple of 8 from 8 to 256",
    ),
    (
        "dimension = 16",
        'kind = "k-means"',
        ": routing.kind: the text 'k-means' is not one of kmeans, round_robin; did you mean kmeans?",
    ),
    (
        "dimension = 16",
        "validation_bp = 5001",
        ": routing.validation_bp: 5001 is not a whole number from 0 to 5000",
    ),
    (
        "dimension = 16",
        "validation_bp = 0.05",
        ": routing.validation_bp: 0.05 is not a whole number from 0 to 5000",
    ),
    (
        "dimension = 16",
        "validation_bp = 5000\nrouter_bp = 5000",
        ": routing: validation_bp, router_bp: together they leave no training documents",
    ),
    (
        "dimension = 16",
        "validation = 500",
        ": routing.validation: no such field; did you mean routing.validation_bp?",
    ),
    (
        "dimension = 16",
        "capacity = { num = 1, den = 2 }",
        ": routing.capacity.num: below den, the largest shard would be below the mean",
    ),
    (
        "dimension = 16",
        "capacity = 1.5",
        ": routing.capacity: 1.5 is not a table with num, den, unit",
    ),
    (
        "dimension = 16",
        "capacity = { num = 3 }",
        ": routing.capacity.den: is missing: a whole number from 1 to 1000",
    ),
    ("dimension = 16", "overlap = 3", ": routing.overlap: above the number of paths, 2"),
    (
        "dimension = 16",
        "reshard = { after_round = 1 }",
        ": routing.reshard: needs kind kmeans, and a router_bp above 0 to score",
    ),
    (
        "dimension = 16",
        "router_bp = 500\nreshard = { after_round = 1 }",
        ": routing.reshard.after_round: no round of 1 follows it",
    ),
    (
        "dimension = 16",
        "router_bp = 500\nreshard = { after = 1 }",
        ": routing.reshard.after: no such field; did you mean routing.reshard.after_round?",
    ),
    ("dimension = 16", 'beacon = "xyz"', ": routing.beacon: the text 'xyz' is not hexadecimal"),
    (
        "dimension = 16",
        "min_tokens = 10",
        ": routing.min_tokens: 10, below prefix + 8 (40): nothing would be left to score",
    ),
    (
        "dimension = 16",
        "prefix_bytes = 64\nmin_tokens = 100",
        ": routing.min_tokens: above prefix_bytes, no document would take part",
    ),
    ("rounds = 1", "rounds = 0", ": training.rounds: 0 is not a whole number from 1 to 1048576"),
    (
        "rounds = 1",
        'rounds = "ten"',
        ": training.rounds: the text 'ten' is not a whole number from 1 to 1048576",
    ),
    ("batch = 1", "batch = 0", ": training.batch: 0 is not a whole number from 1 to 65536"),
    ("batch = 1", "batch = 65537", ": training.batch: 65537 is not a whole number from 1 to 65536"),
    (
        "batch = 1",
        'batch = 1\ndeltas = "int9"',
        ": training.deltas: the text 'int9' is not one of bf16, f32, int2, int4, int8, topk; did you mean int8?",
    ),
    ("batch = 1", "batch = 1\nprecision = 16", ": training.precision: 16 is not one of bf16, f32"),
    (
        "batch = 1",
        "batch = 1\nearly_stopping = 1",
        ": training.early_stopping: 1 is not true or false",
    ),
    (
        "batch = 1",
        "batch = 1\nlr = 0.1",
        ": training.lr: no such field; lr stands in [training.inner]",
    ),
    (
        "batch = 1",
        "batch = 1\ninner = 3",
        ": training.inner: 3 is not a table with lr, floor, warmup, weight_decay, beta1, beta2, eps, clip",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.iner]",
        ": training.iner: no such field; did you mean training.inner?",
    ),
    (
        "batch = 1",
        'batch = 1\n[training.inner]\nkind = "moun"',
        ": training.inner.kind: the text 'moun' is not one of adamw, muon; did you mean muon?",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.inner]\nkind = 1",
        ": training.inner.kind: 1 is not one of adamw, muon",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.inner]\nmomentum = 0.9",
        ": training.inner.momentum: adamw has none; it has lr, floor, warmup, weight_decay, beta1, beta2, eps, clip",
    ),
    (
        "batch = 1",
        'batch = 1\n[training.inner]\nkind = "muon"\nmomentum = 1',
        ": training.inner.momentum: 1 is not a number from 0 to below 1",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.inner]\nlr = 0",
        ": training.inner.lr: 0 is not a number above 0 and up to 1000",
    ),
    (
        "batch = 1",
        'batch = 1\n[training.inner]\nlr = "1e-3"',
        ": training.inner.lr: the text '1e-3' is not a number above 0 and up to 1000",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.inner]\nwarm_up = 3",
        ": training.inner.warm_up: no such field; did you mean training.inner.warmup?",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.outer]\nmomentum = 1.0",
        ": training.outer.momentum: 1.0 is not a number from 0 to below 1",
    ),
    (
        "batch = 1",
        "batch = 1\n[training.outer]\nmomentum = nan",
        ": training.outer.momentum: nan is not a number from 0 to below 1",
    ),
    (
        "batch = 1",
        'batch = 1\n[training.outer]\nrescale = "sqr"',
        ": training.outer.rescale: the text 'sqr' is not one of none, sqrt; did you mean sqrt?",
    ),
    (
        "batch = 1",
        "batch = 1\n[schedule]\nlease_ttl = 1",
        ": schedule.lease_ttl: 1 is not a whole number from 5 to 3600",
    ),
    (
        "batch = 1",
        'batch = 1\n[schedule]\nlease_ttl = "20 s"',
        ": schedule.lease_ttl: the text '20 s' is not a whole number from 5 to 3600",
    ),
    (
        "batch = 1",
        'batch = 1\n[schedule]\nschedulers = ["me"]',
        ": schedule.schedulers[0]: the text 'me' is not a PeerID (12D3KooW..., 52 characters)",
    ),
    (
        "batch = 1",
        "batch = 1\n[schedule]\nschedulers = []",
        ": schedule.schedulers: an empty list is not a list of 1 to 16 items",
    ),
    (
        "batch = 1",
        "batch = 1\n[schedule]\nseed = 3",
        ": schedule.seed: no such field; seed stands above the first [table]",
    ),
    (
        "batch = 1",
        "batch = 1\n[schedule]\nmember = []",
        ": schedule.member: no such field; did you mean schedule.members?",
    ),
    (
        "batch = 1",
        'batch = 1\n[schedule]\nmembers = ["12D3KooWzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"]',
        ": schedule.members: '12D3KooWzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz' is no PeerID (12D3KooW...)",
    ),
    ("documents = 64", "documents = 1", ": source.documents: 1 for 2 paths"),
    (
        "documents = 64\n",
        "",
        ": source.documents: is missing: a whole number from 1 to 1099511627776",
    ),
    (
        "documents = 64",
        'documents = "64"',
        ": source.documents: the text '64' is not a whole number from 1 to 1099511627776",
    ),
    (
        "documents = 64",
        "documents = 0",
        ": source.documents: 0 is not a whole number from 1 to 1099511627776",
    ),
    (
        "documents = 64",
        "documents = 64\nwindow = 65",
        ": source.window: 65 documents, more than the source's 64",
    ),
    (
        "documents = 64",
        "document = 64",
        ": source.document: no such field; did you mean source.documents?",
    ),
    (
        "documents = 64",
        'documents = 64\ntext_field = "text"',
        ": source.text_field: a source of kind synthetic has none; it has documents, window",
    ),
    (
        'kind = "synthetic"\n',
        "",
        ": source.kind: is missing: one of embedded, files, hub, synthetic",
    ),
    (
        '"synthetic"',
        '"file"',
        ": source.kind: the text 'file' is not one of embedded, files, hub, synthetic; did you mean files?",
    ),
    (
        '"synthetic"',
        '"cloud"',
        ": source.kind: the text 'cloud' is not one of embedded, files, hub, synthetic",
    ),
    ('"synthetic"', "7", ": source.kind: 7 is not one of embedded, files, hub, synthetic"),
    ('"synthetic"', '"hub"', ": source.dataset: is missing: a text in quotes"),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "embedded"\ndocuments = 5000',
        ": source.documents: 5000, but the files hold 1810",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "hub"\ndataset = "no/such/name"',
        ": source.dataset: 'no/such/name' is not owner/name",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "hub"\ndataset = "wikitext"',
        ": source.dataset: 'wikitext' is not owner/name",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["nope.txt"]',
        ": source.files: nope.txt: no such file",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["*.txt"]',
        ": source.files: *.txt: patterns are not expanded: list the files",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["empty.txt"]',
        ": source.files: no documents in them",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.txt", "./a.txt"]',
        ": source.files: a.txt is listed twice; its rows would count twice",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["folder.txt"]',
        ": source.files: folder.txt is a folder: list its files",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.csv"]',
        ": source.files: a.csv: not a .parquet, .jsonl or .txt file, nor .jsonl.gz or .jsonl.zst",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = "a.txt"',
        ": source.files: the text 'a.txt' is not a list of 1 to 2048 items",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = []',
        ": source.files: an empty list is not a list of 1 to 2048 items",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = [3]',
        ": source.files[0]: 3 is not the name of a file: a text in quotes, of 1 to 512 characters",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = [""]',
        ": source.files[0]: the text '' is not the name of a file: a text in quotes, of 1 to 512 characters",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["http://example.org/a.txt"]',
        ": source.files: http://example.org/a.txt: files are fetched over https alone: use https://",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["s3://bucket/a.txt"]',
        ": source.files: s3://bucket/a.txt: files are fetched over https alone: use https://",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["https://user:word@example.org/a.txt"]',
        ": source.files: 'https://user:word@example.org/a.txt': an address has no user, password or fragment",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["rows.jsonl"]',
        ": source.text_field: rows.jsonl: row 1 has no 'text', only: 'body'",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.txt"]\ndocuments = 101',
        ": source.documents: 101, but the files hold 100",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.txt"]\nwindow = 101',
        ": source.window: 101, but the files hold 100",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.txt"]\ntext_field = "body"',
        ": source.text_field: a.txt: its rows are its lines, called 'text'",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["a.txt"]\ndataset = "a/b"',
        ": source.dataset: a source of kind files has none; it has files, text_field, documents, window",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\nfiles = ["~nobody-here/a.txt"]',
        ": source.files: ~nobody-here/a.txt: there is no home folder of ~nobody-here",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"',
        ": source.files: is missing: a list of 1 to 2048 items",
    ),
    (
        'kind = "synthetic"\ndocuments = 64',
        'kind = "files"\npath = "a.txt"',
        ": source.path: no such field; [source] has config, dataset, documents, files, kind, revision, split, text_field, window",
    ),
    (
        "[model]",
        '[tokenizer]\nfile = "nope.json"\n[model]',
        ": tokenizer.file: cannot read nope.json: No such file or directory",
    ),
    (
        "[model]",
        '[tokenizer]\nfile = "braces.json"\n[model]',
        ": tokenizer.file: braces.json: tokenizer: not a file of the `tokenizers` library: Model missing. at line 1 column 2",
    ),
    (
        "[model]",
        '[tokenizer]\nfile = "folder.txt"\n[model]',
        ": tokenizer.file: cannot read folder.txt: Is a directory",
    ),
    (
        "[model]",
        "[tokenizer]\nfile = 3\n[model]",
        ": tokenizer.file: 3 is not the name of a file: a text in quotes, of 1 to 512 characters",
    ),
    (
        "[model]",
        '[tokenizer]\nfile = ""\n[model]',
        ": tokenizer.file: the text '' is not the name of a file: a text in quotes, of 1 to 512 characters",
    ),
    (
        "[model]",
        '[tokenizer]\nsha256 = "abc"\n[model]',
        ": tokenizer.sha256: the text 'abc' is not 64 hexadecimal digits in quotes",
    ),
    (
        "[model]",
        '[tokenizer]\nsha256 = "0000000000000000000000000000000000000000000000000000000000000000"\n[model]',
        ": tokenizer.sha256: needs tokenizer.file; without it the run has the packaged tokenizer",
    ),
    (
        "[model]",
        '[tokenizer]\nend_of_text = "</s>"\n[model]',
        ": tokenizer.end_of_text: needs tokenizer.file; without it the run has the packaged tokenizer",
    ),
    (
        "[model]",
        '[tokenizer]\nfiel = "x"\n[model]',
        ": tokenizer.fiel: no such field; did you mean tokenizer.file?",
    ),
    (
        "[model]",
        '[model]\ncheckpoint = "nope"',
        ": model.checkpoint: cannot read nope/config.json: No such file or directory",
    ),
    (
        "[model]",
        "[model]\ncheckpoint = 3",
        ": model.checkpoint: 3 is not the name of a file: a text in quotes, of 1 to 512 characters",
    ),
    (
        "[model]",
        '[model]\ncheckpoint = "folder.txt"',
        ": model.checkpoint: cannot read folder.txt/config.json: No such file or directory",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), RUNS)
def test_a_mistake_in_the_file_of_a_run_is_answered(
    answer: Answer, tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in TINY
    (tmp_path / "a.txt").write_text("a line of text\n" * 100)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "a.csv").write_text("text\nwords\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "braces.json").write_text("{}")
    (tmp_path / "my.toml").write_text(TINY.replace(old, new, 1))
    said = answer("run", "create", "my.toml", "--out", "my.run")
    assert said == f"my.toml{words}"


def test_the_table_is_as_long_as_it_was_found_to_be() -> None:
    assert len(RUNS) >= 60


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfen\x00", "my.toml, line 1: not UTF-8; save the file as UTF-8"),
        (b'name = "x"\n# caf\xe9\n', "my.toml, line 2: not UTF-8; save the file as UTF-8"),
        (b"", "my.toml: is empty; `dipaco-node run init` prints one that runs"),
        (b"x" * ((1 << 20) + 1), "my.toml has more than 1048576 bytes"),
        (b"a = " + b"[" * 5000, "my.toml: not valid TOML: a number or a nesting is too long"),
        (b"a = " + b"1" * 5000, "my.toml: not valid TOML: a number or a nesting is too long"),
        (None, "cannot read my.toml: No such file or directory"),
    ],
)
def test_a_file_of_a_run_that_is_no_toml_is_answered(
    answer: Answer, tmp_path: Path, data: bytes | None, words: str
) -> None:
    if data is not None:
        (tmp_path / "my.toml").write_bytes(data)
    assert answer("run", "create", "my.toml", "--out", "my.run") == words


def test_a_folder_in_the_place_of_a_toml_file_is_answered(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "my.toml").mkdir()
    assert "'my.toml' is a directory" in answer("run", "create", "my.toml", "--out", "my.run")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path, answer: Answer) -> None:
    (tmp_path / "my.toml").write_text("\ufeff" + TINY, encoding="utf-8")
    assert run(["run", "create", "my.toml", "--out", "my.run"]) == Exit.OK


def test_a_name_that_no_file_can_have_is_answered(answer: Answer, tmp_path: Path) -> None:
    files = f'kind = "files"\nfiles = ["{"a" * 255}.txt"]'
    (tmp_path / "my.toml").write_text(TINY.replace('kind = "synthetic"\ndocuments = 64', files))
    said = answer("run", "create", "my.toml", "--out", "my.run")
    assert said == f"my.toml: source.files: cannot read {'a' * 255}.txt: File name too long"


def test_a_folder_whose_name_is_not_text_is_answered(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "a.txt").write_text("a line of text\n" * 100)
    files = 'kind = "files"\nfiles = ["a.txt"]'
    (folder / "my.toml").write_text(TINY.replace('kind = "synthetic"\ndocuments = 64', files))
    said = answer("run", "create", "my.toml", "--out", "my.run")
    assert said.startswith("my.toml: source.files: ")
    assert said.endswith(r"caf\udce9/a.txt: the path is not UTF-8, no manifest can name it")
    assert "is not UTF-8: rename it" in answer("run", "init", "--data", "a.txt")


def test_a_file_that_cannot_be_read_is_answered_with_its_field(
    answer: Answer, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").symlink_to("/proc/self/mem")
    files = 'kind = "files"\nfiles = ["rows.txt"]'
    (tmp_path / "my.toml").write_text(TINY.replace('kind = "synthetic"\ndocuments = 64', files))
    said = answer("run", "create", "my.toml", "--out", "my.run")
    assert said == "my.toml: source.files: cannot read rows.txt: Input/output error"
