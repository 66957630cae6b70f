"""The site's `expect` lines, each proven by a packet and by what the captures saw of it.

Accept: the destination answered, and the packet was seen on the way to it. Drop: the packet entered
the source's network, and neither left towards the destination nor was answered. The destination of
what a virtual service takes is any of its real servers.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.lab import daemons
from appliance.lab.control import Program
from appliance.lab.errors import HarnessError, LabAssertion
from appliance.lab.frames import Packet, dissect
from appliance.lab.pair import Lab
from appliance.lab.pcap import read
from appliance.lab.topology import own_addresses
from appliance.plan.model import Address, DestinationNat, Expectation, Plan, Protocol, Verdict
from appliance.plan.virtual import Forward, VirtualService

SILENT_AFTER = 2.0  # seconds without an answer that count as dropped
ANY_PORT = 9  # for a claim about every port: discard, which nothing here serves otherwise
NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMP: 1, Protocol.ICMPV6: 58}


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a packet ends up: on which host of the lab, by one of its addresses, and to which
    address and port it is by then.
    """

    host: Address
    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen of one claim."""

    claim: Expectation
    answer: str
    entered: bool
    left: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """It was let through and answered."""
        return self.answer == "answered"

    @property
    def holds(self) -> bool:
        """The site's claim is true."""
        if self.claim.verdict is Verdict.ACCEPT:
            return self.entered and self.accepted
        return self.entered and not self.accepted and not self.left

    def __str__(self) -> str:
        claim = self.claim
        seen = f"{'entered' if self.entered else 'never seen'}, left on {list(self.left)}"
        service = claim.service.protocol
        ports = "".join(f"/{r.first}" for r in claim.service.ports[:1])
        return (
            f"line {claim.origin.line}: {claim.source} to {claim.destination} {service}{ports}: "
            f"expected {claim.verdict}, {self.answer} ({seen})"
        )


def prove(lab: Lab, claim: Expectation) -> Proof:
    """Send the packet of one claim and tell what came of it."""
    port = claim.service.ports[0].first if claim.service.ports else ANY_PORT
    token = secrets.token_hex(8)
    begin = lab.cables.marks()
    listeners = [_listen(lab, claim, each) for each in land(lab.plan, claim, port)]
    try:
        answer, source_port = _send(lab, claim, port, token)
    finally:
        for listener in filter(None, listeners):
            listener.close_input()
    lab.cables.marks()  # all that was seen is in the captures now
    mark = _Mark(claim, source_port, port, token)
    entered = mark.first(lab.capture(claim.from_), begin[claim.from_])
    away = [n for n in lab.plan.networks if n != claim.from_]
    left = tuple(n for n in away if entered and mark.left(lab.capture(n), begin[n], entered))
    return Proof(claim, answer, entered is not None, left)


def prove_all(lab: Lab) -> list[Proof]:
    """Prove every claim of the site; LabAssertion names all that do not hold."""
    proofs = [prove(lab, claim) for claim in lab.plan.expectations]
    false = [str(proof) for proof in proofs if not proof.holds]
    if false:
        raise LabAssertion("claims of the site that do not hold:\n" + "\n".join(false))
    return proofs


def land(plan: Plan, claim: Expectation, port: int) -> tuple[Landing, ...]:
    """What can become of a packet: a virtual service leads it to any of its servers, else the
    site's destination NAT to one place, where the first match wins.
    """
    for service in plan.virtual_services:
        if _serves(service, claim, port):
            return tuple(_landings(service, claim.destination, port))
    for nat in plan.destination_nat:
        if _translates(nat, claim, port):
            return (Landing(nat.address, nat.address, nat.port or port),)
    return (Landing(claim.destination, claim.destination, port),)


def _serves(service: VirtualService, claim: Expectation, port: int) -> bool:
    ranges = service.ranges(claim.service.protocol)
    return claim.destination in service.addresses and any(r.first <= port <= r.last for r in ranges)


def _landings(service: VirtualService, virtual: Address, port: int) -> Iterator[Landing]:
    """With direct routing and tunnels packets come to the virtual address still."""
    translated = service.forward is Forward.NAT
    for server in (*(each.addresses for each in service.servers), service.sorry):
        for own in server:
            if own.version == virtual.version:
                yield Landing(own, own if translated else virtual, port)


def _translates(nat: DestinationNat, claim: Expectation, port: int) -> bool:
    services_match = not nat.services or any(
        each.protocol is claim.service.protocol
        and (not each.ports or any(r.first <= port <= r.last for r in each.ports))
        for each in nat.services
    )
    return (
        nat.from_ in (None, claim.from_)
        and (nat.source is None or claim.source in nat.source)
        and (nat.destination is None or claim.destination in nat.destination)
        and services_match
    )


def _listen(lab: Lab, claim: Expectation, landing: Landing) -> Program | None:
    """Have the destination answer, where it is a host of the lab and the protocol needs it."""
    if landing.host in own_addresses(lab.plan) or "icmp" in claim.service.protocol:
        return None
    words = ["listen", claim.service.protocol, str(landing.address), str(landing.port)]
    host = lab.host(landing.host)
    program = host.spawn(daemons.program("probe", *words))
    if program.line(SILENT_AFTER * 10) != "ready":
        raise HarnessError(f"{host.name}: no listener on {landing.address} port {landing.port}")
    return program


def _send(lab: Lab, claim: Expectation, port: int, token: str) -> tuple[str, int]:
    words = [str(claim.source), str(claim.destination), str(port), token, f"{SILENT_AFTER:g}"]
    protocol = claim.service.protocol
    sender = daemons.program("probe", "send", protocol, *words)
    said = json.loads(lab.host(claim.source).succeed(sender))
    return said["answer"], said["port"]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Knows the packet of a claim again, also after NAT: by TCP sequence number or by its token."""

    claim: Expectation
    source_port: int
    port: int
    token: str

    def first(self, capture: Path, since: int) -> Packet | None:
        """The packet as it entered."""
        return next((p for p in self._packets(capture, since) if self._sent(p)), None)

    def left(self, capture: Path, since: int, entered: Packet) -> bool:
        """Whether the packet was seen on another network."""
        return any(self._same(p, entered) for p in self._packets(capture, since))

    def _packets(self, capture: Path, since: int) -> Iterator[Packet]:
        number = NUMBERS[self.claim.service.protocol]
        packets = (dissect(record.frame) for record in read(capture, since))
        return (packet for packet in packets if packet.protocol == number)

    def _sent(self, packet: Packet) -> bool:
        ends = (self.claim.source, self.claim.destination)
        if (packet.source, packet.destination) != ends:
            return False
        if packet.sequence is None:
            return self.token.encode() in packet.payload
        return (packet.source_port, packet.destination_port) == (self.source_port, self.port)

    def _same(self, packet: Packet, entered: Packet) -> bool:
        if entered.sequence is None:
            return self.token.encode() in packet.payload
        syn_only = packet.flags & 0x12 == 0x02
        return packet.sequence == entered.sequence and syn_only
