"""Whether the kernel's firewall is the one that the image was built with.

The site's file is loaded once into a network namespace of its own, by the same program and kernel;
what is listed there is what has to be listed here. So nothing depends on how nft writes a rule.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from appliance.node.programs import said

FILE = Path("etc/nftables.conf")
TABLE = ("inet", "appliance")

# Without counters and the like, which change.
_LIST = ("nft", "--stateless", "list", "table", *TABLE)


@dataclass(slots=True)
class Ruleset:
    """Remembers what a file makes: loading it takes a while."""

    file: Path
    _of: bytes = b""
    _made: str | None = field(default=None)

    def problem(self) -> str | None:
        """What is wrong with the kernel's rules; None when they are as the file makes them."""
        loaded = digest(said(*_LIST))
        if loaded is None:
            return "the firewall is not loaded"
        if loaded != self._expected():
            return "the firewall is not the one that was built"
        return None

    def _expected(self) -> str | None:
        text = self.file.read_bytes() if self.file.is_file() else b""
        if self._made is None or text != self._of:
            load = f'nft -f "$0" && exec {" ".join(_LIST)}'
            self._made = digest(said("unshare", "--net", "sh", "-c", load, str(self.file)))
            self._of = text
        return self._made


def digest(listed: str) -> str | None:
    """The SHA-256 of what nft lists; None when there is nothing."""
    return hashlib.sha256(listed.encode()).hexdigest() if listed else None
