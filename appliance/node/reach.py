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
from typing import NamedTuple

from appliance.node.netlink import ATTRIBUTE, HEADER, Address, attributes, connect, dump

FEW = 4  # neighbours asked of each network
DEAF_ROUNDS = 3  # in a row without any answer

_NEW, _GET = 28, 30  # RTM_NEWNEIGH, RTM_GETNEIGH
_CHANGE = 0x1 | 0x100 | 0x400  # NLM_F_REQUEST | NLM_F_REPLACE | NLM_F_CREATE
_MESSAGE = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, card, state, flags, type
_DESTINATION, _CARD_ADDRESS = 1, 2  # NDA_DST, NDA_LLADDR
_REACHABLE, _STALE, _DELAY, _PROBE = 0x02, 0x04, 0x08, 0x10  # NUD_*
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE
_USE = 0x01  # NTF_USE: resolve it as if there were a packet for it


class Neighbour(NamedTuple):
    """What the kernel knows of one: a NUD_* state, and the address of its card (empty: none)."""

    state: int
    card: bytes = b""


Known = Mapping[str, Mapping[Address, Neighbour]]
Questions = Mapping[str, Iterable[Address]]


@dataclass(slots=True)
class Reach:
    """What is known of each card in `cards`. The peer does not count as a neighbour, by whatever
    address: `peers` are those that it is known by.
    """

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
        """Take in the kernel's table of each card's neighbours; whom to ask now.

        `hints` are the neighbours that the peer knows.
        """
        for card in self.cards:
            table = self._others(known.get(card, {}))
            self._judge(card, table)
            self.asked[card] = self._choose(card, table, hints.get(card, ()))
        return self.asked

    def _others(self, table: Mapping[Address, Neighbour]) -> dict[Address, Neighbour]:
        """Without the peer: it has a link-local address as well, and maybe the virtual ones."""
        peers = {table[each].card for each in self.peers if each in table}
        return {a: each for a, each in table.items() if not each.card or each.card not in peers}

    def _judge(self, card: str, table: Mapping[Address, Neighbour]) -> None:
        asked = self.asked.get(card, [])
        answers = [each for each in asked if each in table and table[each].state == _REACHABLE]
        if answers:
            self._deaf[card], self.answered[card] = 0, answers
        elif asked:
            self._deaf[card] = self._deaf.get(card, 0) + 1

    def _choose(
        self, card: str, table: Mapping[Address, Neighbour], hints: Iterable[str]
    ) -> list[Address]:
        """Those that answered last, then what the peer knows, then whoever was heard lately."""
        valid = [address for address, each in table.items() if each.state & _VALID]
        hinted = [ip_address(each) for each in hints]
        ordered = dict.fromkeys([*self.answered.get(card, []), *hinted, *valid])
        return [each for each in ordered if each not in self.peers][:FEW]


def known() -> Known:
    """The kernel's table of neighbours, by the name of the card and their address."""
    table: dict[str, dict[Address, Neighbour]] = {}
    names = dict(socket.if_nameindex())
    with connect(socket.NETLINK_ROUTE) as link:
        for payload in dump(link, _GET, _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, card, state, _, _ = _MESSAGE.unpack_from(payload)
            told = dict(attributes(payload[_MESSAGE.size :]))
            if _DESTINATION in told and card in names:
                neighbour = Neighbour(state, told.get(_CARD_ADDRESS, b""))
                table.setdefault(names[card], {})[ip_address(told[_DESTINATION])] = neighbour
    return table


def ask(whom: Questions, table: Known) -> None:
    """Make the kernel ask them. Whose address is known gets the question itself, others a search
    for it: to ask only where they last were would hold on to a card that was replaced.
    """
    with connect(socket.NETLINK_ROUTE) as link, suppress(OSError):
        for message in _questions(whom, table):
            link.send(message)


def _questions(whom: Questions, table: Known) -> Iterator[bytes]:
    for card, found in whom.items():
        with suppress(OSError):  # the card is gone
            index = socket.if_nametoindex(card)
            for each in found:
                neighbour = table.get(card, {}).get(each)
                yield _question(index, each, bool(neighbour and neighbour.state & _VALID))


def _question(card: int, address: Address, valid: bool) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    state, flags = (_PROBE, 0) if valid else (0, _USE)
    body = _MESSAGE.pack(family, card, state, flags, 0)
    body += ATTRIBUTE.pack(ATTRIBUTE.size + len(address.packed), _DESTINATION) + address.packed
    return HEADER.pack(HEADER.size + len(body), _NEW, _CHANGE, 0, 0) + body
