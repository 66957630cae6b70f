"""Tell systemd how we are: the sd_notify(3) protocol, without its library."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send lines like READY=1 to the service manager; without one, or if it is deaf, do nothing.

    Never waits: a manager with a full queue must not delay a takeover.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return
