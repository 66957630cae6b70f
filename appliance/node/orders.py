"""What lies on a boot partition for a node: who it is, and whether it is to install itself.

systemd-stub(7) hands each `loader/credentials/*.cred` to the initrd, as it is. They have names of
their own: systemd would take a file named as the credential `appliance.node` for an encrypted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

FOLDER = PurePosixPath("loader/credentials")
NODE = FOLDER / "appliance-node.cred"
INSTALL = FOLDER / "appliance-install.cred"

# How often the boot loader tries a new image before it takes the other one: the end of its name.
TRIES = 3

# Where the initrd puts the second one, for the service that carries it out.
ORDER = Path("/etc/appliance/install.json")


@dataclass(frozen=True, slots=True)
class Order:
    """Install on the disk at this path, as this node (None: the site has only one)."""

    disk: str
    node: str | None = None

    def text(self) -> str:
        """As it is written down."""
        return json.dumps(asdict(self)) + "\n"


def read(path: Path) -> Order:
    """The order in a file; OSError or ValueError when there is none."""
    try:
        return Order(**json.loads(path.read_text()))
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
