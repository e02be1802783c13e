"""The limit on the traffic of a day: times are arguments, the time zone is Berlin's."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import trio
from trio.testing import MockClock

from dipaco.node.limits.quota import Account, QuotaLimit, Spent, day_of, next_midnight
from dipaco.node.limits.values import Closed, Observed
from dipaco.node.storage.journal import Journal

BERLIN = ZoneInfo("Europe/Berlin")
LIMIT = QuotaLimit(5_000_000_000, BERLIN)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def closed(traffic: int | None, text: str = "2026-11-28 14:00") -> Closed | None:
    return LIMIT.closed(Observed(traffic=traffic), unix(text), before=False)


def test_a_spent_quota_says_so_and_when_the_next_day_begins() -> None:
    assert closed(None) is None and closed(4_999_999_999) is None
    found = closed(5_000_000_000)
    assert found and str(found) == "5.0 GB of today spent; goes on Sun 00:00"
    assert (found.code, found.by, found.quiet) == ("quota", "limit", True)
    assert found.until == unix("2026-11-29 00:00")


def test_a_day_ends_at_local_midnight_also_when_it_has_23_or_25_hours() -> None:
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25)):
        begin = unix(f"{day} 00:00")
        assert next_midnight(begin, BERLIN) - begin == hours * 3600
        assert day_of(next_midnight(begin, BERLIN) - 1, BERLIN) == day_of(begin, BERLIN)
        assert day_of(next_midnight(begin, BERLIN), BERLIN) == day_of(begin, BERLIN) + 1


def test_another_day_begins_with_nothing_spent() -> None:
    assert Spent(7, 100).with_more(20, 7) == Spent(7, 120)
    assert Spent(7, 100).with_more(20, 8) == Spent(8, 20)


async def test_the_account_goes_on_after_a_restart_and_begins_anew_the_next_day(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    now, carried = 1_800_000_000.0, 0
    journal = Journal.open(tmp_path / "journal.sqlite")
    account = Account(journal, lambda: carried, lambda: now)
    async with trio.open_nursery() as nursery:
        await nursery.start(account.run)
        carried = 700
        await trio.sleep(61)
        carried = 1_000
        assert account.today() == 1_000
        killed = Account(journal, lambda: 50, lambda: now)  # what it carried before is not its own
        assert killed.today() == 700
        nursery.cancel_scope.cancel()
    again = Account(journal, lambda: carried, lambda: now)
    assert again.today() == 1_000
    carried += 5
    assert again.today() == 1_005
    now += 86_400
    assert again.today() == 0
    carried += 9
    assert again.today() == 9
    journal.close()
