"""The builder: what each concept looks like, and what nft could not hold."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from appliance.plan.model import PortRange
from appliance.render import nft, nft_text
from appliance.render.services import merged

SET = nft.Set("bad-6", nft.Family.IPV6, (ip_network("2001:db8::/32"),), "bad", prefixes=True)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (nft.iifname("eth0"), 'iifname "eth0"'),
        (nft.oifname("eth0", "eth1"), 'oifname { "eth0", "eth1" }'),
        (nft.oifname("eth0", other_than=True), 'oifname != "eth0"'),
        (nft.saddr(ip_network("10.0.0.0/8")), "ip saddr 10.0.0.0/8"),
        (nft.daddr(ip_network("10.0.0.1/32")), "ip daddr 10.0.0.1"),
        (nft.daddr(ip_network("2001:db8::1/128")), "ip6 daddr 2001:db8::1"),
        (nft.saddr(SET), "ip6 saddr @bad-6"),
        (nft.daddr(SET), "ip6 daddr @bad-6"),
        (nft.dport("tcp", [(25, 25)]), "tcp dport 25"),
        (nft.dport("udp", [(53, 53), (100, 200)]), "udp dport { 53, 100-200 }"),
        (nft.dnat(ip_address("10.0.0.1"), 80), "dnat ip to 10.0.0.1:80"),
        (nft.dnat(ip_address("2001:db8::1"), 80), "dnat ip6 to [2001:db8::1]:80"),
        (nft.dnat(ip_address("2001:db8::1"), None), "dnat ip6 to 2001:db8::1"),
        (nft.snat(ip_address("10.0.0.1")), "snat ip to 10.0.0.1 persistent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_part_reads_as_nft_writes_it(part, text):
    assert part.text == text


def test_a_match_that_is_not_wanted_leaves_no_trace():
    chain = nft.Chain("one", (nft.rule(None, nft.loopback(), None, nft.accept()),))
    text = nft_text.text(nft.Table("t", (), (chain,)), "A test.")
    assert '\tchain one {\n\t\tiif "lo" accept\n\t}' in text


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('say "please"', "say 'please'"),
        ("two\nlines\tand\r\na tab", "two lines and a tab"),
        ("x" * 200, "x" * 128),
        ("x" * 127 + "é", "x" * 127),
        ("é" * 64, "é" * 64),
    ],
)
def test_a_comment_is_what_the_kernel_can_keep(said, kept):
    assert nft_text.kept_comment(said) == kept


def test_overlapping_and_adjacent_ports_become_one_range():
    ports = [PortRange(80, 80), PortRange(20, 25), PortRange(24, 30), PortRange(31, 31)]
    assert merged(ports) == [(20, 31), (80, 80)]
