"""Whom the node itself asks and tells: log hosts, time servers, name servers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from appliance.plan.model import Address, LogHost


def syslog(hosts: Sequence[LogHost]) -> str:
    """The text of etc/appliance/syslog.json, read by `appliance.node.syslog`."""
    stated = [
        {"address": str(each.address), "port": each.port, "protocol": each.protocol}
        for each in hosts
    ]
    return json.dumps({"hosts": stated}, indent=2) + "\n"


def ntp(addresses: Sequence[Address]) -> str:
    """A drop-in of timesyncd.conf(5): these servers only, not those that Debian falls back on."""
    return f"[Time]\nNTP={' '.join(map(str, addresses))}\nFallbackNTP=\n"


def dns(addresses: Sequence[Address]) -> str:
    """The text of etc/resolv.conf (resolv.conf(5)); a server that is down costs a second."""
    servers = "".join(f"nameserver {each}\n" for each in addresses)
    return f"{servers}options timeout:1 attempts:2\n"
