"""What the agent asks of the machine that it runs on; tests put something else in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.node import checks, guard, ipvs, ipvs_replay, kernel, netlink, reach
from appliance.node.balancing import Balancing, Channel
from appliance.node.config import Address
from appliance.node.ipvs import Sync, start


@dataclass(slots=True)
class World:
    """Clocks in seconds, the kernel's tables, and the end of a service that hangs."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    addresses: Callable[[], frozenset[Address]] = netlink.addresses
    carrier: Callable[[str], bool] = netlink.carrier
    neighbours: Callable[[], reach.Known] = reach.known
    ask_neighbours: Callable[[reach.Questions, reach.Known], None] = reach.ask
    renew: Callable[[Callable[[], bool]], int] = kernel.renew
    kill: Callable[[str], bool] = guard.kill
    ipvs: Callable[[Callable[[], bool]], ipvs.Table] = ipvs.table
    start_sync: Callable[[Channel, Sync], None] = start
    replay: Callable[[Balancing, ipvs_replay.Stop], ipvs_replay.Replayed] = ipvs_replay.replay
    verdicts: Callable[[], checks.Verdicts] = checks.recent
