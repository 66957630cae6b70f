"""From the site as stated to the plan: every name looked up, every default and number decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.plan.addressing import resolve_networks
from appliance.plan.balancing import virtual_services
from appliance.plan.filtering import Filtering
from appliance.plan.model import (
    Action,
    DropLog,
    Metrics,
    Network,
    Node,
    Pair,
    Per,
    Plan,
    Rate,
    Role,
    Rule,
    Ssh,
    VirtualRouter,
)
from appliance.plan.servers import servers
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Ha, Site
from appliance.site.values import ANY, SELF
from appliance.site.words import meant, quote

LOG_LINES = Rate(10, Per.SECOND)

# One to use and one to fall back on; conntrackd would take four (MULTICHANNEL_MAX in channel.h).
MOST_SYNC_LINKS = 2


def resolve(site: Site, faults: Faults, digest: str) -> Plan:
    """The plan of a site. Mistakes are noted in `faults`: with any, the plan is of no use."""
    networks = resolve_networks(site, faults)
    filtering = Filtering(site, networks, faults)
    rules = filtering.rules()
    source_nat, destination_nat = filtering.nat()
    services = virtual_services(site, networks, faults)
    if services:
        _warn_of_refusals(rules, faults)
    return Plan(
        site=site.site,
        file=faults.file.name.encode(errors="replace").decode(),
        digest=digest,
        nodes=_nodes(site, faults),
        networks=networks,
        rules=rules,
        source_nat=source_nat,
        destination_nat=destination_nat,
        log=_log(site),
        pair=_pair(site, networks, faults),
        ssh=_ssh(site, filtering, faults),
        metrics=_metrics(site, filtering, faults),
        expectations=filtering.expectations(),
        virtual_services=services,
        warnings=faults.warnings(),
        sets=filtering.sets(),
        servers=servers(site, networks, faults),
        firmware=_firmware(site, faults),
    )


def _warn_of_refusals(rules: Sequence[Rule], faults: Faults) -> None:
    """What spells out the firewall's default is no default for virtual services: these are open."""
    for i, rule in enumerate(rules):
        names = (rule.to, rule.source, rule.destination, rule.services)
        if rule.action is not Action.ACCEPT and not rule.to_self and not any(names):
            hint = "leave it out: what no rule accepts is dropped; or accept the clients above it"
            what = "this refuses the clients of the virtual services as well"
            faults.warn(("firewall", "rules", i), what, hint)


def _nodes(site: Site, faults: Faults) -> tuple[Node, ...]:
    count = len(faults.names("nodes"))
    if faults.stated("nodes") and not 1 <= count <= 2:
        what = f"{count} nodes: a site has one, or two that make a pair"
        faults.add(("nodes",), what, key=True)
    return tuple(Node(name, stated.priority) for name, stated in site.nodes.items())


def _firmware(site: Site, faults: Faults) -> tuple[str, ...]:
    stated = site.hardware.firmware
    for i, name in enumerate(stated):
        if name in stated[:i]:
            faults.add(("hardware", "firmware", i), f"{quote(name)} is given twice")
    return stated


def _log(site: Site) -> DropLog:
    stated = site.firewall.log
    limit = stated.dropped.limit if stated.dropped else None
    return DropLog(stated.dropped is not None, stated.invalid, limit or LOG_LINES)


def _pair(site: Site, networks: Mapping[str, Network], faults: Faults) -> Pair | None:
    if len(faults.names("nodes")) < 2:
        _check_single(site, networks, faults)
        return None
    ha = site.ha or Ha()
    routers = _routers(ha, networks, faults)
    if not routers and networks and faults.networks_intact("virtual"):
        faults.add(("networks",), "a pair needs a virtual address, else nothing moves", key=True)
    sync = _sync(ha, networks, faults)
    return Pair(ha.advert, ha.preempt, sync, routers) if sync else None


def _check_single(site: Site, networks: Mapping[str, Network], faults: Faults) -> None:
    if len(faults.names("nodes")) != 1:
        return
    if site.ha is not None:
        faults.add(("ha",), "'ha' is for a pair: this site has one node", key=True)
    for name, network in networks.items():
        if network.role is Role.SYNC:
            loc = ("networks", name, "role")
            faults.add(loc, "a sync network is for a pair: this site has one node")


def _routers(ha: Ha, networks: Mapping[str, Network], faults: Faults) -> tuple[VirtualRouter, ...]:
    """One for each network and IP version, numbered from `ha.vrid` in the order of the file."""
    found: list[VirtualRouter] = []
    for network in networks.values():
        for version in (4, 6):
            addresses = tuple(a for a in network.virtual if a.version == version)
            if addresses:
                number = ha.vrid + len(found)
                found.append(VirtualRouter(network.name, version, number, addresses))
    if found and found[-1].vrid > 255:
        what = f"the last of {len(found)} virtual routers would have the number {found[-1].vrid}"
        faults.add(("ha", "vrid"), what, f"at most {256 - len(found)} leaves room up to 255")
    return tuple(found)


def _sync(ha: Ha, networks: Mapping[str, Network], faults: Faults) -> tuple[str, ...]:
    """The networks that carry connection state, the preferred one first."""
    by_role = tuple(name for name, network in networks.items() if network.role is Role.SYNC)
    if ha.sync is not None:
        return _named_sync(ha.sync, by_role, faults)
    if not by_role and networks and faults.networks_intact("role") and faults.intact("ha"):
        what = "a pair needs a network that carries its state: none has role sync"
        faults.add(("networks",), what, "or name one: ha: {sync: NETWORK}", key=True)
    for name in by_role[MOST_SYNC_LINKS:]:
        what = f"network {quote(name)} is one sync network too many: at most {MOST_SYNC_LINKS}"
        faults.add(("networks", name, "role"), what)
    return by_role


def _named_sync(
    named: tuple[str, ...], by_role: tuple[str, ...], faults: Faults
) -> tuple[str, ...]:
    """What `ha.sync` says, in its order: it has to name every network that is for nothing else."""
    names = faults.names("networks")
    for i, name in enumerate(named):
        loc = ("ha", "sync", i)
        if name not in names:
            faults.add(loc, f"unknown network {quote(name)}", meant(name, names))
        elif name in named[:i]:
            faults.add(loc, f"network {quote(name)} is given twice")
        elif i >= MOST_SYNC_LINKS:
            faults.add(loc, f"a pair has at most {MOST_SYNC_LINKS} sync networks")
    for name in by_role:
        if name not in named:
            what = f"'sync' does not name {quote(name)}, a network with role sync"
            hint = f"name both, the preferred one first: sync: [{name}, {named[0]}]"
            faults.add(("ha", "sync"), what, hint)
    return named


def _ssh(site: Site, filtering: Filtering, faults: Faults) -> Ssh | None:
    stated = site.management.ssh
    if stated is None:
        return None
    loc = ("management", "ssh")
    _check_opened("SSH is", stated.from_, loc, filtering, faults)
    for i, key in enumerate(stated.keys_):
        if key.split()[1] in {other.split()[1] for other in stated.keys_[:i]}:
            faults.add((*loc, "keys", i), "this key is given twice")
    if stated.keys_ and not stated.from_ and faults.intact(*loc):
        faults.add(
            loc, "SSH has keys, but is opened on no network", "name one under 'from'", key=True
        )
    return Ssh(stated.from_, stated.keys_) if stated.from_ else None


def _metrics(site: Site, filtering: Filtering, faults: Faults) -> Metrics | None:
    stated = site.management.metrics
    if stated is None:
        return None
    _check_opened("metrics are", stated.from_, ("management", "metrics"), filtering, faults)
    return Metrics(stated.from_, stated.port)


def _check_opened(
    what: str, networks: tuple[str, ...], loc: Loc, filtering: Filtering, faults: Faults
) -> None:
    """The networks that a service of the node itself is opened on: each by name, each once."""
    for i, name in enumerate(networks):
        at = (*loc, "from", i)
        if name in (ANY, SELF):
            faults.add(at, f"{what} opened on networks by name, not on '{name}'")
        elif filtering.network(name, at) in networks[:i]:
            faults.add(at, f"network {quote(name)} is given twice")
