"""Rules of this file: endings are values with a time; nothing is connected."""

from dipaco.node.network.endings import SUMMARY_SECONDS, Endings
from tests.node.network.peers import PEERS


def test_endings_are_summed_up_once_in_ten_minutes() -> None:
    endings = Endings()
    said = [endings.note("streams", PEERS[i % 2], 5.0 + i) for i in range(int(SUMMARY_SECONDS))]
    assert set(said) == {None}
    summary = endings.note("connections", PEERS[2], 5.0 + SUMMARY_SECONDS)
    assert summary == "ended in the last 10 min: connections 1, streams 600, peers 3"
    assert endings.note("streams", PEERS[0], 6.0 + SUMMARY_SECONDS) is None, "it begins anew"
    assert endings.note("streams", PEERS[0], 6.0 + 2 * SUMMARY_SECONDS) == (
        "ended in the last 10 min: streams 2, peers 1"
    )
