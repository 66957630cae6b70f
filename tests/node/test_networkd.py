"""What networkd makes of changed files, in a network namespace: the real one, without udev."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.node import networks
from appliance.render.networkd import FOREIGN
from appliance.render.site import render
from appliance.site import load
from appliance.tools import ToolsTree
from tests.node.netns import wait_for
from tests.operate.ssh import EXAMPLES

CARD = "enp0s3"
FILE = f"etc/systemd/network/10-{CARD}.network"
VIRTUAL = "192.168.0.100/24"

# A /run and a user of its own; a /sys that is read only tells it that there is no udev.
BEGIN = """
mount -t tmpfs tmpfs /run
mount -t sysfs -o ro sysfs /sys
sed '/^systemd-network:/d' /etc/passwd >/run/passwd
echo 'systemd-network:x:990:990::/:/bin/false' >>/run/passwd
mount --bind /run/passwd /etc/passwd
cd /run
mkdir -p systemd/netif/links systemd/netif/leases systemd/network systemd/networkd.conf.d
chown -R 990:990 systemd/netif
mount --bind "$0/network" systemd/network
mount --bind "$0/conf" systemd/networkd.conf.d
exec /usr/lib/systemd/systemd-networkd
"""


@dataclass
class Networkd:
    """It, its namespace, and the folder with its files."""

    namespace: str
    folder: Path
    tools: ToolsTree
    process: subprocess.Popen[bytes] | None = None

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.namespace, *words], check=True)

    def start(self) -> None:
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        argv = [*enter, *self.tools.inside(["sh", "-euc", BEGIN, self.folder])]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        begun = f"{CARD}: Configuring with"
        wait_for("networkd", lambda: begun in (self.folder / "log").read_text(), 30)

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        self.process.wait()

    def write(self, text: str) -> None:
        (self.folder / "network" / Path(FILE).name).write_text(text)

    def reload(self) -> None:
        assert self.process
        self.process.send_signal(1)

    def told(self, *words: str) -> list[dict[str, Any]]:
        ask = ["ip", "-n", self.namespace, "-j", *words]
        done = subprocess.run(ask, check=True, text=True, capture_output=True)
        answer: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        return answer

    def addresses(self) -> set[str]:
        (card,) = self.told("-4", "address", "show", "dev", CARD) or [{"addr_info": []}]
        return {f"{each['local']}/{each['prefixlen']}" for each in card.get("addr_info", ())}

    def routes(self) -> set[tuple[str, str]]:
        return {(r["dst"], r["gateway"]) for r in self.told("-4", "route") if "gateway" in r}


def rendered(folder: Path, old: str = "", new: str = "") -> str:
    file = folder / "site.yaml"
    text = (EXAMPLES / "testcase.yaml").read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    plan = load(file)
    return {str(p): f.content for p, f in render(plan)["fw1"].items()}[FILE]


@pytest.fixture
def networkd(tmp_path: Path, tools: ToolsTree) -> Iterator[Networkd]:
    """It has configured a card of testcase.yaml, which holds a virtual address besides."""
    made = Networkd(f"nd{tmp_path.stat().st_ino}"[:12], tmp_path, tools)
    for name in ("network", "conf"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf/10.conf").write_text(FOREIGN)
    subprocess.run(["ip", "netns", "add", made.namespace], check=True)
    try:
        made.ip("link", "add", CARD, "type", "veth", "peer", "name", "far")
        made.ip("link", "set", "far", "up")
        made.write(rendered(tmp_path))
        made.start()
        wait_for("the address", lambda: "192.168.0.1/24" in made.addresses(), 30)
        made.ip("address", "add", VIRTUAL, "dev", CARD)
        yield made
        made.stop()
    finally:
        subprocess.run(["ip", "netns", "delete", made.namespace], check=True)


ROUTE = "    routes: [{to: 10.9.0.0/24, via: 192.168.0.3}]\n"
INTERFACE = f"    interface: {CARD}\n"
ALIAS = "    aliases: {fw1: [192.168.0.7/24]}\n"


def test_a_changed_file_leaves_keepaliveds_address_alone(
    networkd: Networkd, tmp_path: Path
) -> None:
    before = networkd.addresses()
    assert before == {"192.168.0.1/24", VIRTUAL}
    networkd.write(rendered(tmp_path, INTERFACE, INTERFACE + ALIAS + ROUTE))
    networkd.reload()
    wait_for("the route", networkd.routes, 30)
    assert networkd.routes() == {("10.9.0.0/24", "192.168.0.3")}
    assert networkd.addresses() == {*before, "192.168.0.7/24"}
    networkd.write(rendered(tmp_path))
    networkd.reload()
    wait_for("the route to go", lambda: not networkd.routes(), 30)
    assert networkd.addresses() == before


def test_what_a_networkd_before_it_has_configured_is_taken_away_by_hand(
    networkd: Networkd, tmp_path: Path
) -> None:
    """How much of it this one takes for its own is a matter of moments."""
    old = rendered(tmp_path, INTERFACE, INTERFACE + ALIAS + ROUTE)
    new = rendered(tmp_path, INTERFACE, INTERFACE + ALIAS.replace("0.7", "0.8"))
    networkd.write(old)
    networkd.reload()
    wait_for("the route", networkd.routes, 30)
    networkd.stop()
    networkd.start()
    networkd.write(new)
    networkd.reload()
    wait_for("the new address", lambda: "192.168.0.8/24" in networkd.addresses(), 30)
    for command in networks.gone({FILE: old}, {FILE: new}):
        subprocess.run(["ip", "-n", networkd.namespace, *command[1:]], check=False)
    assert not networkd.routes()
    assert networkd.addresses() == {"192.168.0.1/24", "192.168.0.8/24", VIRTUAL}
