"""What the daemon tells the service manager that started it: sd_notify, in a few lines."""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

VARIABLE = "NOTIFY_SOCKET"
MAX_STATUS = 1000  # characters of a status, one line


class ServiceManager:
    """Tells systemd the state of this process; without systemd it tells nobody."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the address out of the environment: child processes have nothing to tell."""
        self._address = environ.pop(VARIABLE, "")

    @property
    def is_there(self) -> bool:
        """Whether a service manager started this process."""
        return bool(self._address)

    def ready(self) -> None:
        """Say that the start is complete."""
        self._tell("READY=1")

    def status(self, text: str) -> None:
        """Tell a line that `systemctl status` shows."""
        self._tell(f"STATUS={' '.join(text.split())[:MAX_STATUS]}")

    def stopping(self) -> None:
        """Say that the process is leaving."""
        self._tell("STOPPING=1")

    def _tell(self, line: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
            sender.setblocking(False)  # a manager that does not read must not stop the node
            sender.sendto(line.encode(errors="backslashreplace"), name)
