"""GnuPG, in a home of its own that is gone afterwards: systemd verifies updates by gpg."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.run import Argument, run
from appliance.tools import ToolsTree

# Algorithm, use and end of a key: signatures by Ed25519 are the same each time.
KIND = ("ed25519", "sign", "never")

# Debian 13's day of release, as in mkosi.conf.d/10-debian.conf: the time of keys and signatures.
MOMENT = "20250809T000000"


@dataclass(frozen=True, slots=True)
class Gnupg:
    """A home, and the program that works in it."""

    tools: ToolsTree
    home: Path

    def run(self, *arguments: Argument) -> str:
        """What gpg prints; ToolError when it is not content."""
        fixed = ["gpg", f"--homedir={self.home}", f"--faked-system-time={MOMENT}!"]
        fixed += ["--batch", "--quiet", "--no-tty", "--pinentry-mode=loopback"]
        return run(self.tools.inside([*fixed, *arguments])).stdout


@contextmanager
def home(tools: ToolsTree) -> Iterator[Gnupg]:
    """An empty home. In the system's folder for such things: a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="appliance-gpg.", ignore_cleanup_errors=True) as folder:
        try:
            yield Gnupg(tools, Path(folder))
        finally:  # its agent would live on
            run(tools.inside(["gpgconf", "--homedir", folder, "--kill", "all"]), check=False)
