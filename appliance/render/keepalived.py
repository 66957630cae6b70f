"""keepalived's configuration: VRRPv3, unicast, all virtual routers in one sync group.

Sources: keepalived.conf(5) of keepalived 2.3, RFC 9568, and what was measured in `docs/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from appliance.node.config import Config
from appliance.plan.model import Interface, Pair, Plan, VirtualRouter
from appliance.render import addresses, blocks, ipvs
from appliance.render.blocks import Block

# Above conntrackd (20), so that adverts go out while it commits a large table.
REALTIME_PRIORITY = 60

# The kernel kills a real-time process that does not sleep for so long (microseconds). keepalived's
# own default kills it exactly when it becomes the active one; and at each reload it lowers a limit
# that it has set to 0, and dies if the clock ticks before it has set it anew. So it asks for more
# than it may have, which is refused, as it logs at each start and reload ("cannot set realtime
# rlimit"): its unit's limit (LimitRTTIME=) holds, and is left alone.
REFUSED_LIMIT_US = 60_000_000

# A link that has just come up may not pass frames yet: who listens only for three adverts then
# takes the silence for a dead peer.
STARTUP_S = 2

# An advert counts its addresses in one byte, and must fit one packet of 1500 bytes. What is more
# moves with the role all the same, unadvertised.
ADVERTISED = {4: 255, 6: 89}


def render(plan: Plan, node: str, pair: Pair, agent: Config) -> str:
    """The text of etc/keepalived/keepalived.conf."""
    routers = [_instance(plan, node, pair, router) for router in pair.routers]
    tracked = [_tracked(*each) for each in _files(agent).items()]
    both = [_global(plan, node, pair, agent), *tracked, _group(pair, agent), *routers]
    return blocks.text([*both, *ipvs.virtual_servers(plan)])


def render_alone(plan: Plan, node: str) -> str:
    """The same for a site of one node, where keepalived has nothing to do but to balance."""
    lines = (f"router_id {node}", "enable_script_security", *ipvs.global_lines(plan))
    return blocks.text([Block("global_defs", lines), *ipvs.virtual_servers(plan)])


def _global(plan: Plan, node: str, pair: Pair, agent: Config) -> Block:
    return Block(
        "global_defs",
        (
            f"router_id {node}",
            "vrrp_version 3",
            "enable_script_security",
            *ipvs.global_lines(plan),
            f"notify_fifo {agent.fifo} root",
            f"vrrp_rt_priority {REALTIME_PRIORITY}",
            f"vrrp_rlimit_rttime {REFUSED_LIMIT_US}",
            "vrrp_no_swap",
            f"vrrp_startup_delay {STARTUP_S}",
            "vrrp_check_unicast_src",
            # Again after 1 s, for a switch that was still learning, and then now and then.
            "vrrp_garp_master_delay 1",
            "vrrp_garp_master_refresh 10",
        ),
    )


def _files(agent: Config) -> Mapping[str, Path]:
    """Files that take this node out of the running: a person's wish, and the agent's own."""
    return {"handover": agent.handover, "yields": agent.yields}


def _tracked(name: str, file: Path) -> Block:
    """While the file does not hold 0, this node is as good as broken."""
    return Block(f"track_file {name}", (f'file "{file}"', "weight 0", "init_file 0"))


def _group(pair: Pair, agent: Config) -> Block:
    """All or nothing: a node with one dead link is of no use as a gateway.

    The sync network has no part in it: losing it breaks no traffic, and would fault both nodes.
    """
    members = Block("group", tuple(_name(router) for router in pair.routers))
    return Block(
        f"vrrp_sync_group {agent.group}",
        (members, Block("track_file", tuple(f"{name} weight 0" for name in _files(agent)))),
    )


def _instance(plan: Plan, node: str, pair: Pair, router: VirtualRouter) -> Block:
    """One virtual router. Its own interface is tracked without being named."""
    ends = addresses.router(plan, node, router)
    count = ADVERTISED[router.version]
    advertised, rest = router.addresses[:count], router.addresses[count:]
    return Block(
        f"vrrp_instance {_name(router)}",
        (
            "state BACKUP",
            f"interface {ends.interface}",
            f"virtual_router_id {router.vrid}",
            f"priority {plan.node(node).priority}",
            f"advert_int {pair.advert_ms / 1000:g}",
            *([] if pair.preempt else ["nopreempt"]),
            f"unicast_src_ip {ends.own}",
            Block("unicast_peer", (str(ends.peer),)),
            # The firewall lets in nothing with less: proof that it comes from the link.
            "unicast_ttl 255",
            Block("virtual_ipaddress", tuple(_virtual(advertised, ends.interface))),
            *(
                [Block("virtual_ipaddress_excluded", tuple(_virtual(rest, ends.interface)))]
                if rest
                else []
            ),
        ),
    )


def _virtual(all_of: Sequence[Interface], interface: str) -> Iterator[str]:
    """IPv6 addresses as deprecated: the node's own traffic must not leave from one (RFC 6724)."""
    for each in all_of:
        late = " preferred_lft 0" if each.version == 6 else ""
        yield f"{each.with_prefixlen} dev {interface}{late}"


def _name(router: VirtualRouter) -> str:
    return f"{router.network}-{router.version}"
