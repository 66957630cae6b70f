"""Who lives around the appliance, for the three example sites and for odd ones."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.lab import services, topology
from appliance.lab.expect import Landing, land
from appliance.plan.model import Plan, Role
from appliance.site import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def plan(name: str) -> Plan:
    return load(EXAMPLES / f"{name}.yaml")


def told(hosts: tuple[topology.Host, ...]) -> list[tuple[str, ...]]:
    return [
        (h.name, *map(str, h.addresses), *(f"behind {a}" for a in h.behind), *map(str, h.routers))
        for h in hosts
    ]


def test_testcase() -> None:
    assert told(topology.hosts(plan("testcase"))) == [
        ("inside", "192.168.0.3/24", "192.168.0.100"),
        ("outside", "192.168.1.3/24", "192.168.1.100"),
    ]


def test_mail_firewall_has_what_is_off_its_links_behind_the_next_hop() -> None:
    behind = tuple(f"behind 192.168.2.{n}" for n in (88, 61, 62))
    assert told(topology.hosts(plan("mail-firewall"))) == [
        ("front", "192.168.0.1/24", "192.168.0.40"),
        ("back", "192.168.1.50/24", *behind, "192.168.1.40"),
        ("back-2", "192.168.1.60/24", "192.168.1.40"),
    ]


def test_who_lives_elsewhere_is_not_made_up_and_clients_are() -> None:
    hosts = topology.hosts(plan("mail-firewall"), {"front": 2, "back": 1}, elsewhere=["back"])
    assert told(hosts) == [
        ("front", "192.168.0.1/24", "192.168.0.40"),
        ("front-clients", "192.168.0.10/24", "192.168.0.11/24", "192.168.0.40"),
        ("back-clients", "192.168.1.10/24", "192.168.1.40"),
    ]


def test_a_single_router_is_its_hosts_gateway_by_its_own_address() -> None:
    assert told(topology.hosts(plan("branch"))) == [
        ("front", "192.168.0.1/24", "192.168.0.201"),
        ("back", "192.168.9.202/24", "192.168.9.1"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_host_has_an_address_of_the_appliance_and_no_two_the_same(name: str) -> None:
    hosts = topology.hosts(plan(name))
    every = [a.ip for h in hosts for a in h.addresses] + [a for h in hosts for a in h.behind]
    assert len(every) == len(set(every))
    assert not set(every) & topology.own_addresses(plan(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_traffic_network_is_inhabited_and_no_other(name: str) -> None:
    networks = plan(name).networks.values()
    traffic = {n.name for n in networks if n.role is Role.TRAFFIC}
    assert {host.network for host in topology.hosts(plan(name))} == traffic


@pytest.mark.parametrize("name", NAMES)
def test_every_end_of_an_expectation_is_somebody(name: str) -> None:
    site = plan(name)
    hosts = topology.hosts(site)
    for claim in site.expectations:
        for address in (claim.source, claim.destination):
            known = any(host.answers(address) for host in hosts)
            assert known or address in topology.own_addresses(site)


def test_a_network_that_nothing_names_still_gets_a_host() -> None:
    bare = replace(plan("testcase"), expectations=(), source_nat=(), rules=())
    assert told(topology.hosts(bare)) == [
        ("inside", "192.168.0.10/24", "192.168.0.100"),
        ("outside", "192.168.1.10/24", "192.168.1.100"),
    ]


def test_an_address_that_no_route_leads_to_lives_where_the_site_says_it_is() -> None:
    site = plan("testcase")
    stray = replace(site.expectations[0], source=ip_address("10.9.9.9"))
    hosts = topology.hosts(replace(site, expectations=(stray,)))
    assert next(h.network for h in hosts if h.answers(ip_address("10.9.9.9"))) == "inside"


def edge() -> Plan:
    return load(Path(__file__).resolve().parents[1] / "render/golden/edge/site.yaml")


def test_a_tagged_network_is_inhabited_on_its_own_and_a_set_by_one_of_each_version() -> None:
    hosts = {host.name: host for host in topology.hosts(edge())}
    assert hosts["dmz"].network == "dmz"
    assert [str(a) for a in hosts["dmz"].addresses] == ["10.0.30.40/24", "2001:db8:30::a/64"]
    assert hosts["guests"].network == "guests"
    behind = {str(address) for host in hosts.values() for address in host.behind}
    assert "192.0.2.66" in behind
    assert "2001:db8:bad::a" in behind


def test_the_tagged_card_of_a_host_is_made_once() -> None:
    vlan = edge().networks["dmz"].vlan
    assert vlan is not None
    script = services.tag("enp0s4", "vlan30", vlan)
    assert script == (
        "[ -e /sys/class/net/vlan30 ] || ip link add link enp0s4 name vlan30 type vlan id 30; "
        "ip link set vlan30 up"
    )


def test_the_scripts_for_a_host_and_what_it_serves() -> None:
    host = topology.hosts(plan("mail-firewall"))[1]
    script = services.namespace("mail-firewall", host, {"back": "enp0s4"})
    assert "ip link add link enp0s4 name eth0 netns back address 52:54:" in script
    assert "addr add 192.168.1.50/24 dev eth0\n" in script
    assert "addr add 192.168.2.88 dev lo\n" in script
    assert "route add default via 192.168.1.40\n" in script
    programs = [line.split()[3] for line in services.serve(host).splitlines()]
    assert programs == ["nginx", "sshd", "vsftpd", "echo", "iperf3"]


def test_a_claim_is_followed_through_destination_nat() -> None:
    site = plan("branch")
    claim = replace(
        plan("testcase").expectations[0],
        from_="front",
        source=ip_address("192.168.0.1"),
        destination=ip_address("192.168.0.202"),
    )
    assert land(site, claim, 25) == (at("192.168.9.202", 25),)
    assert land(site, claim, 26) == (at("192.168.0.202", 26),)
    elsewhere = replace(claim, from_="back")
    assert land(site, elsewhere, 25) == (at("192.168.0.202", 25),)


def at(address: str, port: int) -> Landing:
    return Landing(ip_address(address), ip_address(address), port)
