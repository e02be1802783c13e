"""The seeds that failed once, from `kept_seeds.toml`."""

import tomllib
from pathlib import Path

FILE = Path(__file__).parent / "kept_seeds.toml"


def kept_seeds() -> list[int]:
    """Return them, in the order in which they were found."""
    return [entry["seed"] for entry in tomllib.loads(FILE.read_text()).get("universe", [])]
