"""Seats: in all, of a prefix, of a peer, and those that are kept for known peers."""

import ipaddress

import pytest

from dipaco.node.network.seats import Limits, Seats, prefix_of
from dipaco.protocol.errors import Unavailable

LIMITS = Limits(in_all=6, per_prefix=3, per_peer=2, kept=2)
NEAR, FAR = prefix_of("203.0.113.7"), prefix_of("2001:db8:0:12ff::1")


@pytest.mark.parametrize(
    ("ip", "prefix"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:0:12ff::1", "2001:db8:0:1200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        (None, ""),
        ("", ""),
    ],
)
def test_addresses_of_one_owner_are_counted_together(ip: str | None, prefix: str) -> None:
    assert prefix_of(ip) == prefix


def test_an_exempt_network_is_not_counted() -> None:
    exempt = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert prefix_of("127.0.0.1", exempt) == prefix_of("::1", exempt) == ""
    assert prefix_of("203.0.113.7", exempt) == NEAR


def test_a_peer_has_a_limit_that_nothing_lifts() -> None:
    seats = Seats("uploads", LIMITS)
    for _ in range(2):
        seats.take("one", NEAR, known=True)
    with pytest.raises(Unavailable, match="you have as many uploads as one peer may: 2"):
        seats.take("one", NEAR, known=True)


def test_a_prefix_has_a_limit_that_known_peers_do_not_have() -> None:
    seats = Seats("uploads", LIMITS)
    for who in "abc":
        seats.take(who, NEAR)
    with pytest.raises(
        Unavailable, match=r"203\.0\.113\.0/24 has as many uploads as one prefix may: 3"
    ):
        seats.take("d", NEAR)
    seats.take("d", NEAR, known=True)
    with pytest.raises(Unavailable, match="all uploads are taken"):
        seats.take("e", FAR)  # the rest is kept
    seats.take("e", FAR, known=True)


def test_a_prefix_that_is_not_counted_has_no_limit() -> None:
    seats = Seats("uploads", LIMITS)
    for who in "abcd":
        seats.take(who, "")
    with pytest.raises(Unavailable, match="all uploads are taken"):
        seats.take("e", "")


def test_a_seat_is_free_once_it_is_left() -> None:
    seats = Seats("uploads", Limits(in_all=1, per_prefix=1, per_peer=1))
    with seats.seat("one", NEAR):
        assert len(seats) == 1
        with pytest.raises(Unavailable, match="you have as many uploads as one peer may: 1"):
            seats.take("one", NEAR)
    seat = seats.take("two", NEAR)
    seats.leave(seat)
    seats.leave(seat)
    assert len(seats) == 0
    seats.take("three", NEAR)
