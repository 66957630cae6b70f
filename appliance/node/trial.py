"""Decide whether this boot is good: `python3 -m appliance.node.trial`, before boot-complete.target.

Exit code 0: it is; 1: it is not, and the machine is to go back to the image before; 75 (EX_TEMPFAIL
of sysexits.h): it is not, and the machine stays as it is. It stays when there is nothing to go back
to, and when it is the last router there is: then `appliance.node.watch` has it decided later.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

from appliance.node import busy, facts, health, identity, images, statefile
from appliance.node import config as configuration
from appliance.node.balance import Balance
from appliance.node.config import BUSY
from appliance.node.events import Role
from appliance.node.facts import Facts, at
from appliance.node.images import Boot, Images
from appliance.node.refused import RefusedError
from appliance.node.ruleset import FILE, Ruleset
from appliance.node.versions import older

LAST = Path("/var/lib/appliance/last-trial.json")
ROOT = Path("/")

UNDECIDED = (Boot.INDETERMINATE, Boot.DIRTY)

# Services that are restarted when they fail get this long to come up, in seconds; the peer's table
# and the roles of a pair take longer on a slow machine.
_PATIENCE_S = 60.0
_PAIR_PATIENCE_S = 150.0
_POLL_S = 1.0


class Verdict(IntEnum):
    """The exit code."""

    GOOD = 0
    BACK = 1
    STAY = 75


def here(root: Path = ROOT) -> Images | None:
    """The images of this machine, whether or not it knows which node it is; None where it has no
    boot partition.
    """
    try:
        return images.images(*identity.image(root / "etc/os-release"))
    except (RefusedError, OSError):
        return None


def on_trial() -> bool:
    """Whether this boot can still end in another image. Where that cannot be told, it can."""
    if images.boot_state() not in UNDECIDED:
        return False
    found = here()
    return found is None or found.fallback is not None


def by_itself(root: Path, known: Facts, ruleset: Ruleset) -> Iterator[str]:
    """What is wrong with this router, whatever its peer does."""
    yield from health.problems(root, known["units"])
    if (root / FILE).is_file() and (wrong := ruleset.problem()):
        yield wrong


def with_peer(known: Facts) -> Iterator[str]:
    """What is wrong between it and its peer."""
    if known["pair"]:
        yield from facts.of_pair(known, mixed=True)
        yield from _not_synced(known)


def _not_synced(known: Facts) -> Iterator[str]:
    """Whether each holds what the other has; the versions of the two may differ."""
    if known["expectations"] and not known["expectations"]["peer"]:
        yield "the peer's process for expectations is not heard"
    ours, peer = at(known, "state", "entries"), at(known, "state", "peer")
    if not ours or not peer or at(known, "state", "role") != Role.BACKUP:
        return
    if peer["internal"] is None:
        yield "the peer does not tell how many connections it has"
        return
    balance = Balance()
    balance.look(ours["external"], peer["internal"])
    if balance.looks:
        numbers = f"{ours['external']} of {peer['internal']} connections"
        yield f"the peer's table is not here: {numbers}"


def last_router(root: Path = ROOT) -> bool:
    """Whether this node carries the traffic and its peer is gone: then it must not reboot."""
    try:
        state = statefile.read(root / facts.STATE)
        cards = configuration.parse((root / facts.AGENT).read_text()).cards
    except (OSError, ValueError):
        return False
    if state["role"] != Role.MASTER or state["peer"] is not None or state["dead"]:
        return False
    return bool(set(cards) & _answering())


def _answering() -> set[str]:
    """The cards on which somebody answers: a peer that is gone is not a network that is broken."""
    argv = ["ip", "-json", "neighbour", "show", "nud", "reachable"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return {each["dev"] for each in json.loads(done.stdout or "[]")}


def decide(root: Path = ROOT) -> tuple[Verdict, list[str]]:
    """Look until all is well, or patience ends."""
    trial, ruleset = on_trial(), Ruleset(root / FILE)
    begin = time.monotonic()
    while True:
        known = facts.gather(root)
        own = list(by_itself(root, known, ruleset))
        wrong = own + (list(with_peer(known)) if trial else [])
        if not wrong:
            return Verdict.GOOD, []
        patience = _PATIENCE_S if own else _PAIR_PATIENCE_S
        if time.monotonic() > begin + patience or not (root / facts.NODE).is_file():
            stays = not trial or last_router(root)
            return (Verdict.STAY if stays else Verdict.BACK), wrong
        time.sleep(_POLL_S)  # poll


def note(wrong: list[str], path: Path = LAST) -> None:
    """Keep what became of a trial, for whoever asks the image that comes after it."""
    with suppress(OSError):  # a state that cannot be written is no reason against an image
        _, version = identity.image()
        told: dict[str, Any] = {"version": version, "good": not wrong, "problems": wrong}
        statefile.write(path, told | {"wall": time.time()})


def settle() -> None:
    """Have the loader take this image from now on, if it is the older one: else it would not."""
    found = here()
    if found is None or found.running is None:
        return
    if found.fallback and older(found.running.version, found.fallback.version):
        images.prefer(found.running.blessed)
        return
    with suppress(RefusedError):  # it is the newest anyway
        images.prefer(None)


def main() -> int:
    """Decide, and say so on the console."""
    trial = on_trial()
    if trial:
        busy.tell(busy.TRIAL, BUSY)
    try:
        verdict, wrong = decide()
        if trial and verdict is Verdict.GOOD:
            settle()
    except Exception as error:  # a bug is a reason to go back, and none to loop
        verdict, wrong = (Verdict.BACK if trial else Verdict.STAY), [f"{error!r}"]
    if trial:
        note(wrong)
    for each in wrong:
        print(f"appliance: not healthy: {each}")
    if verdict is Verdict.GOOD:
        busy.tell("", BUSY)
        print(f"appliance: healthy, {health.identity()}")
    return verdict


if __name__ == "__main__":
    sys.exit(main())
