"""Where things lie in the peers machine."""

from __future__ import annotations

BASE = "/run/lab"
KEY = f"{BASE}/key"
SHARE = f"{BASE}/share"
MAIL = f"{BASE}/mail"
LOG = f"{BASE}/log"


def folder(host: str) -> str:
    """What is a host's own: the configurations of its programs, and what they keep."""
    return f"{BASE}/hosts/{host}"
