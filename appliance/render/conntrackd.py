"""conntrackd's configuration: reliable state exchange (FTFW) with the peer, over the sync network.

Sources: conntrackd.conf(5) of conntrack-tools 1.4.8, and what was measured in `docs/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.node.config import CONNTRACKD_PORT, Config
from appliance.node.flows import SYNCED
from appliance.plan.model import Address, Pair, Plan
from appliance.render import addresses, blocks, sysctl
from appliance.render.blocks import Block

LOCK = "/run/conntrackd/lock"

# Its default is real-time priority 99, above keepalived: then a large table starves the adverts.
REALTIME_PRIORITY = 20

SOCKET_BUFFER = 8 * 2**20  # bytes; the kernel's default of 200 KiB overruns in a burst
LARGEST_BUFFER = 64 * 2**20


def render(plan: Plan, node: str, pair: Pair, agent: Config) -> str:
    """The text of etc/conntrackd/conntrackd.conf."""
    links = addresses.sync_links(plan, node, pair)
    return blocks.text([_sync(links, agent), _general(plan, agent)])


def _sync(links: Sequence[addresses.Neighbours], agent: Config) -> Block:
    """Without `StartupResync` a rebooted node stays empty. The external cache is on, by default:
    without it related connections are lost. Expectations are not its business: it would commit them
    without their NAT (nfexp_nlmsg_build in libnetfilter_conntrack), in the way of the whole ones
    that `appliance.node.expectations` hands over.
    """
    mode = Block("Mode FTFW", (f"PurgeTimeout {agent.forget_s:.0f}", "StartupResync yes"))
    # Windows that were synchronised late would cost a connection.
    options = Block("Options", ("TCPWindowTracking no", "ExpectationSync no"))
    kinds = ["UDP Default", *["UDP"] * (len(links) - 1)] if len(links) > 1 else ["UDP"]
    channels = (_udp(*each) for each in zip(kinds, links, strict=True))
    return Block("Sync", (mode, *channels, options))


def _udp(kind: str, ends: addresses.Neighbours) -> Block:
    """A channel; when its interface goes down, the next one is used."""
    ip = f"IPv{ends.own.version}"
    return Block(
        kind,
        (
            f"{ip}_address {ends.own}",
            f"{ip}_Destination_Address {ends.peer}",
            f"Port {CONNTRACKD_PORT}",
            f"Interface {ends.interface}",
            f"SndSocketBuffer {SOCKET_BUFFER}",
            f"RcvSocketBuffer {SOCKET_BUFFER}",
            "Checksum yes",
        ),
    )


def _general(plan: Plan, agent: Config) -> Block:
    return Block(
        "General",
        (
            "Systemd yes",
            "Syslog yes",
            "LogFile no",
            f"LockFile {LOCK}",
            Block("UNIX", (f"Path {agent.control}",)),
            f"HashSize {sysctl.CONNECTIONS // 4}",
            # Dead entries stay for a while, for a peer that asks for them again.
            f"HashLimit {sysctl.CONNECTIONS * 2}",
            f"NetlinkBufferSize {SOCKET_BUFFER}",
            f"NetlinkBufferSizeMaxGrowth {LARGEST_BUFFER}",
            "NetlinkOverrunResync yes",
            "NetlinkEventsReliable no",
            Block("Scheduler", ("Type RR", f"Priority {REALTIME_PRIORITY}")),
            _filter(plan),
        ),
    )


def _filter(plan: Plan) -> Block:
    """What ends on a node is of no use to its peer. Virtual addresses are not named: behind source
    NAT they are one end of every connection.
    """
    ignored = ["IPv4_address 127.0.0.1", "IPv6_address ::1", *map(_address, addresses.real(plan))]
    return Block(
        "Filter From Kernelspace",
        (
            Block("Protocol Accept", tuple(name.upper() for name in SYNCED.values())),
            Block("Address Ignore", tuple(ignored)),
        ),
    )


def _address(address: Address) -> str:
    return f"IPv{address.version}_address {address}"
