"""The cheap signatures are told apart as the real ones are, and change nothing else."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.calls import AskHolders, HandBack
from tests.simulation import universe
from tests.simulation.faults import plan_of
from tests.simulation.signatures import cheap, signing_key
from tests.values import digest, peer

VALUE = AskHolders(run=digest("run"))
FORGERIES: list[Callable[[Signed], Signed]] = [
    lambda signed: replace(signed, signature=bytes(64)),
    lambda signed: replace(signed, body=signed.body[:-1] + bytes([signed.body[-1] ^ 1])),
    lambda signed: replace(signed, public_key=sign(VALUE, signing_key("bert")).public_key),
]


@pytest.mark.parametrize("kind", [cheap, nullcontext], ids=["cheap", "real"])
def test_an_envelope_opens_and_a_forged_one_does_not(kind: Callable[[], nullcontext[None]]) -> None:
    with kind():
        signed = sign(VALUE, signing_key("anna"))
        assert signed.signer == peer("anna")
        assert open_signed(signed, AskHolders) == VALUE
        for forge in FORGERIES:
            with pytest.raises(RemoteProtocolError, match="the signature of this AskHolders"):
                open_signed(forge(signed), AskHolders)
        with pytest.raises(RemoteProtocolError, match="the signature of this HandBack"):
            open_signed(signed, HandBack)


def test_a_universe_is_the_same_with_real_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(3)
    quick = universe.run_plan(plan)
    monkeypatch.setattr(universe, "cheap", nullcontext)
    real = universe.run_plan(plan)
    assert real.hash == quick.hash and real.violation == quick.violation == ""
