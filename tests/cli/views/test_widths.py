"""Rules of this file: every view, at several widths: no line is wider, and no number is cut."""

import re
from collections.abc import Callable
from io import StringIO

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from dipaco.cli.testnet.display import LiveView
from dipaco.cli.testnet.local_run import local_run
from dipaco.cli.views.assessment import (
    AssessmentReport,
    DomainScore,
    Pass,
    PathScore,
    Score,
    print_assessment,
)
from dipaco.cli.views.checkpoint import ListedModule, ListedPath, Listing, listing_text
from dipaco.cli.views.comparison import print_comparison
from dipaco.cli.views.doctor import check_text, fit_text
from dipaco.cli.views.layout import fitted
from dipaco.cli.views.manifest import manifest_text, runs_text
from dipaco.cli.views.progress import Work, display
from dipaco.cli.views.report import print_report
from dipaco.cli.views.status import status_text
from dipaco.node.data.sources.labels import MAX_LABEL
from dipaco.node.doctor.check import Check
from dipaco.node.status.document import Status
from tests.cli.commands.test_doctor import FIT
from tests.cli.testnet.test_snapshot import snapshot
from tests.cli.views.test_report import report
from tests.node.api.fake_node import PEER, block, status, task
from tests.node.compare.made_up import comparison

WIDTHS = (40, 60, 80, 120)
WIDE = 10_000
LONG = 24  # cells; a longer word (a digest, an address) may be broken
RUN = local_run(None, seed=0, rounds=2).run
BIDI, ESCAPE = "\u202e", "\x1b[31m"

Render = Callable[[int], str]


def printed(show: Callable[[Console], object]) -> Render:
    """Return what `show` prints on a console of a width."""

    def render(width: int) -> str:
        console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
        with console.capture() as captured:
            show(console)
        return captured.get()

    return render


def busy() -> Status:
    """A status with large numbers, foreign letters and several runs."""
    other = replace(block(), id="12" * 32, name="架" * 12, rounds=1_000_000)
    found = replace(status(work=task()), runs=(block(), other))
    return replace(found, totals=replace(found.totals, tokens=123_456_789_012, sent=10**12))


def score(path: int) -> PathScore:
    return PathScore(
        path=path,
        experts=divmod(path, 4),
        version=100 + path,
        documents=1_234_567,
        tokens=1_234_567_890,
        nll=1.5,
        loss=3.4567,
        perplexity=31.71,
        bytes=3_456_789_012,
        bits_per_byte=1.234,
    )


def assessment() -> AssessmentReport:
    every = {name: getattr(score(0), name) for name in Score.__struct_fields__}
    domains = ("law", "架" * MAX_LABEL, "a_name_" * (MAX_LABEL // 7))
    passes = tuple(
        Pass(
            reroute=window,
            paths=tuple(map(score, range(16))),
            domains=tuple(DomainScore(domain=each, **every) for each in domains),
            **every,
        )
        for window in (None, 128)
    )
    return AssessmentReport(
        name="架架",
        run="ab" * 32,
        spec="cd" * 32,
        vocabulary=1_048_576,
        data="a/file.txt",
        left_out=1,
        passes=passes,
    )


def listing() -> Listing:
    return Listing(
        name="shelf-16",
        run="ab" * 32,
        rounds=100_000,
        paths=tuple(ListedPath(path=p, experts=divmod(p, 4), version=99_999) for p in range(16)),
        modules=tuple(
            ListedModule(
                module=f"L1.E{expert}",
                version=99_998,
                newest=99_999,
                paths=tuple(range(16)),
                bytes=123_456_789,
                here=expert == 0,
                state="ef" * 32,
            )
            for expert in range(4)
        ),
    )


def live(console: Console) -> None:
    class Shown:
        """Stands in for rich's Live: prints what it is given."""

        def __init__(self) -> None:
            self.console = console

        def update(self, drawn: object) -> None:
            console.print(drawn)

    now = snapshot(1, n1=task(), n2=task(done=3), n3=None)
    LiveView(RUN.manifest, Shown()).show(now)  # type: ignore[arg-type]


def bar(console: Console) -> None:
    with display("router of shelf-16", console) as shown:
        notes = ("1,234,567 tokens/s", "loss 3.456")
        shown.show(
            Work(
                title="router of shelf-16: materialise window 12345",
                done=123_456,
                total=1_234_567,
                unit="documents",
                part="round 3, path 17",
                notes=notes,
            )
        )


CURE = "free 12.5 GB on the disk that holds /home/someone/.local/share/dipaco-node/cache/shards"
VIEWS: dict[str, Render] = {
    "status": lambda width: status_text(busy(), width),
    "one run": lambda width: status_text(status(work=task()), width),
    "ckpt list": lambda width: listing_text(listing(), width),
    "doctor": lambda width: check_text(
        Check(name="disk", verdict="fail", words="12.5 GB free of 1,000,000 MB", cure=CURE), width
    ),
    "fit": lambda width: fit_text(FIT, width),
    "run show": lambda width: manifest_text(RUN, width),
    "run list": lambda width: runs_text([RUN, RUN], width),
    "report": printed(lambda console: print_report(report(), console)),
    "eval": printed(lambda console: print_assessment(assessment(), as_json=False, console=console)),
    "compare": printed(lambda console: print_comparison(comparison(), console)),
    "testnet": printed(live),
    "bar": printed(bar),
}


def words(text: str) -> set[str]:
    """Return the words that hold a digit, without the lines of tables and escape sequences."""
    plain = re.sub(r"[│┃┏┓┗┛━┡┩┼╇├┤─└┘┴┬╺╸]", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    return {word.strip("(),;:") for word in plain.split() if re.search(r"\d", word)}


def lines(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(name: str, width: int) -> None:
    shown = VIEWS[name](width)
    assert max(map(cell_len, lines(shown))) <= width
    whole = words(VIEWS[name](WIDE))
    long = [word for word in whole if cell_len(word) > LONG]
    shortened = f"{PEER[:8]}...{PEER[-4:]}"
    assert words(shown)
    for word in words(shown) - whole - {shortened}:
        known = "..." in word or any(word in each for each in long)
        assert known or re.fullmatch(r"\d+:\d\d", word), word


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_no_terminal_gets_everything(name: str) -> None:
    assert "no room for" not in VIEWS[name](WIDE)


def test_forty_columns_keep_what_a_table_is_for() -> None:
    for view in ("eval", "report"):
        assert "bits/byte" in VIEWS[view](40), view
    assert "perplexity" in VIEWS["eval"](40) and "no room for: " in VIEWS["eval"](40)
    assert "routed" in VIEWS["report"](40) and "leased" in VIEWS["one run"](40)


@pytest.mark.parametrize("width", [20, 40])
def test_wide_letters_and_joined_ones_are_counted_by_cells(width: int) -> None:
    text = "架" * 50 + " e\u0301" * 30 + " 12345"
    shown = fitted(text, width).split("\n")
    assert max(map(cell_len, shown)) <= width
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "render",
    [
        lambda text: status_text(replace(status(), runs=(replace(block(), name=text),))),
        lambda text: status_text(replace(status(), run=replace(block(), name=text), runs=())),
        lambda text: listing_text(replace(listing(), name=text)),
        lambda text: check_text(Check(name="disk", verdict="ok", words=text)),
        lambda text: VIEWS["report"](80) and printed_title(text),
    ],
    ids=["runs", "run", "ckpt list", "doctor", "eval"],
)
def test_text_of_peers_is_made_printable_on_its_way_out(render: Callable[[str], str]) -> None:
    shown = render(f"a{ESCAPE}{BIDI}\x9b\x07\nb")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def printed_title(text: str) -> str:
    console = Console(file=StringIO(), width=200)
    with console.capture() as captured:
        print_assessment(replace(assessment(), data=text), as_json=False, console=console)
    return captured.get()
