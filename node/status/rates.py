"""The rates of traffic that a status tells: the mean over the last seconds. Pure."""

from collections import deque

SECONDS = 10.0  # that a rate is the mean of: a step of training sends nothing for as long
MAX_LOOKS = 64  # statuses are made once a second for those that watch, and more often if asked for


class Rates:
    """How many bytes went and came, from look to look."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque(maxlen=MAX_LOOKS)

    def look(self, now: float, sent: int, received: int) -> tuple[float, float]:
        """Note the bytes of now (seconds on a steady clock); return bytes per second both ways.

        The mean is over `SECONDS`, or since the last look if that was earlier.
        """
        while len(self._looks) > 1 and self._looks[1][0] <= now - SECONDS:
            self._looks.popleft()
        then, sent_then, received_then = self._looks[0] if self._looks else (now, sent, received)
        if not self._looks or now >= self._looks[-1][0] + SECONDS / MAX_LOOKS:
            self._looks.append((now, sent, received))
        took = now - then
        if took <= 0:
            return 0.0, 0.0
        return (sent - sent_then) / took, (received - received_then) / took
