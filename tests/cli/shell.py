"""A person's shell: command lines in this process, in a folder with a home of its own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run


@dataclass
class Shell:
    """Runs command lines in a folder with a home of its own."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        self.capture.readouterr()
        code = run(arguments)
        said = self.capture.readouterr()
        return code, said.out, said.err

    def fails(self, code: Exit, *arguments: str) -> str:
        """Return the one line with which it ends."""
        found, _, err = self(*arguments)
        assert found == code, err
        assert err.startswith("dipaco-node: ") and err.count("\n") == 1, err
        return err

    def write(self, name: str, data: str | bytes) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)
