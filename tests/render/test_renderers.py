"""What single renderers do at the edges of a plan that no golden site reaches."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

from appliance.plan.model import DestinationNat, Origin, Role
from appliance.render import ruleset
from appliance.render.site import CONNTRACKD, KEEPALIVED, render
from tests.render.plans import NETWORKS, network, plan


def test_addresses_that_no_advert_can_hold_move_with_the_role_all_the_same():
    many = tuple(ip_interface(f"2001:db8::{number:x}/64") for number in range(16, 16 + 100))
    inside = replace(
        network("inside", "enp0s3", Role.TRAFFIC, "2001:db8::1/64", "2001:db8::2/64"), virtual=many
    )
    site = plan((inside, *NETWORKS[1:]), rules=(), source_nat=())
    text = render(site)["fw1"][KEEPALIVED].content
    advertised, rest = text.split("virtual_ipaddress_excluded")
    assert advertised.count("2001:db8::") - 2 == 89
    assert rest.count("2001:db8::") == 11


def test_state_travels_over_ipv6_where_the_sync_network_has_nothing_else():
    sync = network("sync", "enp0s5", Role.SYNC, "2001:db8:3::1/64", "2001:db8:3::2/64")
    files = render(plan((*NETWORKS[:2], sync)))["fw1"]
    assert "IPv6_Destination_Address 2001:db8:3::2" in files[CONNTRACKD].content


def test_translation_of_any_destination_spares_the_peer():
    entry = DestinationNat("inside", None, None, (), ip_address("192.168.1.3"), None, Origin(9, 1))
    text = ruleset.render(plan(destination_nat=(entry,)), "fw1")
    spared = text.index("ip saddr 192.168.3.2 ip daddr 192.168.3.1 accept")
    assert spared < text.index("dnat ip to 192.168.1.3")
    assert "meta nfproto ipv4 counter dnat ip to 192.168.1.3" in text


def test_what_the_nodes_send_each_other_names_the_two_of_them_only():
    one, two = (ruleset.render(plan(), node) for node in ("fw1", "fw2"))
    assert "ip saddr 192.168.3.2 ip daddr 192.168.3.1 udp dport 3780" in one
    assert "ip saddr 192.168.3.1 ip daddr 192.168.3.2 udp dport 3780" in two
