"""What a maker carries from round to round of a path beside moments: what top-k left out.

`topk` sends one element of 64. The rest of the array that was to be sent is added to the path's
next pseudo-gradient. It follows the moments in their blob as bf16, so it moves with the path, and a
lease can be repeated. Fewer bits do not do: what a round adds to an element that waits is a
sixty-fourth of it, and rounding to 4 or 8 bits would drop that every time. docs/method.md 7.1.

Source: error feedback as in SparseLoCo, 2508.15706, without its decay.
"""

from typing import Final

from dipaco.protocol.tensors.block_float import Float32
from dipaco.protocol.tensors.delta import Encoding, decode_delta, encode_delta, encoded_bytes
from dipaco.protocol.tensors.moments import moments_bytes

KEPT_AS: Final = "bf16"


def feedback_bytes(encoding: Encoding, elements: int) -> int:
    """Return the only valid length of the feedback; 0 where the encoding leaves nothing out."""
    return encoded_bytes(KEPT_AS, elements) if encoding == "topk" else 0


def carried_bytes(encoding: Encoding, elements: int, by_muon: int = 0) -> int:
    """Return the only valid length of a module's carried blob: its moments, then its feedback.

    by_muon   the elements that Muon steps, which have one moment.
    """
    return moments_bytes(elements, by_muon) + feedback_bytes(encoding, elements)


def encode_feedback(feedback: Float32) -> bytes:
    """Return the bytes of a flat `feedback`; raises ValueError if they would not be finite."""
    return encode_delta(feedback, KEPT_AS)


def decode_feedback(data: bytes, elements: int) -> Float32:
    """Return the feedback in `data`, (elements,), finite; raises RemoteProtocolError."""
    return decode_delta(data, KEPT_AS, elements)


def send(delta: Float32, feedback: Float32, encoding: Encoding) -> tuple[bytes, bytes]:
    """Return the bytes of `delta` + `feedback`, and those of the next feedback.

    Raises ValueError if they would not be finite.
    """
    wanted = delta + feedback
    data = encode_delta(wanted, encoding)
    return data, encode_feedback(wanted - decode_delta(data, encoding, wanted.size))
