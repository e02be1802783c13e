"""Pictures of the terminal view at 80 and 40 columns, of a node that runs now.

    python -m tests.golden.pictures HOME

draws the daemon of a home into docs/pictures/. They are kept as they were drawn: no test compares.
"""

import io
import re
import sys
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group

from dipaco.cli.views.seen import Seen, losses_of
from dipaco.cli.views.terminal import Room, terminal_lines
from dipaco.node.api.client import ask_ledger, ask_status

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
SIZES: Final = ((80, 24), (40, 24))
FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without the fonts that rich would have a browser fetch."""


def svg(seen: Seen, width: int, height: int) -> str:
    """Return the picture of a terminal of this size."""
    console = Console(
        width=width, height=height, record=True, file=io.StringIO(), force_terminal=True
    )
    console.print(Group(*terminal_lines(seen, Room(width, height))))
    return console.export_svg(
        title="dipaco-node status --watch", code_format=FORMAT, unique_id=f"terminal{width}"
    )


def main(home: Path) -> None:
    """Draw the daemon of a home."""
    seen = Seen(status=ask_status(home)).with_losses(losses_of(ask_ledger(home)))
    for width, height in SIZES:
        (FOLDER / f"terminal-{width}.svg").write_text(svg(seen, width, height))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
