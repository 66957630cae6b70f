"""Whether this node reaches its neighbours: a cable may swallow frames while its carrier stays up.

Once a second the kernel is made to ask a few neighbours of each traffic network whether they are
still there, by ARP or neighbour discovery (rtnetlink(7), linux/neighbour.h). A network where none
of them answers is dead for this node, and maybe not for its peer: see `appliance.node.arbiter`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from appliance.node.netlink import ATTRIBUTE, HEADER, Address, attributes, connect, dump

EVERY_S = 1.0
FEW = 4  # neighbours asked of each network
DEAF_ROUNDS = 3  # in a row without any answer

_NEW, _GET = 28, 30  # RTM_NEWNEIGH, RTM_GETNEIGH
_CHANGE = 0x1 | 0x100 | 0x400  # NLM_F_REQUEST | NLM_F_REPLACE | NLM_F_CREATE
_MESSAGE = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, card, state, flags, type
_DESTINATION = 1  # NDA_DST
_REACHABLE, _STALE, _DELAY, _PROBE = 0x02, 0x04, 0x08, 0x10  # NUD_*
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE
_USE = 0x01  # NTF_USE: resolve it as if there were a packet for it

Known = Mapping[str, Mapping[Address, int]]
Questions = Mapping[str, Iterable[Address]]


@dataclass(slots=True)
class Reach:
    """What is known of each card in `cards`; the peer's addresses do not count as neighbours."""

    cards: tuple[str, ...]
    peers: frozenset[Address]
    asked: dict[str, list[Address]] = field(default_factory=dict)
    answered: dict[str, list[Address]] = field(default_factory=dict)
    _deaf: dict[str, int] = field(default_factory=dict)

    @property
    def dead(self) -> tuple[str, ...]:
        """The cards on which nobody answers any more."""
        return tuple(card for card in self.cards if self._deaf.get(card, 0) >= DEAF_ROUNDS)

    def told(self) -> dict[str, list[str]]:
        """Neighbours that answered, for the peer to ask as well."""
        return {card: [str(each) for each in found] for card, found in self.answered.items()}

    def round(self, known: Known, hints: Mapping[str, Iterable[str]]) -> dict[str, list[Address]]:
        """Take in the kernel's table, the states of each card's neighbours; whom to ask now.

        `hints` are the neighbours that the peer knows.
        """
        for card in self.cards:
            states = known.get(card, {})
            self._judge(card, states)
            self.asked[card] = self._choose(card, states, hints.get(card, ()))
        return self.asked

    def _judge(self, card: str, states: Mapping[Address, int]) -> None:
        asked = self.asked.get(card, [])
        answers = [each for each in asked if states.get(each, 0) == _REACHABLE]
        if answers:
            self._deaf[card], self.answered[card] = 0, answers
        elif asked:
            self._deaf[card] = self._deaf.get(card, 0) + 1

    def _choose(
        self, card: str, states: Mapping[Address, int], hints: Iterable[str]
    ) -> list[Address]:
        """Those that answered last, then what the peer knows, then whoever was heard lately."""
        valid = [each for each, state in states.items() if state & _VALID]
        hinted = [ip_address(each) for each in hints]
        ordered = dict.fromkeys([*self.answered.get(card, []), *hinted, *valid])
        return [each for each in ordered if each not in self.peers][:FEW]


def known() -> Known:
    """The kernel's table of neighbours: by card and address its state, a NUD_* value."""
    table: dict[str, dict[Address, int]] = {}
    names = dict(socket.if_nameindex())
    with connect(socket.NETLINK_ROUTE) as link:
        for payload in dump(link, _GET, _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, card, state, _, _ = _MESSAGE.unpack_from(payload)
            address = dict(attributes(payload[_MESSAGE.size :])).get(_DESTINATION)
            if address and card in names:
                table.setdefault(names[card], {})[ip_address(address)] = state
    return table


def ask(whom: Questions, states: Known) -> None:
    """Make the kernel ask them. Whose address is known gets the question itself, others a search
    for it: to ask only where they last were would hold on to a card that was replaced.
    """
    with connect(socket.NETLINK_ROUTE) as link, suppress(OSError):
        for message in _questions(whom, states):
            link.send(message)


def _questions(whom: Questions, states: Known) -> Iterator[bytes]:
    for card, found in whom.items():
        with suppress(OSError):  # the card is gone
            index = socket.if_nametoindex(card)
            for each in found:
                valid = states.get(card, {}).get(each, 0) & _VALID
                yield _question(index, each, bool(valid))


def _question(card: int, address: Address, valid: bool) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    state, flags = (_PROBE, 0) if valid else (0, _USE)
    body = _MESSAGE.pack(family, card, state, flags, 0)
    body += ATTRIBUTE.pack(ATTRIBUTE.size + len(address.packed), _DESTINATION) + address.packed
    return HEADER.pack(HEADER.size + len(body), _NEW, _CHANGE, 0, 0) + body
