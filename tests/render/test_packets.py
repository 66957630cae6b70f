"""What the rendered rulesets do to packets, proven on this machine's kernel in a namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.plan.model import Protocol, Verdict
from appliance.render.site import render
from appliance.site import load
from tests.render import golden
from tests.render.bench import LOCAL, play
from tests.render.packets import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP, UDP, VRRP, packet, tcp

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERS = {Protocol.TCP: TCP, Protocol.UDP: UDP, Protocol.ICMP: ICMP, Protocol.ICMPV6: ICMPV6}

A, B = "192.168.0.3", "192.168.1.3"
INSIDE, OUTSIDE, SYNC = "enp0s3", "enp0s4", "enp0s5"
VIRTUAL = (f"{INSIDE} 192.168.0.100/24", f"{OUTSIDE} 192.168.1.100/24")


def bench(*steps):
    """The active node of the test case: what it makes of these packets."""
    return play(golden.rendered("testcase")["fw1"], list(steps), *VIRTUAL)


def test_what_the_testcase_expects_holds():
    plan = load(EXAMPLES / "testcase.yaml")
    steps = [
        (
            plan.networks[claim.from_].interface,
            packet(
                str(claim.source),
                str(claim.destination),
                NUMBERS[claim.service.protocol],
                claim.service.ports[0].first,
                flags=SYN,
            ),
        )
        for claim in plan.expectations
    ]
    results = play(render(plan)["fw1"], steps, *VIRTUAL)
    passed = [bool(seen.out) for seen in results]
    assert passed == [claim.verdict is Verdict.ACCEPT for claim in plan.expectations]
    assert set(passed) == {True, False}


def test_source_nat_rewrites_only_the_host_that_the_site_names():
    named, other = bench((INSIDE, tcp(A, B, 40000, 22)), (INSIDE, tcp("192.168.0.7", B, 40000, 22)))
    assert [(card, str(each.source)) for card, each in named.out] == [(OUTSIDE, "192.168.1.100")]
    assert [(card, str(each.source)) for card, each in other.out] == [(OUTSIDE, "192.168.0.7")]


def test_an_answer_comes_back_to_the_host_behind_source_nat():
    _, answer = bench(
        (INSIDE, tcp(A, B, 40000, 22)),
        (OUTSIDE, tcp(B, "192.168.1.100", 22, 40000, flags=SYN | ACK)),
    )
    assert [(card, str(each.destination)) for card, each in answer.out] == [(INSIDE, A)]


def test_a_segment_of_an_unknown_connection_vanishes_without_an_answer():
    """What a new active node sees before the state is committed: silence, never a reset."""
    through, to_virtual = bench(
        (INSIDE, tcp(A, B, 40000, 22, flags=ACK)),
        (OUTSIDE, tcp(B, "192.168.1.100", 22, 40000, flags=ACK)),
    )
    assert (through.out, to_virtual.out) == ((), ())
    assert through.counted == to_virtual.counted == ("invalid",)


@pytest.mark.parametrize("flags", [ACK, SYN | ACK, FIN | ACK, RST, 0])
def test_a_connection_opens_by_a_plain_syn_only(flags):
    """Even where the kernel takes up connections in their middle, and calls an ACK new."""
    files = golden.rendered("testcase")["fw1"]
    (seen,) = play(files, [(INSIDE, tcp(A, B, 40000, 22, flags=flags))], *VIRTUAL, loose=True)
    assert seen.out == ()
    assert seen.counted in (("invalid",), ("not-opening",))


def test_a_reset_never_leaves_a_virtual_address():
    from_virtual, from_own = bench(
        (LOCAL, tcp("192.168.1.100", B, 22, 40000, flags=RST)),
        (LOCAL, tcp("192.168.1.1", B, 22, 40000, flags=RST)),
    )
    assert (from_virtual.out, from_virtual.counted) == ((), ("resets",))
    assert [card for card, _ in from_own.out] == [OUTSIDE]


def test_vrrp_and_state_come_from_the_peer_on_the_link_only():
    """Nobody listens here: the kernel's own ICMP shows that a packet came up to it."""
    vrrp, state, stranger, elsewhere = bench(
        (INSIDE, packet("192.168.0.2", "192.168.0.1", VRRP, hops=255)),
        (SYNC, packet("192.168.3.2", "192.168.3.1", UDP, 3780)),
        (INSIDE, packet("192.168.0.3", "192.168.0.1", VRRP, hops=255)),
        (INSIDE, packet("192.168.0.2", "192.168.0.1", UDP, 3780)),
    )
    assert [(card, each.protocol) for card, each in vrrp.out] == [(INSIDE, ICMP)]
    assert [(card, each.protocol) for card, each in state.out] == [(SYNC, ICMP)]
    assert [seen.counted for seen in (stranger, elsewhere)] == [("refused-input",)] * 2


def test_vrrp_from_beyond_the_link_is_refused_even_while_the_nodes_are_talking():
    *_, far = bench(
        (INSIDE, packet("192.168.0.2", "192.168.0.1", VRRP, hops=255)),
        (LOCAL, packet("192.168.0.1", "192.168.0.2", VRRP, hops=255)),
        (INSIDE, packet("192.168.0.2", "192.168.0.1", VRRP, hops=254)),
    )
    assert (far.out, far.counted) == ((), ("refused-input",))


def test_a_ping_to_the_appliance_is_answered_only_where_the_site_opens_it():
    (closed,) = bench((INSIDE, packet(A, "192.168.0.100", ICMP, 8, 1)))
    assert (closed.out, closed.counted) == ((), ("refused-input",))


def test_login_is_open_to_the_link_on_the_own_address_and_nowhere_else():
    own, virtual, routed, outside, sync = bench(
        (INSIDE, tcp(A, "192.168.0.1", 22)),
        (INSIDE, tcp(A, "192.168.0.100", 22)),
        (INSIDE, tcp(A, "192.168.1.1", 22)),
        (OUTSIDE, tcp(B, "192.168.1.1", 22)),
        (SYNC, tcp("192.168.3.7", "192.168.3.1", 22)),
    )
    # Nobody listens here: the kernel's own reset shows that the packet came up to it.
    assert [each.flags & RST for _, each in own.out] == [RST]
    assert [each.flags & RST for _, each in sync.out] == [RST]
    assert [each.counted for each in (virtual, routed, outside)] == [("refused-input",)] * 3


def test_a_source_that_does_not_belong_on_the_link_is_dropped():
    foreign, own = bench((INSIDE, tcp(B, B, 22)), (INSIDE, tcp("192.168.0.1", B, 22)))
    assert [each.out for each in (foreign, own)] == [(), ()]
    assert foreign.counted == ("spoofed",)


@pytest.mark.parametrize(
    ("source", "destination"), [(A, "192.168.3.2"), ("192.168.3.7", B)], ids=["into", "out of"]
)
def test_nothing_is_routed_through_the_sync_network(source, destination, tmp_path):
    text = (EXAMPLES / "testcase.yaml").read_text()
    lax = tmp_path / "lax.yaml"
    lax.write_text(text.replace("from: inside, to: outside, service: tcp}", "from: any}"))
    card = INSIDE if source == A else SYNC
    (seen,) = play(render(load(lax))["fw1"], [(card, tcp(source, destination, 22))], *VIRTUAL)
    assert (seen.out, seen.counted) == ((), ("refused-forward",))


def test_what_is_forwarded_to_a_server_needs_its_rule_and_answers_from_the_virtual_address():
    files = golden.rendered("mail-firewall")["fw1"]
    mail, answer, other = play(
        files,
        [
            ("enp0s3", tcp("192.168.0.7", "192.168.0.60", 40000, 25)),
            ("enp0s8", tcp("192.168.1.60", "192.168.0.7", 25, 40000, flags=SYN | ACK)),
            ("enp0s3", tcp("192.168.0.7", "192.168.0.60", 40000, 26)),
        ],
        "enp0s3 192.168.0.60/24",
        "enp0s8 192.168.1.40/24",
    )
    assert [(card, str(each.destination)) for card, each in mail.out] == [
        ("enp0s8", "192.168.1.60")
    ]
    assert [str(each.source) for _, each in answer.out] == ["192.168.0.60"]
    assert (other.out, other.counted) == ((), ("refused-input",))


def test_a_refusal_answers_by_reset_through_the_node_and_by_icmp_at_it():
    files = golden.rendered("dual-stack")["north"]
    through, at, through6 = play(
        files,
        [
            ("lan0", tcp("10.0.0.7", "198.51.100.7", 25)),
            ("wan0", tcp("198.51.100.7", "198.51.100.10", 113)),
            ("lan0", tcp("2001:db8:2::7", "2001:db8:1::7", 25)),
        ],
        "wan0 198.51.100.10/24",
    )
    assert [(card, each.flags & RST) for card, each in through.out] == [("lan0", RST)]
    assert [(card, each.protocol, each.ports[0]) for card, each in at.out] == [("wan0", ICMP, 3)]
    assert [(card, each.flags & RST) for card, each in through6.out] == [("lan0", RST)]


def test_ipv6_passes_by_the_same_rules():
    files = golden.rendered("dual-stack")["north"]
    web, other, ping, foreign = play(
        files,
        [
            ("lan0", tcp("2001:db8:2::7", "2001:db8:1::7", 443)),
            ("wan0", tcp("2001:db8:1::7", "2001:db8:2::7", 443)),
            ("lan0", packet("2001:db8:2::7", "2001:db8:2::2", ICMPV6, 128, 1)),
            ("wan0", tcp("2001:db8:2::7", "2001:db8:1::2", 443)),
        ],
    )
    assert [card for card, _ in web.out] == ["wan0"]
    assert (other.out, other.counted) == ((), ("refused-forward",))
    assert [(card, each.ports[0]) for card, each in ping.out] == [("lan0", 129)]
    assert (foreign.out, foreign.counted) == ((), ("spoofed",))


LIMITED = """\
site: limited
nodes: {gw: }
networks:
  lan: {interface: lan0, addresses: {gw: 10.0.0.1/24}}
  wan: {interface: wan0, addresses: {gw: [192.0.2.1/24, "2001:db8:1::1/64"]}}
sets:
  # Adjacent, overlapping, and both versions under one name.
  few: {elements: [10.0.0.2, 10.0.0.2/31, 10.0.0.4/30, "2001:db8:1::/64"]}
  all: {elements: [0.0.0.0/0]}
firewall:
  rules:
    - {from: lan, to: wan, source: "@few", destination: "@all", service: udp/7, limit: 2/hour}
    - {to: self, source: "@few", service: [icmp, icmpv6]}
    - {from: lan, to: wan, service: [udp/9, tcp/9], limit: 2/hour}
nat:
  - {from: lan, to: wan, source: "@few", snat: 192.0.2.1}
"""


def limited(tmp_path, *steps):
    site = tmp_path / "limited.yaml"
    site.write_text(LIMITED)
    return play(render(load(site))["gw"], list(steps))


def test_a_set_holds_its_elements_of_both_versions_and_no_others(tmp_path):
    four, six, left_out, out6 = limited(
        tmp_path,
        ("lan0", packet("10.0.0.7", "10.0.0.1", ICMP, 8, 1)),
        ("wan0", packet("2001:db8:1::7", "2001:db8:1::1", ICMPV6, 128, 1)),
        ("lan0", packet("10.0.0.60", "10.0.0.1", ICMP, 8, 1)),
        ("wan0", packet("192.0.2.7", "192.0.2.1", ICMP, 8, 1)),
    )
    assert [(card, each.ports[0]) for card, each in four.out] == [("lan0", 0)]
    assert [(card, each.ports[0]) for card, each in six.out] == [("wan0", 129)]
    assert [each.counted for each in (left_out, out6)] == [("refused-input",)] * 2


def test_a_set_says_whose_source_is_rewritten(tmp_path):
    held, other = limited(
        tmp_path,
        ("lan0", packet("10.0.0.3", "192.0.2.7", UDP, 9)),
        ("lan0", packet("10.0.0.60", "192.0.2.7", UDP, 9)),
    )
    assert [str(each.source) for _, each in held.out] == ["192.0.2.1"]
    assert [str(each.source) for _, each in other.out] == ["10.0.0.60"]


def test_what_is_over_the_limit_falls_through_and_a_known_connection_is_not_limited(tmp_path):
    opening = [("lan0", packet("10.0.0.2", "192.0.2.7", UDP, number, 7)) for number in (1, 2, 3)]
    answer = ("wan0", packet("192.0.2.7", "192.0.2.1", UDP, 7, 1))
    first, second, over, back, known = limited(tmp_path, *opening, answer, opening[0])
    assert [len(each.out) for each in (first, second, back, known)] == [1, 1, 1, 1]
    assert (over.out, over.counted) == ((), ("refused-forward",))


def test_all_protocols_of_a_rule_share_its_limit(tmp_path):
    one, two, three = limited(
        tmp_path,
        ("lan0", packet("10.0.0.2", "192.0.2.7", UDP, 9)),
        ("lan0", tcp("10.0.0.2", "192.0.2.7", 9)),
        ("lan0", tcp("10.0.0.3", "192.0.2.7", 9)),
    )
    assert [len(each.out) for each in (one, two, three)] == [1, 1, 0]


def test_a_tagged_network_is_filtered_as_any_other():
    """Its card is a plain one on this bench: that its frames bear tags is not the filter's."""
    files = golden.rendered("edge")["edge1"]
    inward, outward, beyond = play(
        files,
        [
            ("enp0s4", tcp("10.0.0.7", "10.0.30.60", 22)),
            ("vlan30", tcp("10.0.30.7", "10.0.0.7", 22)),
            ("vlan30", tcp("10.0.30.7", "198.51.100.7", 443)),
        ],
        "enp0s3 198.51.100.10/24",
    )
    assert [card for card, _ in inward.out] == ["vlan30"]
    assert (outward.out, outward.counted) == ((), ("refused-forward",))
    assert [(card, str(each.source)) for card, each in beyond.out] == [("enp0s3", "198.51.100.10")]
