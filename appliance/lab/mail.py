"""Mail through the pair, and whether each accepted message arrived exactly once.

with mail.sending(lab.hosts["front"], virtual) as sending:
    lab.active().kill()
    sending.moves(20)
    mail.wait_delivered(lab.hosts.values(), sending.stop())
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from appliance.lab import daemons
from appliance.lab.control import BETWEEN_LOOKS, Program, Shell
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.places import MAIL
from appliance.plan.model import Address

ANSWER_WITHIN = 180.0  # seconds: more than a message takes that has lost its server


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


class Sending:
    """Mail under way. Leaving its `with` block ends it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._last: Sent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.__exit__()

    def peek(self) -> Sent:
        """What has been sent until now; it goes on."""
        return self._ask("peek")

    def moves(self, count: int, timeout: float = 120) -> None:
        """Wait until so many more were accepted; LabAssertion after `timeout` seconds."""
        goal, end = len(self.peek().accepted) + count, time.monotonic() + timeout
        pause = threading.Event()
        while (now := len(self.peek().accepted)) < goal:
            if time.monotonic() > end:
                raise LabAssertion(f"{goal - now} of {count} messages not sent in {timeout:g} s")
            pause.wait(BETWEEN_LOOKS)

    def stop(self) -> Sent:
        """End it after the messages that are on their way, and say what became of all."""
        self._last = self._last or self._ask("stop")
        return self._last

    def _ask(self, word: str) -> Sent:
        self._program.write(word.encode() + b"\n")
        line = self._program.line(ANSWER_WITHIN)
        if line is None:
            raise HarnessError("the program that sends mail ended without a report")
        fates: dict[str, str | None] = json.loads(line)
        accepted = tuple(each for each, why in fates.items() if why is None)
        return Sent(accepted, {each: why for each, why in fates.items() if why is not None})


def sending(
    client: Shell,
    to: Address,
    *,
    sources: Sequence[Address | None] = (None,),
    port: int = 25,
    seconds: float = 20.0,
) -> Sending:
    """Send one message after another from each source at once, each by a connection of its own.

    An answer may take `seconds`.
    """
    job = {
        "to": str(to),
        "port": port,
        "sources": [str(source) if source else None for source in sources],
        "seconds": seconds,
    }
    return Sending(client.spawn(daemons.program("mailing", json.dumps(job))))


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
