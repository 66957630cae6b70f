"""appliance-update on a disk of the build machine: run by the tools tree's own Python.

    python3 updating.py CLONE FOLDER

takes the update that comes on standard input. The disk, the programs and the signature are real;
there is no boot loader that could be asked, and nobody who boots.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from appliance.node import images, payload, update
from appliance.node.identity import Identity
from appliance.node.images import Boot, Slot
from appliance.node.update import Node

MIB = 1 << 20


def main() -> None:
    folder = Path(sys.argv[2])
    images.boot_state = lambda: Boot.GOOD
    nowhere = (Path("/nowhere"), Path("/nowhere"))
    images.slots = lambda _: (Slot("b", 8 * MIB, 2 * MIB, running=False, devices=nowhere),)
    update._SYSUPDATE = str(folder / "sysupdate")
    node = Node(
        Identity("fw1", "testcase", "", "1"),
        "vm",
        None,
        esp=folder / "esp",
        staging=folder / "staging",
        keyring=Path("/etc/systemd/import-pubring.gpg"),
        busy=folder / "busy",
        last_trial=folder / "last-trial.json",
        cmdline="",
    )
    update.take(
        node, payload.sent(sys.stdin.buffer), allow_older=False, dry_run=False, forced=False
    )


if __name__ == "__main__":
    main()
