"""A router of one kernel and its ruleset, with wires that a test puts packets on and listens at.

Run as a program in a network namespace of its own, a job on standard input (JSON), what was seen
on standard output. Each network card is one end of a cable; the test holds the other end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import nftables

from appliance.render.site import NETWORKS, RULESET
from appliance.render.tree import NodeFiles
from appliance.run import run
from tests.render.packets import ICMPV6, Packet, decode

LIMIT_S = 1.0
HOST = bytes.fromhex("020000000001")
HOSTS = (2, 3, 7, 21, 60)  # numbers of the hosts on each link
TYPES = {4: 0x0800, 6: 0x86DD}
LOCAL = "local"  # in place of a network card: the router sends the packet itself

LOOSE = "net/netfilter/nf_conntrack_tcp_loose"
SETTINGS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/ip_nonlocal_bind": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/netfilter/nf_conntrack_tcp_be_liberal": 1,
}


@dataclass(frozen=True)
class Seen:
    """What came of one packet: packets by network card, and named counters that grew."""

    out: tuple[tuple[str, Packet], ...]
    counted: tuple[str, ...]


def play(
    files: NodeFiles, steps: list[tuple[str, Packet]], *addresses: str, loose: bool = False
) -> list[Seen]:
    """Put each packet on the wire of its network card, in order, and tell what each led to.

    `addresses` are more of the form `card address/length`: virtual ones, that keepalived would set.
    `loose` lets the kernel take up TCP connections in their middle, against the rendered setting.
    """
    links: dict[str, list[str]] = {}
    for path, file in files.items():
        if path.parent == NETWORKS and path.suffix == ".network":
            pairs = [line.split("=", 1) for line in file.content.splitlines() if "=" in line]
            name = next(value for key, value in pairs if key == "Name")
            links[name] = [value for key, value in pairs if key == "Address"]
    for each in addresses:
        links[each.split()[0]].append(each.split()[1])
    job = {
        "links": links,
        "ruleset": files[RULESET].content,
        "settings": SETTINGS | {LOOSE: int(loose)},
        "steps": [(card, each.encode().hex()) for card, each in steps],
    }
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    program = ["unshare", *own, "--net", "--mount", sys.executable, "-m", "tests.render.bench"]
    done = run(program, stdin=json.dumps(job), timeout=60, cwd=Path(__file__).parents[2])
    return [
        Seen(
            tuple((card, decode(bytes.fromhex(each))) for card, each in seen["out"]),
            tuple(seen["counted"]),
        )
        for seen in json.loads(done.stdout)
    ]


def main() -> None:
    job = json.load(sys.stdin)
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    wires = {
        card: wire(card, number, held) for number, (card, held) in enumerate(job["links"].items())
    }
    await_links(job["links"])
    for path, value in job["settings"].items():
        Path("/proc/sys", path).write_text(f"{value}\n")
    rules = nftables.Nftables()
    rules.set_json_output(True)
    code, _, error = rules.cmd(job["ruleset"])
    if code:
        sys.exit(error)
    json.dump(
        [step(rules, wires, card, bytes.fromhex(data)) for card, data in job["steps"]], sys.stdout
    )


def wire(card: str, number: int, addresses: list[str]) -> socket.socket:
    """The card with its addresses, the hosts on its link known to it, and the test's end.

    That end is in the same kernel, which must take nothing that comes out there for its own: no
    host has its MAC address, and it has no IPv6.
    """
    end = f"wire{number}"
    networks = [ip_interface(each).network for each in addresses]
    known = {str(n[host]) for n in networks for host in HOSTS if host < n.num_addresses}
    hosts = sorted(known - {each.split("/")[0] for each in addresses})
    ip(f"link add name {card} type veth peer name {end}")
    Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1\n")
    ip(
        f"link set dev {end} up",
        f"link set dev {card} up",
        *(f"address add {each} dev {card} nodad" for each in addresses),
        *(
            f"neighbour add {each} lladdr {HOST.hex(':')} nud permanent dev {card}"
            for each in hosts
        ),
    )
    held = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    held.bind((end, 0))
    return held


def ip(*batch: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(batch), text=True, check=True)


def await_links(cards: Iterable[str]) -> None:
    """A link that is up carries nothing before the kernel's link watch has seen it."""
    end = time.monotonic() + LIMIT_S * 10
    states = [Path(f"/sys/class/net/{card}/operstate") for card in cards]
    while not all(state.read_text() == "up\n" for state in states):
        if time.monotonic() > end:
            sys.exit(f"links are not up: {[state.read_text() for state in states]}")
        time.sleep(0.005)  # poll


def step(
    rules: nftables.Nftables, wires: dict[str, socket.socket], card: str, data: bytes
) -> dict[str, Any]:
    """One packet, until something has come of it."""
    before = counters(rules)
    drain(wires)
    send(wires, card, data)
    end = time.monotonic() + LIMIT_S
    out: list[tuple[str, str]] = []
    counted: list[str] = []
    while not out and not counted and time.monotonic() < end:
        out = heard(wires)
        now = counters(rules)
        counted = [name for name in now if now[name] > before[name]]
    return {"out": out, "counted": counted}


def send(wires: dict[str, socket.socket], card: str, data: bytes) -> None:
    if card == LOCAL:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            try:
                raw.sendto(data, (socket.inet_ntoa(data[16:20]), 0))
            except PermissionError:
                return  # dropped on its way out
    else:
        mac = bytes.fromhex(
            Path(f"/sys/class/net/{card}/address").read_text().strip().replace(":", "")
        )
        kind = TYPES[data[0] >> 4].to_bytes(2)
        wires[card].send(mac + HOST + kind + data)


def drain(wires: dict[str, socket.socket]) -> None:
    """Forget what the cards say by themselves."""
    while heard(wires, wait=0):
        pass


def heard(wires: dict[str, socket.socket], wait: float = 0.02) -> list[tuple[str, str]]:
    """IP packets that came out, neighbour discovery and group membership left out."""
    found = []
    for held in select.select(list(wires.values()), [], [], wait)[0]:
        data, (_, _, kind, *_) = held.recvfrom(65535)
        own = kind == socket.PACKET_OUTGOING
        if not own and data[12:14] in (b"\x08\x00", b"\x86\xdd") and not chatter(data[14:]):
            found.append((next(card for card in wires if wires[card] is held), data[14:].hex()))
    return found


def chatter(data: bytes) -> bool:
    if data[0] >> 4 != 6:
        return False
    return data[6] == 0 or (data[6] == ICMPV6 and data[40] in (*range(130, 138), 143))


def counters(rules: nftables.Nftables) -> dict[str, int]:
    _, text, _ = rules.cmd("list counters")
    found = [each["counter"] for each in json.loads(text)["nftables"] if "counter" in each]
    return {each["name"]: each["packets"] for each in found}


if __name__ == "__main__":
    main()
