"""Keep looking whether this router is well: `python3 -m appliance.node.watch`, for ever.

It writes what takes rights that others have not, for them to read, and has a boot decided that
could not be decided at its time. It never reboots anything.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from appliance.node import facts, images, statefile, trial
from appliance.node.ruleset import FILE, Ruleset

ROOT = Path("/")
EVERY_S = 15.0

_GATE = "appliance-health.service"
# It wants boot-complete.target, and that the gate.
_BLESS = "systemd-bless-boot.service"


def look(ruleset: Ruleset, root: Path = ROOT) -> None:
    """One look: tell what was found."""
    told = {"ruleset": ruleset.problem(), "written": {"monotonic": time.monotonic()}}
    statefile.write(root / facts.HEALTH, told)


def undecided() -> bool:
    """Whether the loader still counts this boot as a try, and nobody is deciding about it."""
    if images.boot_state() not in trial.UNDECIDED:
        return False
    argv = ["systemctl", "is-active", _GATE]
    now = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return now in ("failed", "inactive")


def decidable(ruleset: Ruleset, root: Path = ROOT) -> bool:
    """Whether a decision would be another one now: all is well, or it is not the last router."""
    if trial.on_trial():
        return not trial.last_router(root)
    return not list(trial.by_itself(root, facts.gather(root), ruleset))


def main() -> None:
    """Look, and rest."""
    ruleset, open_ = Ruleset(ROOT / FILE), True
    while True:
        look(ruleset)
        open_ = open_ and images.boot_state() in trial.UNDECIDED
        if open_ and undecided() and decidable(ruleset):
            subprocess.run(["systemctl", "start", "--no-block", _BLESS], check=False)
        time.sleep(EVERY_S)  # poll


if __name__ == "__main__":
    main()
