"""Mail through the pair, and whether each accepted message arrived exactly once.

letters = mail.send(lab.hosts["front"], virtual, 20)
mail.wait_delivered(lab.hosts.values(), letters)
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.lab import daemons
from appliance.lab.control import Shell
from appliance.lab.errors import LabAssertion
from appliance.lab.places import MAIL
from appliance.plan.model import Address

BETWEEN_LOOKS = 0.5  # seconds; each look is work for an emulated machine


@dataclass(frozen=True, slots=True)
class Sent:
    """Message ids: those that a server accepted, and the others with what came instead."""

    accepted: tuple[str, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is in the mailboxes of what was accepted: how many on each host, what is missing, and
    what came more than once. `unasked` came although nobody accepted it.
    """

    on: Mapping[str, int]
    missing: tuple[str, ...]
    doubled: tuple[str, ...]
    unasked: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Each accepted message exactly once."""
        return not self.missing and not self.doubled


def send(
    client: Shell,
    to: Address,
    count: int = 1,
    *,
    sources: Sequence[Address | None] = (None,),
    port: int = 25,
    interval: float = 0.0,
    seconds: float = 20.0,
) -> Sent:
    """Send so many messages, each by a connection of its own, from the sources in turn.

    `interval` seconds apart; an answer may take `seconds`.
    """
    job = {
        "to": str(to),
        "port": port,
        "sources": [str(source) if source else None for source in sources],
        "ids": [f"{secrets.token_hex(8)}@lab.example" for _ in range(count)],
        "seconds": seconds,
        "interval": interval,
    }
    limit = 60 + count * (interval + seconds)
    told = client.succeed(daemons.program("mailing", json.dumps(job)), timeout=limit)
    fates: dict[str, str | None] = dict(json.loads(told))
    accepted = tuple(each for each, why in fates.items() if why is None)
    return Sent(accepted, {each: why for each, why in fates.items() if why is not None})


def boxes(hosts: Iterable[Shell]) -> dict[str, Counter[str]]:
    """The message ids in the mailbox of each host, and how often each is there."""
    return {host.name: Counter(_ids(host)) for host in hosts}


def delivery(hosts: Iterable[Shell], *sent: Sent) -> Delivery:
    """What became of what was sent, as the mailboxes are now."""
    found = boxes(hosts)
    every = sum(found.values(), Counter[str]())
    accepted = [each for some in sent for each in some.accepted]
    unsure = [each for some in sent for each in some.refused]
    return Delivery(
        on={name: sum(box[each] for each in accepted) for name, box in found.items()},
        missing=tuple(each for each in accepted if not every[each]),
        doubled=tuple(each for each in accepted if every[each] > 1),
        unasked=tuple(each for each in unsure if every[each]),
    )


def wait_delivered(hosts: Iterable[Shell], *sent: Sent, timeout: float = 60) -> Delivery:
    """Wait until each accepted message is in a mailbox; LabAssertion when one is not within
    `timeout` seconds, or is there twice.
    """
    everywhere, end, pause = tuple(hosts), time.monotonic() + timeout, threading.Event()
    while not (now := delivery(everywhere, *sent)).complete:
        if now.doubled or time.monotonic() > end:
            raise LabAssertion(f"missing: {list(now.missing)}, doubled: {list(now.doubled)}")
        pause.wait(BETWEEN_LOOKS)
    return now


def _ids(host: Shell) -> list[str]:
    """Of a host without a mailbox none."""
    box = f"{MAIL}/{host.name}/new"
    look = f"[ ! -d {box} ] || grep -rhi '^Message-ID:' {box} || true"
    return [line.partition("<")[2].rstrip(">") for line in host.succeed(look).splitlines()]
