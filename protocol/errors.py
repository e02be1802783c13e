"""Every error dipaco raises on purpose. The class says whose fault it is, hence what to do.

* DipacoError
  + ConfigError             our operator's: name the field, exit 2
  + ProtocolError
    - LocalProtocolError    ours, a bug: crash
    - RemoteProtocolError   the peer's: reset the stream, lower its score
  + Refusal                 this run is not what it claims to be: stop, never retry
    - Unverifiable          ... or cannot be shown to be, and our operator requires it: exit 5
  + NoDevice                this machine's: no usable device, or the work does not fit it: exit 6
  + Unavailable             nobody's: back off and try again
    - LeaseLost             another peer has our path: drop the work, take the next

A new class only where some caller does something different with it.
"""


class DipacoError(Exception):
    """The base of every error raised on purpose; its message is written for a person."""


class ConfigError(DipacoError):
    """What the operator typed or wrote is wrong; the message names the field."""


class ProtocolError(DipacoError):
    """The base of breaches of the protocol."""


class LocalProtocolError(ProtocolError):
    """We broke our own protocol: a bug, and nobody else's fault."""


class RemoteProtocolError(ProtocolError):
    """A peer sent what no honest peer sends."""


class Refusal(DipacoError):
    """The run, its manifest or its router is not what it claims to be: never retried."""


class Unverifiable(Refusal):
    """Whether the run is what it claims to be cannot be told, and the policy requires it."""


class NoDevice(DipacoError):
    """This machine has no such device, or too little memory for the work."""


class Unavailable(DipacoError):
    """Something is away for now (a peer, a source): back off, then try again."""


class LeaseLost(Unavailable):
    """The lease ended under us: drop the work and ask for the next."""
