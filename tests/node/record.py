"""Record the kernel's messages anew, as root: `python -m tests.node.record`.

One router in a network namespace between two hosts; source NAT, destination NAT, and none for IPv6.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.node import kernel, netlink
from appliance.node.ctnetlink import Kind
from appliance.run import run
from appliance.tools import ensure
from tests.node import ftp
from tests.node.ftp import SMALL, Client, Mode
from tests.node.netns import inside, ip

RECORDED = Path(__file__).with_name("recorded")
NAMES = {Kind.NEW_EXPECTATION: "new", Kind.DELETE_EXPECTATION: "gone"}

_RULES = """
table inet router {
    ct helper ftp { type "ftp" protocol tcp; }
    chain helpers {
        type filter hook prerouting priority mangle;
        tcp dport 21 ct helper set "ftp"
    }
    chain destination {
        type nat hook prerouting priority dstnat;
        iifname "outside" ip daddr 192.168.1.100 tcp dport 21 dnat ip to 192.168.0.3
    }
    chain source {
        type nat hook postrouting priority srcnat;
        oifname "outside" ip saddr 192.168.0.3 snat ip to 192.168.1.100
    }
}
"""

_SIDES = {
    "inside": ("192.168.0.{}/24", "fd00:0:0:1::{}/64"),
    "outside": ("192.168.1.{}/24", "fd00:0:0:2::{}/64"),
}
_CASES = {
    "snat": ("inside", "192.168.1.3", tuple(Mode)),
    "dnat": ("outside", "192.168.1.100", tuple(Mode)),
    "ipv6": ("inside", "fd00:0:0:2::3", (Mode.EPSV, Mode.EPRT)),
}


def main() -> None:
    """Write one file for each case: a line for each message, as its name and bytes in hex."""
    RECORDED.mkdir(exist_ok=True)
    prefix = f"r{os.getpid()}"
    with _router(prefix) as router, ExitStack() as stack:
        for side, addresses in _SIDES.items():
            own = [each.format(3).partition("/")[0] for each in addresses]
            stack.enter_context(ftp.server(f"{prefix}-{side}", *own))
        for name, (side, host, modes) in _CASES.items():
            for mode in modes:
                lines = _record(router, Client(f"{prefix}-{side}", host, mode))
                path = RECORDED / f"{name}-{mode.lower()}.txt"
                path.write_text("".join(f"{line}\n" for line in lines))


def _record(router: str, client: Client) -> list[str]:
    """Twice the command of the mode, and one data connection: two are new, and two end."""
    with inside(router):
        link = kernel.watch()
    client.login()
    client.agree()
    client.agree()
    client.begin(SMALL)
    client.receive(SMALL)
    client.close()
    with link:
        return [
            f"{NAMES[Kind(kind)]} {payload.hex()}"
            for data in kernel.waiting(link)
            for kind, payload in netlink.messages(data)
        ]


@contextmanager
def _router(prefix: str) -> Iterator[str]:
    router = f"{prefix}-router"
    with ExitStack() as stack:
        for name in (router, *(f"{prefix}-{side}" for side in _SIDES)):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        for side, addresses in _SIDES.items():
            _cable(router, f"{prefix}-{side}", side, addresses)
        enter = ["nsenter", f"--net=/run/netns/{router}"]
        forward = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        run([*enter, "sysctl", "-qw", *forward])
        run([*enter, *ensure().inside(["nft", "-f", "-"])], stdin=_RULES)
        yield router


def _cable(router: str, host: str, side: str, addresses: tuple[str, ...]) -> None:
    ip("link", "add", side, "netns", router, "type", "veth", "peer", "name", "eth0", "netns", host)
    for namespace, interface, last in ((router, side, 100), (host, "eth0", 3)):
        ip("-n", namespace, "link", "set", interface, "up")
        for each in addresses:
            nodad = ["nodad"] if ":" in each else []
            ip("-n", namespace, "address", "add", each.format(last), "dev", interface, *nodad)
    for each in addresses:
        ip("-n", host, "route", "add", "default", "via", each.format(100).partition("/")[0])


if __name__ == "__main__":
    main()
