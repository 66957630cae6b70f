"""Kernel settings, each with its reason, and the modules that must be there before them.

Keys and values are those of the kernel's ip-sysctl.rst and nf_conntrack-sysctl.rst. A star is
systemd-sysctl's: each interface, as it appears (sysctl.d(5)).
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.node import ctnetlink
from appliance.plan.model import Plan
from appliance.plan.virtual import Forward, Scheduler
from appliance.render import helpers

# The largest number of connections; 320 bytes each, when they are there. With so many a takeover
# takes seconds already: see "How large a table may be" in docs/state-agent.md before raising it.
CONNECTIONS = 262_144


@dataclass(frozen=True, slots=True)
class _Setting:
    key: str
    value: str | int
    reason: str

    def __str__(self) -> str:
        return f"# {self.reason}\n{self.key} = {self.value}\n"


_SETTINGS = (
    _Setting("net.ipv4.ip_forward", 1, "It is a router."),
    _Setting("net.ipv6.conf.all.forwarding", 1, "It is a router."),
    _Setting(
        "net.ipv4.conf.*.rp_filter",
        0,
        "The ruleset's own check is strict, is counted, and holds for IPv6 as well.",
    ),
    _Setting("net.ipv4.conf.all.rp_filter", 0, "systemd leaves this one out of the star."),
    _Setting("net.ipv4.conf.*.accept_redirects", 0, "Routes come from the site file only."),
    _Setting("net.ipv6.conf.*.accept_redirects", 0, "Routes come from the site file only."),
    _Setting("net.ipv6.conf.*.accept_ra", 0, "Routes come from the site file only."),
    _Setting("net.ipv4.conf.*.send_redirects", 0, "Who is sent past a firewall is not filtered."),
    _Setting("net.ipv4.conf.*.accept_source_route", 0, "Nobody else chooses the way."),
    _Setting("net.ipv4.conf.all.accept_source_route", 0, "systemd leaves this one out as well."),
    _Setting("net.ipv4.conf.*.arp_ignore", 1, "An address is answered for on its network only."),
    _Setting("net.ipv4.conf.*.arp_announce", 2, "ARP asks from an address of that network."),
    _Setting("net.ipv4.ip_nonlocal_bind", 1, "A daemon may listen before its link is there."),
    _Setting("net.ipv6.ip_nonlocal_bind", 1, "A daemon may listen before its link is there."),
    _Setting("net.netfilter.nf_conntrack_max", CONNECTIONS, "Room for connections."),
    _Setting("net.netfilter.nf_conntrack_buckets", CONNECTIONS, "Short chains: one each."),
    _Setting(
        "net.netfilter.nf_conntrack_tcp_loose",
        0,
        "No connection is taken up in its middle: one that is not known yet waits for its state.",
    ),
    _Setting(
        "net.netfilter.nf_conntrack_tcp_be_liberal",
        1,
        "TCP windows are not synchronised: without them a connection taken over looks invalid.",
    ),
    _Setting(
        "net.netfilter.nf_conntrack_tcp_timeout_established",
        ctnetlink.ESTABLISHED_S,
        "What a connection gets anew at a takeover.",
    ),
    _Setting(
        "net.netfilter.nf_conntrack_udp_timeout_stream",
        ctnetlink.STREAM_S,
        "What a connection gets anew at a takeover.",
    ),
    _Setting(
        "net.ipv4.tcp_retries2",
        8,
        "The node's own TCP, IPv6 as well: the other end is dead after 100 s instead of 15 min.",
    ),
    _Setting("kernel.printk", "4 4 1 7", "Logged packets must not wait for a serial console."),
)


# How often, in seconds, the peer is told of a connection that has packets.
SYNC_PERIOD_S = 10

# IPVS's, from the kernel's ipvs-sysctl.rst; what is not named here keeps its default.
_BALANCING = (
    _Setting(
        "net.ipv4.vs.conntrack",
        1,
        "Balanced connections are tracked: without it their answers fit none and are dropped.",
    ),
    _Setting(
        "net.ipv4.vs.expire_nodest_conn",
        1,
        "A client of a removed server starts anew with another, instead of into the void.",
    ),
    _Setting(
        "net.ipv4.vs.expire_quiescent_template",
        1,
        "Nor does persistence hold a client to a server of weight 0.",
    ),
    _Setting(
        "net.ipv4.vs.sync_threshold",
        "0 0",
        "The peer is told by time, not by packets: at every 50th an idle session would be forgotten"
        " first, and one with two packets was never told of.",
    ),
    _Setting("net.ipv4.vs.sync_refresh_period", SYNC_PERIOD_S, "So many seconds apart."),
    _Setting("net.ipv4.vs.sync_retries", 1, "Once more: a message that is lost is not missed."),
)
_ONE_WAY = _Setting(
    "net.ipv4.vs.sloppy_tcp",
    1,
    "Without conntrack's help (direct, tunnel) a connection that was not synchronised is taken up"
    " in its middle: mh finds its server again.",
)


def render(plan: Plan) -> str:
    """The text of etc/sysctl.d/90-appliance.conf."""
    services = plan.virtual_services
    one_way = any(service.forward is not Forward.NAT for service in services)
    more = [*(_BALANCING if services else []), *([_ONE_WAY] if one_way else [])]
    return "\n".join(str(each) for each in (*_SETTINGS, *more))


def modules(plan: Plan) -> str:
    """The text of etc/modules-load.d/appliance.conf, read before the settings are made."""
    used = helpers.names(plan)
    nat = used if plan.source_nat or plan.destination_nat else ()
    names = [
        *(["8021q"] if len(plan.cards()) < len(plan.networks) else []),
        "nf_conntrack",
        *(f"nf_conntrack_{each}" for each in used),
        *(f"nf_nat_{each}" for each in nat),
    ]
    return "\n".join([*names, *_balancing_modules(plan)]) + "\n"


def _balancing_modules(plan: Plan) -> list[str]:
    """IPVS's settings are there only with the module. Every scheduler is loaded, in case the site
    changes: while IPVS loads one by itself it answers nobody, and VRRP would wait for it.
    """
    return ["ip_vs", *(f"ip_vs_{each}" for each in Scheduler)] if plan.virtual_services else []
