"""The pictures of the page in docs/pictures, taken of a local network that trains.

    dipaco-node testnet --home DIR                  # meanwhile, in another terminal:
    python -m tests.pictures DIR

A picture has at most `MOST_BYTES`; look at each before it is committed.
"""

import io
import sys
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, expect

from dipaco.node.api.client import ask_page
from tests.node.page.browser import opened, running_browser

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
MOST_BYTES: Final = 150_000
COLOURS: Final = 96  # of a picture: the page has few
DESK: Final = {"width": 1100, "height": 1240}
PHONE: Final = {"width": 360, "height": 740}
PICTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "page-light.png": ("n1", {"viewport": DESK, "color_scheme": "light"}),
    "page-dark.png": ("n1", {"viewport": DESK, "color_scheme": "dark"}),
    "page-phone.png": ("n1", {"viewport": PHONE, "color_scheme": "light"}),
    "page-founder.png": ("r", {"viewport": DESK, "color_scheme": "light"}),
}
"""By name: the node, and the browser's settings."""


def take(browser: Browser, homes: Path, name: str) -> None:
    """Take one picture; raises AssertionError for one that is too large."""
    node, how = PICTURES[name]
    with opened(browser, ask_page(homes / node).url, **how) as page:
        expect(page.locator("#ledger table")).to_be_visible()
        expect(page.locator("#loss svg")).to_be_visible()
        shot = io.BytesIO(page.screenshot())
    with Image.open(shot) as picture:
        picture.quantize(COLOURS).save(FOLDER / name, optimize=True)
    assert (FOLDER / name).stat().st_size <= MOST_BYTES, name


def main(homes: Path) -> None:
    """Take all pictures of the nodes whose homes are in `homes`."""
    FOLDER.mkdir(exist_ok=True)
    with running_browser() as browser:
        for name in PICTURES:
            take(browser, homes, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
