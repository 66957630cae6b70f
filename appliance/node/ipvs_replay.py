"""Tell the peer's IPVS of every connection that is in ours: what the sync daemon does not do for a
peer that was rebooted. It sends what changes, and what has packets; an idle session would be lost.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.node import ipvs
from appliance.node.balancing import Balancing, Channel
from appliance.node.ipvs_connections import Connection, Read, messages, reader

# By way of our own process: the agent's unit hides all of /proc that belongs to none.
LIST = Path("/proc/self/net/ip_vs_conn")
# What one read gives at most: a page (seq_read_iter in the kernel's seq_file.c). Each goes through
# the list from its begin (ip_vs_conn_array), so that the time for all of it grows with the square.
_PAGE = 4096

# Whether to stop, asked after each page: it is given the seconds that the page took.
Stop = Callable[[float], bool]


@dataclass(slots=True)
class Replayed:
    """How many were sent; `whole` is false when it was stopped before the end."""

    connections: int = 0
    templates: int = 0
    whole: bool = False


def replay(balancing: Balancing, stop: Stop, listing: Path = LIST) -> Replayed:
    """Send all that is listed; OSError when the kernel refuses.

    What we say is a page old, milliseconds. What has ended meanwhile, the sync daemon tells after
    us: it gathers for up to 2 s before it sends (IPVS_SYNC_FLUSH_TIME).
    """
    assert balancing.channel, "there is a peer"
    done = Replayed()
    read = reader(balancing, ipvs.table())
    with connected(balancing.channel) as link, listing.open("rb", buffering=0) as source:
        for each in messages(_counted(source, read, stop, done), balancing.channel.sync_id):
            link.send(each)
    return done


def _counted(source: BinaryIO, read: Read, stop: Stop, done: Replayed) -> Iterator[Connection]:
    for each in _listed(source, read, stop, done):
        done.templates += each.is_template
        done.connections += not each.is_template
        yield each


def _listed(source: BinaryIO, read: Read, stop: Stop, done: Replayed) -> Iterator[Connection]:
    """Page by page, until the end or `stop`."""
    rest, begin = b"", time.monotonic()
    while piece := source.read(_PAGE):
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, map(read, lines))
        if stop(time.monotonic() - begin):
            return
        begin = time.monotonic()
    done.whole = True


def connected(channel: Channel) -> socket.socket:
    """A socket that sends as the kernel's sync daemon does (make_send_sock): by this card, not
    further than its link, and not to ourselves.
    """
    index = socket.if_nametoindex(channel.interface)
    six = channel.group.version == 6
    end = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    if six:
        end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    else:
        card = struct.pack("=8xi", index)  # struct ip_mreqn: group, address, index
        end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, card)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    # The peer's firewall takes it from this address, and ip_nonlocal_bind lets us be early.
    end.bind((str(channel.own), 0))
    end.connect((str(channel.group), channel.port))
    return end
