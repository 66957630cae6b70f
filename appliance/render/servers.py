"""Whom the node itself asks and tells: log hosts, time servers, name servers."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.plan.model import Address, LogHost

# The journal is the queue. Each host has a reader of its own, which goes on where that host's place
# is kept, and stands still while it is away: no queue of rsyslog's holds a line, neither in memory,
# where a power cut loses it, nor on the disk, where one damages the files so that nothing is ever
# sent again (8.2504). Its limit of lines in ten minutes would lose what was missed.
_HEAD = """\
global(localHostname="{node}" oversizemsg.report="off")
main_queue(queue.type="Direct")
module(
    load="imjournal"
    stateFile="/var/lib/rsyslog/journal"
    persistStateInterval="10"
    fileCreateMode="0600"
    defaultTag="journal"
    ratelimit.interval="0"
)
"""

# It tries again without end, and each time leaves a line in the journal. A log host says nothing:
# only keep-alive probes find out that a quiet one has been started anew and knows no connection.
_HOST = """
ruleset(name="{name}") {{
    action(
        name="{name}"
        type="omfwd"
        target="{host.address}"
        port="{host.port}"
        protocol="{host.protocol}"
        template="RSYSLOG_SyslogProtocol23Format"
        keepAlive="on"
        keepAlive.time="30"
        keepAlive.interval="10"
        keepAlive.probes="3"
        action.resumeRetryCount="-1"
        action.resumeInterval="30"
    )
}}
input(type="imjournal" ruleset="{name}")
"""


def syslog(hosts: Sequence[LogHost], node: str) -> str:
    """The text of etc/rsyslog.conf (rsyslog.conf(5)): the whole journal to each of these hosts.

    A host's name in it is also the name of the file that keeps its place in the journal.
    """
    names = [f"{each.address}-{each.protocol}-{each.port}" for each in hosts]
    blocks = [_HOST.format(name=name, host=host) for name, host in zip(names, hosts, strict=True)]
    return _HEAD.format(node=node) + "".join(blocks)


def ntp(addresses: Sequence[Address]) -> str:
    """A drop-in of timesyncd.conf(5): these servers only, not those that Debian falls back on."""
    return f"[Time]\nNTP={' '.join(map(str, addresses))}\nFallbackNTP=\n"


def dns(addresses: Sequence[Address]) -> str:
    """The text of etc/resolv.conf (resolv.conf(5)); a server that is down costs a second."""
    servers = "".join(f"nameserver {each}\n" for each in addresses)
    return f"{servers}options timeout:1 attempts:2\n"
