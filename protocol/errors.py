"""Every error that dipaco raises on purpose. The class says whose fault it is, and what to do.

* DipacoError
  + ConfigError             the operator's fault: name the field, exit 2
  + ProtocolError
    - LocalProtocolError    a bug of ours: crash
    - RemoteProtocolError   the peer's fault: reset the stream, count a strike
  + Refusal                 the run is not what it claims to be: stop, never retry
    - Unverifiable          the run cannot be verified, and the operator requires it: exit 5
    - SignerFault           signed values contradict each other: whoever hands them on may be honest
  + NoDevice                this machine has no usable device, or too little memory: exit 6
  + Unavailable             nobody's fault: back off and try again
    - LeaseLost             the lease is no longer ours: drop the work, ask for another lease
    - WrongPlace            somebody else lives at that address: dial it seldom

Add a class only where some caller handles it differently.
"""


class DipacoError(Exception):
    """The base of every error raised on purpose; its message is written for a person."""


class ConfigError(DipacoError):
    """A setting or an argument of the operator is wrong; the message names the field."""


class ProtocolError(DipacoError):
    """The base of breaches of the protocol."""


class LocalProtocolError(ProtocolError):
    """We broke our own protocol: a bug, and no peer's fault."""


class RemoteProtocolError(ProtocolError):
    """A peer sent what no honest peer sends."""


class Refusal(DipacoError):
    """The run, its manifest or its router is not what it claims to be: never retried."""


class Unverifiable(Refusal):
    """The run cannot be verified, and the policy of this node requires that it is."""


class SignerFault(Refusal):
    """What a peer signed contradicts the rest that it signed; who hands it on may be honest.

    signer   its PeerID.
    """

    def __init__(self, reason: str, signer: str) -> None:
        super().__init__(reason)
        self.signer = signer


class NoDevice(DipacoError):
    """The machine has no such device, or too little memory for the work."""


class Unavailable(DipacoError):
    """A peer or a source cannot be reached for now: back off, then try again."""


class LeaseLost(Unavailable):
    """The lease ended before its work: drop the work and ask for another lease."""


class WrongPlace(Unavailable):
    """At the address that was dialled somebody else answers: it may be a third party's."""
