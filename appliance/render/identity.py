"""Who the node is: its names, the site it was made from, and what its agent has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from appliance.node.config import Config
from appliance.plan.model import Pair, Plan
from appliance.render import addresses


def hosts(plan: Plan) -> str:
    """The text of etc/hosts: the nodes by their addresses on the sync, else the first network."""
    network = plan.networks[plan.pair.sync] if plan.pair else next(iter(plan.networks.values()))
    nodes = [f"{network.addresses[node.name][0].ip} {node.name}\n" for node in plan.nodes]
    return "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + "".join(nodes)


def node(plan: Plan, name: str) -> str:
    """The text of etc/appliance/node.json."""
    return _json({"site": plan.site, "node": name, "digest": plan.digest})


def agent(plan: Plan, pair: Pair) -> Config:
    """What the agent has to know; keepalived's and conntrackd's files take their paths from it."""
    virtual = [each for version in addresses.VERSIONS for each in addresses.virtual(plan, version)]
    sync = plan.networks[pair.sync].interface
    return Config(virtual=tuple(virtual), sync_interface=sync, preempt=pair.preempt)


def agent_json(config: Config) -> str:
    """The text of etc/appliance/agent.json: what differs from site to site."""
    virtual = [str(each) for each in config.virtual]
    return _json(
        {
            "virtual": virtual,
            "sync_interface": config.sync_interface,
            "preempt": config.preempt,
        }
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
