"""All renderers together: the plan of a site in, the files of all its nodes out."""

from __future__ import annotations

from pathlib import PurePosixPath

from appliance.plan.model import Pair, Plan, Servers
from appliance.render import (
    balanced,
    conntrackd,
    identity,
    ipvs,
    keepalived,
    networkd,
    ruleset,
    servers,
    sshd,
    sysctl,
)
from appliance.render.tree import File, FileTree, NodeFiles

SECRET = 0o600

RULESET = PurePosixPath("etc/nftables.conf")
KEEPALIVED = PurePosixPath("etc/keepalived/keepalived.conf")
CONNTRACKD = PurePosixPath("etc/conntrackd/conntrackd.conf")
SSHD = PurePosixPath("etc/ssh/sshd_config.d/10-appliance.conf")
METRICS = PurePosixPath("etc/appliance/metrics.json")
BALANCING = PurePosixPath("etc/appliance/balancing.json")
MODULE_OPTIONS = PurePosixPath("etc/modprobe.d/appliance.conf")
KEEPALIVED_UNIT = PurePosixPath("etc/systemd/system/keepalived.service.d/50-appliance-checks.conf")
SYSLOG = PurePosixPath("etc/rsyslog.conf")
NTP = PurePosixPath("etc/systemd/timesyncd.conf.d/10-appliance.conf")
DNS = PurePosixPath("etc/resolv.conf")
NETWORKS = PurePosixPath("etc/systemd/network")


def render(plan: Plan) -> FileTree:
    """Every file of every node; the same plan gives the same text, paths in order."""
    return {node.name: _node(plan, node.name) for node in plan.nodes}


def _node(plan: Plan, node: str) -> NodeFiles:
    files = _everywhere(plan, node) | _networks(plan, node) | _servers(plan.servers, node)
    if plan.ssh:
        files |= _ssh(plan, node)
    if plan.metrics:
        files[METRICS] = File(identity.metrics(plan, node, plan.metrics))
    if plan.virtual_services:
        files |= _balancing(plan, node)
    if plan.pair:
        files |= _pair(plan, node, plan.pair)
    return dict(sorted(files.items()))


def _everywhere(plan: Plan, node: str) -> dict[PurePosixPath, File]:
    return {
        PurePosixPath("etc/appliance/node.json"): File(identity.node(plan, node)),
        PurePosixPath("etc/hostname"): File(f"{node}\n"),
        PurePosixPath("etc/hosts"): File(identity.hosts(plan)),
        PurePosixPath("etc/modules-load.d/appliance.conf"): File(sysctl.modules(plan)),
        PurePosixPath("etc/sysctl.d/90-appliance.conf"): File(sysctl.render(plan)),
        RULESET: File(ruleset.render(plan, node)),
    }


def _networks(plan: Plan, node: str) -> dict[PurePosixPath, File]:
    foreign = PurePosixPath("etc/systemd/networkd.conf.d/10-appliance.conf")
    files = {foreign: File(networkd.FOREIGN)}
    for each in plan.networks.values():
        name = f"10-{each.interface}"
        files[NETWORKS / f"{name}.network"] = File(networkd.render(plan, node, each))
        if each.vlan:
            files[NETWORKS / f"{name}.netdev"] = File(networkd.netdev(each, each.vlan))
    return files


def _servers(asked: Servers, node: str) -> dict[PurePosixPath, File]:
    """The files that say whom the node itself asks and tells; without its file a service is off."""
    files = {}
    if asked.syslog:
        files[SYSLOG] = File(servers.syslog(asked.syslog, node))
    if asked.ntp:
        files[NTP] = File(servers.ntp(asked.ntp))
    if asked.dns:
        files[DNS] = File(servers.dns(asked.dns))
    return files


def _ssh(plan: Plan, node: str) -> dict[PurePosixPath, File]:
    keys = sshd.keys(plan.ssh) if plan.ssh else ""
    return {
        SSHD: File(sshd.render(plan, node)),
        sshd.KEYS / "root": File(keys, SECRET),
    }


def _balancing(plan: Plan, node: str) -> dict[PurePosixPath, File]:
    """What virtual services need beside the files that are there anyway."""
    files = {
        BALANCING: File(balanced.render(plan, node)),
        MODULE_OPTIONS: File(ipvs.module_options()),
        **ipvs.scripts(plan),
    }
    if unit := ipvs.unit(plan):
        files[KEEPALIVED_UNIT] = File(unit)
    if not plan.pair:
        files[KEEPALIVED] = File(keepalived.render_alone(plan, node))
    return files


def _pair(plan: Plan, node: str, pair: Pair) -> dict[PurePosixPath, File]:
    agent = identity.agent(plan, node, pair)
    return {
        PurePosixPath("etc/appliance/agent.json"): File(identity.agent_json(agent)),
        CONNTRACKD: File(conntrackd.render(plan, node, pair, agent)),
        KEEPALIVED: File(keepalived.render(plan, node, pair, agent)),
    }
