"""IPVS's connections: as the kernel lists them in /proc/net/ip_vs_conn (ip_vs_conn_seq_show in
ip_vs_conn.c), and as its sync messages carry them (struct ip_vs_sync_v4 and _v6 in ip_vs_sync.c).
No sockets here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntFlag

from appliance.node.balancing import Balancing
from appliance.node.ipvs import Table

# Its states by their names and numbers (tcp_state_name_table, IP_VS_TCP_S_*), as far as the kernel
# itself tells a peer of them (ip_vs_sync_conn_needed): not those before the handshake is done.
_TCP_STATES = {
    b"ESTABLISHED": 1,
    b"FIN_WAIT": 4,
    b"TIME_WAIT": 5,
    b"CLOSE": 6,
    b"CLOSE_WAIT": 7,
}
_ESTABLISHED = 1
_UDP_STATES = {b"UDP": 0}  # IP_VS_UDP_S_NORMAL
_TEMPLATE_STATES = {b"NONE": 0, b"ASSURED": 1}  # IP_VS_CTPL_S_*

_TEMPLATE = 0  # IPPROTO_IP: what a template of a mark has for a protocol
_PROTOCOLS = {b"TCP": ("tcp", 6), b"UDP": ("udp", 17)}


class Flag(IntFlag):
    """IP_VS_CONN_F_*, as far as a peer takes them (IP_VS_CONN_F_BACKUP_MASK)."""

    NO_OUTPUT = 0x0080  # the answers do not come by here
    INACTIVE = 0x0100
    TEMPLATE = 0x1000


_MASQUERADE = 0  # IP_VS_CONN_F_MASQ: forwarding by NAT


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection, or a template; addresses and ports in network order, `expires` in seconds."""

    protocol: int
    client: bytes
    virtual: bytes
    server: bytes
    ports: bytes  # of all three, one after another
    state: int
    expires: int
    mark: int
    flags: int

    @property
    def is_template(self) -> bool:
        """Whether it holds a client to a server, and is no connection."""
        return bool(self.flags & Flag.TEMPLATE)


# A claim's ports, by address and protocol: first, last, mark.
_Claims = dict[tuple[bytes, str], list[tuple[int, int, int]]]
Read = Callable[[bytes], Connection | None]


def reader(balancing: Balancing, table: Table) -> Read:
    """Reads a line of the list; None for what a peer is not told of.

    The kernel does not show the mark of a connection: it follows from what the client spoke to. Nor
    how it forwards: that is the server's.
    """
    claims: _Claims = {}
    for each in balancing.claims:
        key = each.address.packed, each.protocol
        claims.setdefault(key, []).append((each.first, each.last, each.mark))
    forward = {
        (s.mark, each.address.packed): each.forward for s in table.services for each in s.servers
    }
    persistence = {(s.version, s.mark): s.persistence for s in table.services}

    def read(line: bytes) -> Connection | None:
        words = line.split()
        if len(words) < _WORDS:
            return None
        if words[0] == b"IP":
            return _template(words, persistence, forward)
        return _connection(words, claims, forward)

    return read


_WORDS = 9  # protocol, three times address and port, state, expiry; more with a persistence engine
_Forward = dict[tuple[int, bytes], int]


def _connection(words: list[bytes], claims: _Claims, forward: _Forward) -> Connection | None:
    if words[0] not in _PROTOCOLS:
        return None
    name, number = _PROTOCOLS[words[0]]
    state = (_TCP_STATES if name == "tcp" else _UDP_STATES).get(words[7])
    virtual, server, port = _packed(words[3]), _packed(words[5]), int(words[4], 16)
    ranges = claims.get((virtual, name), ())
    mark = next((mark for first, last, mark in ranges if first <= port <= last), None)
    if state is None or mark is None:
        return None
    # UDP never becomes active; of TCP only what is established (tcp_state_active_table).
    idle = 0 if number == 6 and state == _ESTABLISHED else Flag.INACTIVE
    flags = idle | _way(forward.get((mark, server), _MASQUERADE))
    expires = max(1, int(words[8]))  # 0 would be the whole time of the state
    ports = _ports(words)
    return Connection(
        number, _packed(words[1]), virtual, server, ports, state, expires, mark, flags
    )


def _template(
    words: list[bytes], persistence: dict[tuple[int, int], int | None], forward: _Forward
) -> Connection | None:
    """Its virtual address is the mark (ip_vs_sched_persist). The kernel keeps the time that it is
    told as that of each renewal: so it is the whole, and not what is left.
    """
    virtual, server = _packed(words[3]), _packed(words[5])
    mark = int.from_bytes(virtual[:4])
    whole = persistence.get((4 if len(virtual) == 4 else 6, mark))
    state = _TEMPLATE_STATES.get(words[7])
    if whole is None or state is None:
        return None
    flags = Flag.TEMPLATE | _way(forward.get((mark, server), _MASQUERADE))
    client, ports = _packed(words[1]), _ports(words)
    return Connection(_TEMPLATE, client, virtual, server, ports, state, whole, mark, flags)


def _way(forward: int) -> int:
    return forward if forward == _MASQUERADE else forward | Flag.NO_OUTPUT


def _packed(word: bytes) -> bytes:
    """Eight hexadecimal digits, or the long form of an IPv6 address."""
    return bytes.fromhex(word.decode().replace(":", ""))


def _ports(words: list[bytes]) -> bytes:
    return bytes.fromhex((words[2] + words[4] + words[6]).decode())


# Sync messages, protocol version 1

_MESSAGE = struct.Struct("!BBHBbH")  # struct ip_vs_sync_mesg: 0, id, size, count, version, 0
_ENTRY = struct.Struct("!BBHIH6sII")  # up to the addresses; ver_size has version 0
_INET6 = 1  # STYPE_F_INET6
_PROTOCOL_VERSION = 1
_MOST = 255  # entries in a message, counted in a byte

# What a sync daemon takes: by default 1500 less the headers of IPv6 and UDP (start_sync_thread).
LARGEST = 1452


def entry(connection: Connection) -> bytes:
    """One connection; its length is a multiple of four."""
    addresses = connection.client + connection.virtual + connection.server
    return (
        _ENTRY.pack(
            _INET6 if len(connection.client) == 16 else 0,
            connection.protocol,
            _ENTRY.size + len(addresses),
            connection.flags,
            connection.state,
            connection.ports,
            connection.mark,
            connection.expires,
        )
        + addresses
    )


def messages(connections: Iterable[Connection], sync_id: int) -> Iterator[bytes]:
    """Datagrams with all of them, each as full as it may be."""
    gathered: list[bytes] = []
    size = _MESSAGE.size
    for each in map(entry, connections):
        if size + len(each) > LARGEST or len(gathered) == _MOST:
            yield _message(gathered, size, sync_id)
            gathered, size = [], _MESSAGE.size
        gathered.append(each)
        size += len(each)
    if gathered:
        yield _message(gathered, size, sync_id)


def _message(gathered: list[bytes], size: int, sync_id: int) -> bytes:
    head = _MESSAGE.pack(0, sync_id, size, len(gathered), _PROTOCOL_VERSION, 0)
    return head + b"".join(gathered)
