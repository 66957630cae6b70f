"""Random faults from a seed, and what must hold after each."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from appliance.lab.faults import Daemon, Fault
from appliance.lab.node import Appliance
from appliance.lab.pair import Lab

# What is not drawn, and why.
LEFT_OUT = {
    "ten power losses in a row": "ten faults; the soak has as many",
    "memory eaten up": "takes the kernel minutes, without a figure for how many",
}

EQUAL_WITHIN = 60.0  # seconds after a fault is healed: the agents compare tables each 5 s
UNDER_WAY = 4  # entries that may have come or gone between two looks
GROWTH = 4096  # KiB that a daemon may grow in its lifetime
GROWING = (Daemon.AGENT, Daemon.EXPECTATIONS)
BETWEEN_LOOKS = 0.5  # seconds

# A line for each: its name, its process, and that one's share of memory (proc_pid_smaps(5)).
SIZES = f"""\
for each in {" ".join(GROWING)}; do
  pid=$(systemctl show -P MainPID $each); echo $each $pid $(grep ^Pss: /proc/$pid/smaps_rollup)
done"""

# What makes a connection this one: protocol and both ends of its first direction.
ENDS = re.compile(r"(tcp|udp) .*?(src=\S+ dst=\S+ sport=\d+ dport=\d+)")
CACHE = "conntrackd -C /etc/conntrackd/conntrackd.conf"


def drawable(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Those that may follow one another in any order; the next fault is the proof of each."""
    return tuple(replace(fault, proof=False) for fault in faults if fault.name not in LEFT_OUT)


def sequence(faults: Sequence[Fault], seed: int, count: int) -> tuple[Fault, ...]:
    """The faults of a seed: always the same."""
    return tuple(random.Random(seed).choices(drawable(faults), k=count))


@dataclass(slots=True)
class Growth:
    """The memory of each daemon, from the first look at it to the last; KiB by node and process."""

    first: dict[tuple[str, str, str], int] = field(default_factory=dict)
    largest: int = 0

    def look(self, node: Appliance) -> Iterator[str]:
        """What has grown too much, in words."""
        for line in node.succeed(SIZES).splitlines():
            daemon, pid, _, size, _ = line.split()
            now = int(size)
            grown = now - self.first.setdefault((node.name, daemon, pid), now)
            self.largest = max(self.largest, grown)
            if grown > GROWTH:
                yield f"{node.name}: {daemon} has grown by {grown} KiB to {now} KiB"


def unsound(pair: Lab, growth: Growth) -> list[str]:
    """What does not hold of a pair that is ready, in words; tables have a time to become equal."""
    end, pause = time.monotonic() + EQUAL_WITHIN, threading.Event()
    while (troubles := [*unequal(pair), *alarmed(pair)]) and time.monotonic() < end:
        pause.wait(BETWEEN_LOOKS)
    for node in pair.nodes.values():
        failed = node.succeed("systemctl --failed --plain --no-legend").strip()
        troubles += [f"{node.name}: failed: {failed}"] if failed else []
        troubles += growth.look(node)
    return troubles


def unequal(pair: Lab) -> Iterator[str]:
    """Differences of the standby's table of its peer, the active node's own, and its kernel's."""
    active, standby = pair.active(), pair.standby()
    external = ends(standby.succeed(f"{CACHE} -e"))
    internal = ends(active.succeed(f"{CACHE} -i"))
    kernel = ends(active.succeed("conntrack -L 2>/dev/null"))
    if len(different := external ^ internal) > UNDER_WAY:
        yield f"{len(different)} of {len(internal)} entries differ: {sorted(different)[:5]}"
    if len(missing := internal - kernel) > UNDER_WAY:
        yield f"{len(missing)} entries are not in the kernel's table: {sorted(missing)[:5]}"


def ends(listing: str) -> frozenset[tuple[str, ...]]:
    """The connections of a listing of conntrackd or conntrack."""
    return frozenset(ENDS.findall(listing))


def alarmed(pair: Lab) -> Iterator[str]:
    """Alarms that a node still has."""
    for node in pair.nodes.values():
        state = node.state()
        yield from (f"{node.name}: {text}" for text in (state or {}).get("alarms", {}).values())
