"""Measurements, separate from the tests: `make bench`. Their figures: docs/benchmarks.md.

Every benchmark is a module here with a function `run`, without arguments, that returns one
`Result` or a list of them; `__main__` calls each in a process of its own.
"""
