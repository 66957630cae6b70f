"""What each change of a site means for a node: from an example to a changed one, and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.node import change, layer, networks
from appliance.node.change import Change, Step
from appliance.node.layer import Manifest
from appliance.render import layers
from appliance.render.site import render
from appliance.site import load
from tests.operate.ssh import EXAMPLES
from tests.render import golden

Texts = dict[str, str]
Edit = Callable[[str], str]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ8mIxQXyV8KsV1jN8r3n0Y1v0m3q0u0m7o1g5WZ1xq"


def site(path: Path, node: int) -> tuple[Manifest, Texts]:
    plan = load(path)
    tree = render(plan)
    name = plan.nodes[node].name
    return layers.manifests(plan, tree)[name], layers.contents(tree[name])


def swap(*pairs: tuple[str, str]) -> Edit:
    def edit(text: str) -> str:
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text

    return edit


def changed(folder: Path, example: str, edit: Edit, node: int = 0) -> tuple[Change, Change]:
    """There, and back again."""
    file = folder / f"{example}.yaml"
    shutil.copy(EXAMPLES / file.name, file)
    old, before = site(file, node)
    file.write_text(edit(file.read_text()))
    new, after = site(file, node)
    return change.between(old, new, before, after), change.between(new, old, after, before)


RULE = "    - {from: inside, to: outside, service: icmp}\n"
SERVER = "      - {address: 10.11.12.31}\n"

CASES = [
    ("a rule", "testcase", swap((RULE, RULE + RULE.replace("icmp", "udp"))), (Step.FIREWALL,)),
    ("the log", "testcase", swap(("dropped: true", "dropped: false")), (Step.FIREWALL,)),
    ("a rule's place in the file", "branch", lambda text: f"# A comment.\n{text}",
     (Step.FIREWALL,)),
    ("a priority", "testcase", swap(("priority: 100", "priority: 90")), (Step.RELOAD,)),
    ("metrics", "testcase", swap(("management:\n", "management:\n  metrics: {from: inside}\n")),
     (Step.FIREWALL, Step.METRICS)),
    ("where SSH is open", "testcase", swap(("from: [inside, sync]", "from: [inside]")),
     (Step.FIREWALL, Step.SSH)),
    ("who may log in", "testcase", swap(("keys: []", f"keys: [{KEY}]")), ()),
    ("a second address", "branch", swap(("[192.168.0.202/24]", "[192.168.0.203/24]"),
     ("192.168.0.202", "192.168.0.203")), (Step.FIREWALL, Step.NETWORKS)),
    ("a route", "branch", swap(("gateway: 192.168.0.1\n", "gateway: 192.168.0.254\n")),
     (Step.NETWORKS,)),
    ("a real server", "web-bundle", swap((SERVER, SERVER + SERVER.replace("31", "34"))),
     (Step.AGENT, Step.RELOAD)),
    ("a real server's limit", "web-bundle",
     swap((SERVER, SERVER.replace("}", ", limit: 100}"))), (Step.RESTART,)),
    ("the sorry server", "web-bundle", swap(("10.11.12.33", "10.11.12.34")),
     (Step.AGENT, Step.RESTART)),
    ("no sorry server", "web-bundle", swap(("    sorry: {address: 10.11.12.33}\n", "")),
     (Step.AGENT, Step.RESTART)),
]  # fmt: skip

APART = [
    ("a virtual address", "testcase",
     swap(("[192.168.1.100/24]", "[192.168.1.100/24, 192.168.1.101/24]")),
     (Step.FIREWALL, Step.EXPECTATIONS, Step.AGENT, Step.RELOAD)),
    ("numbers of virtual routers", "testcase", lambda text: f"{text}\nha: {{vrid: 61}}\n",
     (Step.RELOAD,)),
    ("own addresses", "testcase", swap(("fw2: 192.168.1.2/24", "fw2: 192.168.1.9/24")),
     (Step.FIREWALL, Step.NETWORKS, Step.CONNTRACKD, Step.RELOAD)),
    ("the peer's addresses", "testcase", swap(("fw1: 192.168.1.1/24", "fw1: 192.168.1.9/24")),
     (Step.FIREWALL, Step.CONNTRACKD, Step.EXPECTATIONS, Step.AGENT, Step.RELOAD)),
    ("the pace of adverts", "testcase", lambda text: f"{text}\nha: {{advert: 1s}}\n",
     (Step.EXPECTATIONS, Step.AGENT, Step.RELOAD)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("example", "edit", "steps"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_what_is_done_node_by_node(
    tmp_path: Path, example: str, edit: Edit, steps: tuple[Step, ...]
) -> None:
    for each in changed(tmp_path, example, edit, node=-1):
        assert (each.steps, each.apart, each.reboot) == (steps, False, ())
        assert "etc/appliance/node.json" in each.written


@pytest.mark.parametrize(
    ("example", "edit", "steps"), [each[1:] for each in APART], ids=[each[0] for each in APART]
)
def test_what_the_two_nodes_must_agree_upon(
    tmp_path: Path, example: str, edit: Edit, steps: tuple[Step, ...]
) -> None:
    for each in changed(tmp_path, example, edit, node=-1):
        assert (each.steps, each.apart, each.reboot) == (steps, True, ())


def test_an_active_node_loses_its_role_by_a_restart_only(tmp_path: Path) -> None:
    sorry = swap(("10.11.12.33", "10.11.12.34"))
    assert changed(tmp_path, "web-bundle", sorry)[0].yields
    assert not changed(tmp_path, "web-bundle", swap((SERVER, "")))[0].yields


def test_a_new_tagged_network_is_made_and_one_that_goes_needs_a_reboot(tmp_path: Path) -> None:
    tagged = "  guests:\n    vlan: {id: 30, on: back}\n    addresses: {gw: 10.0.30.1/24}\n"
    edit = swap(("\nfirewall:", f"{tagged}\nfirewall:"))
    there, back = changed(tmp_path, "branch", edit)
    assert (Step.NETWORKS in there.steps, there.reboot) == (True, ())
    assert back.removed == (
        "etc/systemd/network/10-vlan30.netdev",
        "etc/systemd/network/10-vlan30.network",
    )
    assert back.reboot == (
        "/etc/systemd/network/10-vlan30.netdev: "
        "networkd neither changes nor removes a card that it made",
    )


def test_the_first_virtual_service_is_put_in_force_and_the_last_one_taken_away(
    tmp_path: Path,
) -> None:
    service = "virtual_services:\n  web:\n    address: 192.168.0.100\n    ports: [tcp/80]\n"
    service += "    servers: [{address: 192.168.1.3}]\n"
    there, back = changed(tmp_path, "testcase", lambda text: f"{text}\n{service}")
    assert there.steps[:3] == (Step.MODULES, Step.SETTINGS, Step.FIREWALL)
    assert Step.RESTART in there.steps
    assert (there.reboot, back.reboot) == ((), ())
    assert back.removed == (
        "etc/appliance/balancing.json",
        "etc/modprobe.d/appliance.conf",
    )


def test_what_only_a_boot_reads() -> None:
    host, options = "etc/hostname", "etc/modprobe.d/appliance.conf"
    old, new = ({host: f"{n}\n", options: f"options ip_vs conn_tab_bits={n}\n"} for n in (1, 2))
    manifests = [
        layer.manifest("s", "a", "0" * 64, [(path, text, 0o644) for path, text in each.items()])
        for each in (old, new)
    ]
    found = change.between(*manifests, old, new)
    assert found.steps == ()
    assert found.reboot == (
        "/etc/hostname: the node's name is taken at the boot",
        "/etc/modprobe.d/appliance.conf: "
        "the kernel takes a module's options when it loads the module",
    )


def test_the_same_site_is_no_change(tmp_path: Path) -> None:
    there, _ = changed(tmp_path, "testcase", lambda text: text)
    assert there == Change((), (), ())


def test_every_file_of_every_site_has_a_reader() -> None:
    for name in golden.NAMES:
        for node, files in golden.rendered(name).items():
            every = ((str(path), file.content, file.mode) for path, file in files.items())
            assert change.unknown(layer.manifest("s", node, "0" * 64, every)) == []


def test_a_file_that_this_image_has_no_reader_for() -> None:
    odd = layer.manifest("s", "a", "0" * 64, [("etc/frobnicate.conf", "", 0o644)])
    assert change.unknown(odd) == ["etc/frobnicate.conf"]


# What networkd does not take away

CARD = "[Match]\nName=enp0s3\n\n[Network]\n{}\n"
FILE = "etc/systemd/network/10-enp0s3.network"


def test_what_a_card_no_longer_has_is_taken_away() -> None:
    one, other = "Address=192.0.2.1/24\nAddress=192.0.2.5/24", "Address=192.0.2.1/24"
    route = "\nGateway=192.0.2.254\n\n[Route]\nDestination=2001:db8::/32\nGateway=fe80::1"
    old, new = {FILE: CARD.format(one + route)}, {FILE: CARD.format(other)}
    assert networks.gone(old, new) == [
        ("ip", "-6", "route", "del", "2001:db8::/32", "via", "fe80::1", "dev", "enp0s3"),
        ("ip", "-4", "route", "del", "default", "via", "192.0.2.254", "dev", "enp0s3"),
        ("ip", "address", "del", "192.0.2.5/24", "dev", "enp0s3"),
    ]
    assert networks.gone(new, old) == []
    assert networks.gone(new, {}) == [("ip", "address", "del", "192.0.2.1/24", "dev", "enp0s3")]


def test_an_address_that_is_not_there_yet() -> None:
    new = {FILE: CARD.format("Address=192.0.2.1/24\nAddress=2001:db8::1/64")}
    here = {"local": "192.0.2.1", "prefixlen": 24}
    told: list[dict[str, object]] = [{"ifname": "enp0s3", "addr_info": [here]}]
    assert networks.missing(new, told) == ["2001:db8::1/64 on enp0s3"]
