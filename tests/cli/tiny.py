"""The TOML file of a run that the tests of command lines create, change and spoil."""

TINY = """\
name = "tiny"
seed = 3
[source]
kind = "synthetic"
documents = 64
[model]
d_model = 16
heads = 2
kv_heads = 2
d_ff = 32
context = 40
[grid]
levels = [{ experts = 2, blocks = 1 }]
[routing]
sample = 32
dimension = 16
[training]
seed_steps = 1
rounds = 1
inner_steps = 1
batch = 1
"""
