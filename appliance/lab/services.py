"""The hosts inside the peers machine: how they are set up and serve, as pure text.

Each is a network namespace with a card of its own (macvlan) on the machine's card for that
network.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from appliance.lab import qemu
from appliance.lab.daemons import Daemon, daemons, keys, programs
from appliance.lab.places import BASE, LOG, SHARE
from appliance.lab.serving import Port
from appliance.lab.topology import Host, Way
from appliance.plan.model import Address, Vlan
from appliance.render.real_servers import held, vsftpd_settings

SHARED_FILE = "data"  # what FTP and HTTP give; every host has the same
SMALL_FILE = "small"
SHARED_SIZES = {SHARED_FILE: 1 << 20, SMALL_FILE: 64 << 10}  # bytes
SHARED_DIGESTS = f"{BASE}/sha256"
INCOMING = "incoming"  # where FTP's clients may write
START = f"{BASE}/start"
GROUPS = "/sys/fs/cgroup/lab"

# A program and all that it starts are one control group, which can be frozen and ended as a whole.
# vsftpd writes what is wrong to its standard input, where a client would be.
_START = f"""\
#!/bin/sh
# start HOST NAME COMMAND
mkdir -p {GROUPS}/$1/$2
echo $$ >{GROUPS}/$1/$2/cgroup.procs
exec ip netns exec "$1" sh -c "$3" >>{LOG}/$1.$2 2>&1 <&1
"""

# A table that drops whatever comes and goes: the host's cable, cut.
_CUT = """\
table netdev cable {
  chain in { type filter hook ingress device eth0 priority 0; policy drop; }
  chain out { type filter hook egress device eth0 priority 0; policy drop; }
}
"""


def files(hosts: Sequence[Host]) -> dict[str, str]:
    """What is written into the peers machine before `prepare` runs."""
    own = {
        path: text for host in hosts for each in daemons(host) for path, text in each.files.items()
    }
    return {**programs(), START: _START, **own}


def prepare() -> str:
    """The script that makes keys and the shared file, once."""
    shared = "\n".join(f"head -c {size} /dev/urandom >{n}" for n, size in SHARED_SIZES.items())
    return f"""\
set -e
# An account whose password field begins with ! is locked for sshd; * only has no password.
sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
mkdir -p {SHARE}/{INCOMING} {BASE}/empty {LOG} /run/sshd
{keys()}
cd {SHARE}
{shared}
sha256sum {" ".join(SHARED_SIZES)} >{SHARED_DIGESTS}
echo lab >index.html
chmod -R a+rX .
chmod 1777 {INCOMING}
"""


def namespace(site: str, host: Host, cards: Mapping[str, str]) -> str:
    """The script that makes one host; `cards` are the machine's on the networks that it is on."""
    made = [
        f"ip link add link {cards[network]} name {device} netns {host.name} "
        f"address {qemu.mac(site, host.name, network)} type macvlan mode bridge"
        for network, device in devices(host).items()
    ]
    return "\n".join(
        [
            "set -e",
            *(f"modprobe {module}" for module in _modules(host)),
            f"ip netns add {host.name}",
            *made,
            *(f"ip netns exec {host.name} sysctl -qw {setting}" for setting in _settings(host)),
            f"ip -n {host.name} -batch - <<'END'",
            *_batch(host),
            "END",
            *_rules(host),
            "",
        ]
    )


def devices(host: Host) -> dict[str, str]:
    """A host's cards by their networks: its own, and those by which only answers leave."""
    networks = dict.fromkeys([host.network, *(way.network for way in host.ways)])
    return {network: f"eth{number}" for number, network in enumerate(networks)}


def tag(card: str, name: str, vlan: Vlan) -> str:
    """The script that makes the tagged card `name` on `card`; more than one host may ask for it."""
    make = f"ip link add link {card} name {name} type vlan id {vlan.tag}"
    return f"[ -e /sys/class/net/{name} ] || {make}; ip link set {name} up"


def serve(host: Host) -> str:
    """The script that starts what a host serves; each program writes to a log of its own."""
    return "\n".join(launch(host, each) for each in daemons(host))


def launch(host: Host, daemon: Daemon) -> str:
    """The script that starts one program of a host."""
    command = " & ".join([*daemon.commands[:-1], f"exec {daemon.commands[-1]}"])
    start = shlex.join(["sh", START, host.name, daemon.name, command])
    return f"{daemon.prepare}{start} &"


def end(host: str, name: str) -> str:
    """The script that kills a host's program with all that it started, and sees that it is gone."""
    group = f"{GROUPS}/{host}/{name}"
    return f"echo 1 >{group}/cgroup.kill; {_until(f'populated 0 {group}/cgroup.events')}"


def freeze(host: str, name: str, *, frozen: bool) -> str:
    """The script that has a program hang, or go on: the kernel still takes its connections."""
    group = f"{GROUPS}/{host}/{name}"
    state = int(frozen)
    return f"echo {state} >{group}/cgroup.freeze; {_until(f'frozen {state} {group}/cgroup.events')}"


def renew(master: str) -> str:
    """The script that has a program read its configuration anew, whose first process has its number
    in the file `master`; it waits for those that still go by the old one.

    Who is busy ends what it does first, and would be waited for in vain.
    """
    gone = "[ ! -e /proc/$one ] || grep -q 'shutting down' /proc/$one/cmdline"
    return f"""\
master=$(cat {master}); old=$(pgrep -P $master); kill -HUP $master
for one in $old; do
  for i in $(seq 40); do {gone} && break; sleep 0.05; done
done
"""


def _until(words: str) -> str:
    """Wait up to a second and a half for a line to be in a file."""
    pattern, path = words.rsplit(" ", 1)
    look = f"grep -q '^{pattern}$' {path}"
    return f"for i in $(seq 30); do {look} && exit; sleep 0.05; done; {look}"


def cut() -> tuple[list[str], str]:
    """The command, and its input, by which a host drops whatever comes and goes on its card."""
    return ["nft", "-f", "-"], _CUT


def mend() -> list[str]:
    """The command that undoes it."""
    return ["nft", "delete", "table", "netdev", "cable"]


def listening(ports: Sequence[Port]) -> str:
    """A command that succeeds when the host that runs it listens on all of these ports."""
    wanted = " && ".join(f'seen["{port.protocol} {port.number}"]' for port in ports) or "1"
    note = 'n = split($5, parts, ":"); seen[$1 " " parts[n]] = 1'
    return f"ss -Hltun | awk '{{ {note} }} END {{ exit !({wanted}) }}'"


def cards(networks: Sequence[str]) -> Mapping[str, str]:
    """The peers machine's card on each network."""
    return {network: f"enp0s{slot}" for slot, network in enumerate(networks, 3)}


def _held(host: Host) -> dict[str, list[Address]]:
    """The virtual addresses that a host has besides its own, by the device that they are on."""
    found: dict[str, list[Address]] = {}
    for each in (each for service in host.serves for each in held(service)):
        there = found.setdefault(each.device, [])
        there += [a.ip for a in each.addresses if a.ip not in there]
    return found


def _modules(host: Host) -> list[str]:
    every = (each.module for service in host.serves for each in held(service))
    return list(dict.fromkeys(module for module in every if module))


# A host that leads to others must not tell anybody of a shorter way to them.
_FORWARDING: Mapping[int, Mapping[str, str]] = {
    4: {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.all.send_redirects": "0",
        "net.ipv4.conf.eth0.send_redirects": "0",
    },
    6: {"net.ipv6.conf.all.forwarding": "1"},
}


def _settings(host: Host) -> list[str]:
    settings: dict[str, str] = {}
    for service in host.serves:
        settings |= vsftpd_settings(service)
        for each in held(service):
            settings |= each.settings
    for version in sorted({address.version for address in host.onward}):
        settings |= _FORWARDING[version]
    return [f"{key}={value}" for key, value in settings.items()]


def _batch(host: Host) -> Iterator[str]:
    """Lines for `ip -batch`."""
    nodad = {4: "", 6: " nodad"}  # duplicate address detection takes a second
    quiet = {4: " scope host", 6: " nodad"}  # see appliance.render.real_servers
    yield "link set lo up"
    yield from (f"addr add {a} dev eth0{nodad[a.version]}" for a in host.addresses)
    yield from (f"link set {device} up" for device in devices(host).values())
    yield from (f"addr add {a} dev lo{nodad[a.version]}" for a in host.behind)
    for device, addresses in _held(host).items():
        if device != "lo":
            yield f"link set {device} up"
        yield from (f"addr add {a} dev {device}{quiet[a.version]}" for a in addresses)
    yield from (f"route add {address} dev eth0" for address in host.onward)
    yield from (f"route add default via {a}{_onlink(host, a)}" for a in host.routers)
    for number, way in _tables(host):
        device = devices(host)[way.network]
        yield from (f"route add {link} dev {device} table {number}" for link in way.links)
        if way.router:
            yield f"route add default via {way.router} dev {device} onlink table {number}"


def _rules(host: Host) -> Iterator[str]:
    """What is from one address only has routes of its own (ip-rule(8))."""
    for number, way in _tables(host):
        command = f"ip -{way.source.version} -n {host.name}"
        yield f"{command} rule add from {way.source} lookup {number}"


def _tables(host: Host) -> Iterator[tuple[int, Way]]:
    return enumerate(host.ways, 100)


def _onlink(host: Host, router: Address) -> str:
    """Who leads to a host from afar is on its link, although no address says so."""
    near = any(router.version == a.version and router in a.network for a in host.addresses)
    return "" if near else " dev eth0 onlink"
