"""What becomes of balanced packets, as far as a kernel without IPVS shows it, and odd renderings.

A packet that is let in for IPVS comes up to this kernel's own TCP instead: it answers by a reset,
which the ruleset keeps from leaving a virtual address, and counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path, PurePosixPath

import pytest

from appliance.plan.model import Verdict
from appliance.plan.virtual import Forward
from appliance.render import balancing, ipvs, ruleset
from appliance.render.site import BALANCING, KEEPALIVED, KEEPALIVED_UNIT, render
from appliance.site import load
from tests.render import golden
from tests.render.bench import play
from tests.render.packets import ACK, ICMP, RST, SYN, UDP, packet, tcp

PUBLIC, SERVERS = "enp0s3", "enp0s4"
VIRTUAL = (f"{PUBLIC} 203.0.113.10/24", f"{SERVERS} 10.11.12.1/24")
CLIENT, SERVICE, SERVER = "203.0.113.7", "203.0.113.10", "10.11.12.21"
LET_IN = ("resets",)

WAN = ("wan0 198.51.100.10/24", "wan0 198.51.100.11/24", "wan0 2001:db8:1::10/64")


def ftp(*steps):
    return play(golden.rendered("ftp-lvs")["lb1"], list(steps), *VIRTUAL)


def balancer(*steps):
    return play(golden.rendered("balancer")["lb1"], list(steps), *WAN)


def plan(name: str):
    return load(golden.HERE / name / "site.yaml")


def test_what_the_ftp_cluster_expects_holds():
    claims = plan("ftp-lvs").expectations
    results = ftp(
        *(
            (PUBLIC, tcp(str(c.source), str(c.destination), c.service.ports[0].first))
            for c in claims
        )
    )
    passed = [seen.counted == LET_IN for seen in results]
    assert passed == [claim.verdict is Verdict.ACCEPT for claim in claims]
    assert [seen.counted for seen in results[2:]] == [("refused-input",), ("refused-forward",)]
    assert set(passed) == {True, False}


@pytest.mark.parametrize("name", ["web-bundle", "mail-balancer", "ftp-lvs", "lone-balancer"])
def test_beside_what_ipvs_translates_there_is_a_chain_for_nat(name: str):
    """Without any, conntrackd takes it for untranslated (vmtests/test_balanced_web.py)."""
    site = plan(name)
    text = ruleset.render(site, site.nodes[0].name)
    assert "type nat hook postrouting" in text
    aside = tuple(replace(each, forward=Forward.DIRECT) for each in site.virtual_services)
    text = ruleset.render(replace(site, virtual_services=aside), site.nodes[0].name)
    assert "type nat" not in text


def test_a_segment_without_state_does_not_get_as_far_as_the_nodes_own_tcp():
    (seen,) = ftp((PUBLIC, tcp(CLIENT, SERVICE, 40000, 21, flags=ACK)))
    assert (seen.out, seen.counted) == ((), ("invalid",))


def test_a_service_is_not_open_from_a_network_that_nothing_is_routed_out_of():
    (seen,) = ftp(("enp0s5", tcp("172.31.255.2", SERVICE, 21)))
    assert (seen.out, seen.counted) == ((), ("refused-input",))


def test_active_data_comes_from_the_virtual_address_and_its_answer_finds_the_server():
    data, answer = ftp(
        (SERVERS, tcp(SERVER, CLIENT, 20, 50000)),
        (PUBLIC, tcp(CLIENT, SERVICE, 50000, 20, flags=SYN | ACK)),
    )
    assert [(card, str(p.source), p.ports) for card, p in data.out] == [
        (PUBLIC, SERVICE, (20, 50000))
    ]
    assert [(card, str(p.destination)) for card, p in answer.out] == [(SERVERS, SERVER)]


@pytest.mark.parametrize(
    ("source", "ports"), [(SERVER, (21, 50000)), (SERVER, (20, 80)), ("10.11.12.7", (20, 50000))]
)
def test_a_server_opens_nothing_but_data_connections(source, ports):
    (seen,) = ftp((SERVERS, tcp(source, CLIENT, *ports)))
    assert (seen.out, seen.counted) == ((), ("refused-forward",))


def test_what_answers_another_way_is_let_in_whatever_connection_tracking_thinks():
    """And ICMP errors about it: nobody listens here, so that only the counters stand still."""
    begun, error, other = balancer(
        ("wan0", tcp("198.51.100.7", "198.51.100.10", 40000, 80, flags=ACK)),
        ("wan0", packet("198.51.100.7", "198.51.100.10", ICMP, 3, 0)),
        ("wan0", packet("198.51.100.7", "198.51.100.10", ICMP, 8, 0)),
    )
    assert begun.counted == LET_IN
    assert error.counted == ()
    assert other.counted == ("refused-input",)


def test_the_rules_of_the_site_can_refuse_a_client():
    dropped, rejected, free = balancer(
        ("wan0", tcp("198.51.100.60", "198.51.100.11", 25)),
        ("wan0", tcp("2001:db8:1::7", "2001:db8:1::10", 21)),
        ("wan0", tcp("198.51.100.7", "198.51.100.11", 25)),
    )
    assert (dropped.out, dropped.counted) == ((), ())
    assert [card for card, _ in rejected.out] == ["wan0"]
    assert not any(each.flags & RST for _, each in rejected.out)
    assert free.counted == LET_IN


def test_destination_nat_leaves_virtual_services_alone():
    balanced, translated = balancer(
        ("wan0", tcp("198.51.100.7", "198.51.100.10", 80)),
        ("wan0", tcp("198.51.100.7", "198.51.100.2", 80)),
    )
    assert balanced.counted == LET_IN
    assert translated.counted == ("refused-forward",)


def test_udp_is_told_from_tcp_and_by_its_ports():
    log, other = balancer(
        ("wan0", packet("198.51.100.7", "198.51.100.10", UDP, 514)),
        ("wan0", packet("198.51.100.7", "198.51.100.10", UDP, 515)),
    )
    assert [(card, each.protocol, each.ports[0]) for card, each in log.out] == [("wan0", ICMP, 3)]
    assert other.counted == ("refused-input",)


# Renderings


def test_a_server_that_answers_itself_sees_the_client():
    chain = ruleset.render(plan("balancer"), "lb1").partition("chain source-nat")[2]
    spared = chain.index("meta mark { 80, 1000080, 190117, 753177 } accept")
    assert spared < chain.index("snat ip to")


def test_any_number_of_services_costs_one_lookup():
    """In a map without ranges the kernel hashes; in one with them it goes through all."""
    text = ruleset.render(plan("balancer"), "lb1")
    rules = [line.strip() for line in text.splitlines() if "meta mark set" in line]
    maps = [rule.partition(" map @")[2] for rule in rules]
    assert maps == ["marks4", "ranges4", "marks6", "ranges6"]
    for rule, name in zip(rules, maps, strict=True):
        ranges = name.startswith("ranges")
        assert rule.startswith("meta mark 0 ") is ranges
        held = text.partition(f"map {name} {{")[2].partition("\n\t}")[0]
        assert ("flags interval" in held) is ranges
        assert bool(re.search(r"(tcp|udp) \. \d+-\d+ :", held)) is ranges
    assert len(balancing.maps(plan("balancer"))[0].elements) > 10


def chain(text: str, name: str) -> list[str]:
    """The rules of one chain."""
    body = text.partition(f"chain {name} {{\n")[2].partition("\n\t}")[0]
    return [line.strip() for line in body.splitlines()]


def test_an_answer_to_what_a_node_opened_itself_is_not_balanced():
    """A service may have the port that it came from: those of passive FTP, on a single node."""
    rules = chain(ruleset.render(plan("lone-balancer"), "gate"), "marks")
    marking = next(i for i, rule in enumerate(rules) if "meta mark set" in rule)
    assert "ct direction reply accept" in rules[:marking]


def with_rules(tmp_path: Path, *rules: str) -> str:
    """The ruleset of the balancer with these rules alone."""
    head, _, rest = (golden.HERE / "balancer/site.yaml").read_text().partition("  rules:\n")
    after = rest[re.search(r"^\S", rest, re.MULTILINE).start() :]
    lines = "".join(f"    - {each}\n" for each in rules)
    path = tmp_path / "site.yaml"
    path.write_text(f"{head}  rules:\n{lines}{after}")
    return ruleset.render(load(path), "lb1")


CLOSED = "{from: wan, service: tcp/80, action: drop}"


def test_of_a_connection_that_is_half_seen_a_limit_counts_the_first_segment_alone(tmp_path):
    text = with_rules(tmp_path, "{from: wan, service: tcp/80, limit: 50/s}", CLOSED)
    begun, limited, closed, _ = chain(text, "balanced")
    match = 'iifname "wan0" tcp dport 80'
    assert begun.startswith("tcp flags & (fin | syn | rst | ack) != syn " + match)
    assert limited.startswith(match + " limit name")
    assert begun.split(" counter ")[1] == limited.split(" counter ")[1]
    assert closed.startswith(match + " counter drop")


def test_what_is_said_of_the_node_itself_is_not_said_of_services(tmp_path):
    text = with_rules(tmp_path, "{from: wan, to: self, action: drop}")
    assert chain(text, "balanced") == ["counter accept"]
    assert any("drop" in rule for rule in chain(text, "input")[1:])


def test_the_rules_of_the_site_come_before_active_ftp(tmp_path):
    rules = chain(with_rules(tmp_path, "{from: dmz, to: wan, action: drop}"), "forward")
    dropped = next(i for i, rule in enumerate(rules) if "counter drop" in rule)
    assert dropped < next(i for i, rule in enumerate(rules) if "tcp sport 20" in rule)


def test_a_helper_is_for_connections_that_are_not_balanced():
    text = ruleset.render(plan("balancer"), "lb1")
    assert "meta mark 0 jump helpers" in text
    assert "chain helpers {\n\t\tiifname" in text


def test_the_scripts_of_checks_can_be_run():
    script = render(plan("balancer"))["lb1"][PurePosixPath("etc/appliance/checks/farm")]
    assert script.mode == 0o755
    assert script.content.startswith("#!/bin/sh\n# The address")


def test_only_what_a_check_needs_is_allowed_to_keepalived():
    site = plan("balancer")
    by_name = {service.name: service for service in site.virtual_services}
    needs = {
        name: ipvs.unit(replace(site, virtual_services=(service,)))
        for name, service in by_name.items()
    }
    assert needs["farm"] == "[Service]\nCapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL\n"
    assert needs["web"] == "[Service]\nMemoryDenyWriteExecute=no\n"
    assert not any(needs[name] for name in needs if name not in ("farm", "web"))
    assert KEEPALIVED_UNIT not in render(plan("ftp-lvs"))["lb1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ok", '"ok"'),
        ('say "ok"', r'"say \x22ok\x22"'),
        (r"\d+\.", r'"\\d+\\."'),
        ("a\\\\", '"a\\\\\\\\"'),
    ],
)
def test_a_regex_is_handed_on_whole(text, said):
    assert ipvs.quoted(text) == said


def test_state_of_a_peer_with_several_addresses_is_taken_from_each():
    site = plan("ftp-lvs")
    sync = site.networks["sync"]
    more = {**sync.addresses, "lb2": (*sync.addresses["lb2"], sync.addresses["lb1"][0])}
    networks = {**site.networks, "sync": replace(sync, addresses=more)}
    text = ruleset.render(replace(site, networks=networks), "lb1")
    assert "ip saddr { 172.31.255.2, 172.31.255.1 } ip daddr 224.0.0.81 udp dport 8848" in text


def test_a_site_without_virtual_services_is_as_it_was():
    for path, file in render(plan("testcase"))["fw1"].items():
        assert "vs." not in str(path)
        assert "ip_vs" not in file.content
        assert "virtual_server" not in file.content


def test_the_sync_daemons_are_the_agents_and_not_keepalived_s():
    files = render(plan("mail-balancer"))["lb1"]
    assert "lvs_sync_daemon" not in files[KEEPALIVED].content
    channel = json.loads(files[BALANCING].content)["channel"]
    assert (channel["interface"], channel["sync_id"]) == ("enp0s8", 51)
    (service,) = plan("mail-balancer").virtual_services
    assert service.of(4) == (ip_address("192.168.1.60"),)
