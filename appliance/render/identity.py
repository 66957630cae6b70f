"""Who the node is: its names, the site it was made from, and what its agent has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from appliance.node.config import Config, Link
from appliance.plan.model import Pair, Plan
from appliance.render import addresses


def hosts(plan: Plan) -> str:
    """The text of etc/hosts: the nodes by their addresses on the sync, else the first network."""
    network = plan.networks[plan.pair.sync[0]] if plan.pair else next(iter(plan.networks.values()))
    nodes = [f"{network.addresses[node.name][0].ip} {node.name}\n" for node in plan.nodes]
    return "127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + "".join(nodes)


def node(plan: Plan, name: str) -> str:
    """The text of etc/appliance/node.json."""
    return _json({"site": plan.site, "node": name, "digest": plan.digest})


def agent(plan: Plan, name: str, pair: Pair) -> Config:
    """What the agent has to know; keepalived's and conntrackd's files take their paths from it."""
    virtual = [each for version in addresses.VERSIONS for each in addresses.virtual(plan, version)]
    links = [Link(e.interface, e.own, e.peer) for e in addresses.sync_links(plan, name, pair)]
    return Config(
        virtual=tuple(virtual),
        links=tuple(links),
        cards=tuple(dict.fromkeys(plan.networks[each.network].interface for each in pair.routers)),
        peers=tuple(addresses.router(plan, name, each).peer for each in pair.routers),
        advert_s=pair.advert_ms / 1000,
        preempt=pair.preempt,
    )


def agent_json(config: Config) -> str:
    """The text of etc/appliance/agent.json: what differs from site to site."""
    return _json(
        {
            "virtual": [str(each) for each in config.virtual],
            "links": [
                {"interface": each.interface, "own": str(each.own), "peer": str(each.peer)}
                for each in config.links
            ],
            "cards": config.cards,
            "peers": [str(each) for each in config.peers],
            "advert_s": config.advert_s,
            "preempt": config.preempt,
        }
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
