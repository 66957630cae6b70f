"""What the good site files mean, and what the short forms of the format stand for."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from appliance.plan.model import (
    Action,
    DestinationNat,
    DropLog,
    Expectation,
    LogHost,
    Node,
    Origin,
    Pair,
    Per,
    Plan,
    PortRange,
    Protocol,
    Rate,
    Role,
    Route,
    Rule,
    Servers,
    Service,
    SourceNat,
    Ssh,
    Transport,
    Verdict,
    VirtualRouter,
    Vlan,
)
from appliance.site import load

EXAMPLES = Path(__file__).parents[2] / "examples"
TEN = Rate(10, Per.SECOND)


def tcp(*ports: int) -> Service:
    return Service(Protocol.TCP, tuple(PortRange(port, port) for port in ports))


def plan_of(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return load(path)


def test_testcase() -> None:
    plan = load(EXAMPLES / "testcase.yaml")
    assert plan.site == "testcase"
    assert plan.nodes == (Node("fw1", 150), Node("fw2", 100))
    assert list(plan.networks) == ["inside", "outside", "sync"]
    inside = plan.networks["inside"]
    assert (inside.interface, inside.role) == ("enp0s3", Role.TRAFFIC)
    assert inside.own("fw2", 4) == ip_interface("192.168.0.2/24")
    assert inside.own("fw2", 6) is None
    assert inside.virtual == (ip_interface("192.168.0.100/24"),)
    assert inside.prefixes() == (ip_network("192.168.0.0/24"),)
    assert plan.networks["sync"].role is Role.SYNC
    assert [rule.services for rule in plan.rules] == [
        (Service(Protocol.TCP),),
        (Service(Protocol.TCP, (PortRange(21, 21),), helper="ftp"),),
        (Service(Protocol.ICMP),),
    ]
    assert plan.source_nat == (
        SourceNat(
            from_="inside",
            to="outside",
            source=ip_network("192.168.0.3"),
            destination=None,
            services=(),
            address=ip_address("192.168.1.100"),
            origin=Origin(31, 5),
        ),
    )
    assert plan.log == DropLog(dropped=True, invalid=True, limit=TEN)
    assert plan.pair == Pair(
        advert_ms=100,
        preempt=False,
        sync=("sync",),
        routers=(
            VirtualRouter("inside", 4, 51, (ip_interface("192.168.0.100/24"),)),
            VirtualRouter("outside", 4, 52, (ip_interface("192.168.1.100/24"),)),
        ),
    )
    assert plan.ssh == Ssh(("inside", "sync"), ())
    assert plan.expectations == (
        Expectation(
            "inside",
            ip_address("192.168.0.3"),
            "outside",
            ip_address("192.168.1.3"),
            tcp(22),
            Verdict.ACCEPT,
            Origin(37, 5),
        ),
        Expectation(
            "outside",
            ip_address("192.168.1.3"),
            "inside",
            ip_address("192.168.0.3"),
            tcp(22),
            Verdict.DROP,
            Origin(38, 5),
        ),
    )


def test_mail_firewall() -> None:
    plan = load(EXAMPLES / "mail-firewall.yaml")
    assert plan.pair is not None
    assert (plan.pair.advert_ms, plan.pair.preempt) == (1000, False)
    assert [(r.network, r.vrid, len(r.addresses)) for r in plan.pair.routers] == [
        ("front", 51, 3),
        ("back", 52, 1),
    ]
    assert plan.networks["front"].gateways == (ip_address("192.168.0.1"),)
    assert plan.networks["back"].routes == (
        Route(ip_network("192.168.2.0/24"), ip_address("192.168.1.50"), Origin(20, 9)),
    )
    assert plan.rules[0] == Rule(
        from_="front",
        to=None,
        to_self=False,
        source=None,
        destination=ip_network("192.168.1.60"),
        services=(tcp(25),),
        action=Action.ACCEPT,
        comment=None,
        origin=Origin(30, 7),
    )
    assert plan.destination_nat == tuple(
        DestinationNat(
            from_="front",
            source=None,
            destination=ip_network(before),
            services=(tcp(port),),
            address=ip_address(after),
            port=None,
            origin=Origin(line, 5),
        )
        for before, port, after, line in [
            ("192.168.0.60", 25, "192.168.1.60", 37),
            ("192.168.0.88", 3389, "192.168.2.88", 38),
        ]
    )
    assert [str(nat.address) for nat in plan.source_nat] == [
        "192.168.0.60",
        "192.168.0.60",
        "192.168.0.40",
        "192.168.0.40",
    ]
    assert plan.log == DropLog(dropped=True, invalid=False, limit=TEN)


def test_branch() -> None:
    plan = load(EXAMPLES / "branch.yaml")
    assert plan.nodes == (Node("gw", 100),)
    assert plan.pair is None
    assert plan.peer("gw") is None
    assert plan.networks["front"].aliases == {"gw": (ip_interface("192.168.0.202/24"),)}
    assert plan.networks["back"].aliases == {"gw": ()}
    assert [str(nat.address) for nat in plan.source_nat] == ["192.168.0.202", "192.168.0.201"]


@pytest.mark.parametrize("name", ["testcase", "mail-firewall", "branch"])
def test_the_digest_is_what_sha256sum_prints_and_the_file_has_no_folder(name: str) -> None:
    path = EXAMPLES / f"{name}.yaml"
    plan = load(path)
    assert plan.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plan.file == path.name


ONE = """\
site: one
nodes: {gw: }
networks:
  lan: {interface: eth0, addresses: {gw: 10.0.0.1/24}}
"""

PAIR = """\
site: two
nodes: {a: {priority: 200}, b: {}}
networks:
  wan:
    interface: eth0
    addresses: {a: [192.0.2.1/24, 2001:db8::1/64], b: [192.0.2.2/24, 2001:db8::2/64]}
    virtual: [2001:db8::9/64, 192.0.2.9/32, fe80::9/64]
    gateway: [192.0.2.254, fe80::1]
  lan:
    interface: eth1
    addresses: {a: 10.0.0.1/24, b: 10.0.0.2/24}
    virtual: 10.0.0.9/24
"""


def test_the_smallest_site_lets_nothing_through(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ONE)
    assert plan.rules == plan.source_nat == plan.destination_nat == plan.expectations == ()
    assert plan.log == DropLog(dropped=False, invalid=False, limit=TEN)
    assert plan.ssh is None


def test_the_families_are_virtual_routers_of_their_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f"{PAIR}ha: {{sync: lan, vrid: 7, advert: 0.25s, preempt: On}}\n")
    assert plan.pair == Pair(
        advert_ms=250,
        preempt=True,
        sync=("lan",),
        routers=(
            VirtualRouter("wan", 4, 7, (ip_interface("192.0.2.9/32"),)),
            VirtualRouter(
                "wan", 6, 8, (ip_interface("2001:db8::9/64"), ip_interface("fe80::9/64"))
            ),
            VirtualRouter("lan", 4, 9, (ip_interface("10.0.0.9/24"),)),
        ),
    )
    assert plan.networks["wan"].gateways == (ip_address("192.0.2.254"), ip_address("fe80::1"))


@pytest.mark.parametrize(
    ("text", "ms"), [("10ms", 10), ("1s", 1000), ("40.95s", 40950), ("0.01s", 10), ("1.5s", 1500)]
)
def test_adverts(tmp_path: Path, text: str, ms: int) -> None:
    pair = plan_of(tmp_path, f"{PAIR}ha: {{sync: lan, advert: {text}}}\n").pair
    assert pair is not None
    assert pair.advert_ms == ms


@pytest.mark.parametrize(
    ("stated", "services"),
    [
        ("tcp", (Service(Protocol.TCP),)),
        ("udp/53", (Service(Protocol.UDP, (PortRange(53, 53),)),)),
        ("tcp/8000-8010", (Service(Protocol.TCP, (PortRange(8000, 8010),)),)),
        ("[ssh, tcp/22, http]", (tcp(22), tcp(80))),
        ("domain", (tcp(53), Service(Protocol.UDP, (PortRange(53, 53),)))),
        ("backup", (tcp(8730), tcp(8731))),
        ("[icmp, icmpv6]", (Service(Protocol.ICMP), Service(Protocol.ICMPV6))),
    ],
)
def test_services(tmp_path: Path, stated: str, services: tuple[Service, ...]) -> None:
    rule = f"firewall: {{rules: [{{from: lan, service: {stated}}}]}}\n"
    plan = plan_of(tmp_path, f"{ONE}services: {{backup: [tcp/8730, tcp/8731]}}\n{rule}")
    assert plan.rules[0].services == services


def test_services_of_the_other_ip_version_fall_away(tmp_path: Path) -> None:
    rule = "firewall: {rules: [{from: lan, source: 10.0.0.0/8, service: [icmpv6, icmp]}]}\n"
    assert plan_of(tmp_path, ONE + rule).rules[0].services == (Service(Protocol.ICMP),)


def test_a_helper_is_for_what_is_let_through(tmp_path: Path) -> None:
    rule = "firewall: {rules: [{from: lan, service: ftp, action: drop}]}\n"
    assert plan_of(tmp_path, ONE + rule).rules[0].services == (tcp(21),)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("{from: any}", (None, None, False)),
        ("{from: any, to: any}", (None, None, False)),
        ("{from: lan, to: lan}", ("lan", "lan", False)),
        ("{from: lan, to: self}", ("lan", None, True)),
        ("{to: self}", (None, None, True)),
    ],
)
def test_where_a_rule_holds(
    tmp_path: Path, stated: str, expected: tuple[str | None, str | None, bool]
) -> None:
    (rule,) = plan_of(tmp_path, f"{ONE}firewall: {{rules: [{stated}]}}\n").rules
    assert (rule.from_, rule.to, rule.to_self) == expected


@pytest.mark.parametrize(
    ("stated", "log"),
    [
        ("{dropped: {limit: 3/s}, invalid: no}", DropLog(True, False, Rate(3, Per.SECOND))),
        ("{dropped: {limit: 90/minute}}", DropLog(True, False, Rate(90, Per.MINUTE))),
        ("{dropped: {}}", DropLog(True, False, TEN)),
        ("{dropped: off, invalid: TRUE}", DropLog(False, True, TEN)),
    ],
)
def test_logging(tmp_path: Path, stated: str, log: DropLog) -> None:
    assert plan_of(tmp_path, f"{ONE}firewall: {{log: {stated}}}\n").log == log


def test_nat_targets(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        f"""{PAIR}ha: {{sync: lan}}
nat:
  - {{from: wan, destination: 192.0.2.9, service: tcp/2222, dnat: "10.0.0.40:22"}}
  - {{from: wan, destination: 2001:db8::9, service: udp, dnat: "[2001:db8:1::40]:5353"}}
  - {{from: lan, to: wan, snat: 203.0.113.1}}
""",
    )
    targets = [(nat.address, nat.port) for nat in plan.destination_nat]
    assert targets == [
        (ip_address("10.0.0.40"), 22),
        (ip_address("2001:db8:1::40"), 5353),
    ]
    # On no link of ours: it may be routed to the pair.
    assert plan.source_nat[0].address == ip_address("203.0.113.1")


TAGGED = """\
  voice: {vlan: {on: lan, id: 30}, addresses: {gw: 10.1.0.1/24}}
  guests: {vlan: {on: wan, id: 30}, addresses: {gw: 10.2.0.1/24}}
  wan: {interface: eth1, addresses: {gw: 192.0.2.1/24}, gateway: 192.0.2.254}
  dmz: {vlan: {on: lan, id: 4094}, addresses: {gw: 10.3.0.1/24}}
"""


def test_tagged_networks_have_cards_of_their_own_names(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ONE + TAGGED)
    assert {name: network.interface for name, network in plan.networks.items()} == {
        "lan": "eth0",
        "voice": "vlan30",
        "guests": "vlan30-2",
        "wan": "eth1",
        "dmz": "vlan4094",
    }
    assert plan.networks["guests"].vlan == Vlan("wan", 30)
    assert [plan.card(name) for name in plan.networks] == ["lan", "lan", "wan", "wan", "lan"]


SETS = """\
sets:
  both: {type: address, elements: [10.0.0.128/25, "2001:db8::/33", 10.0.0.0/24, 192.0.2.7]}
  lone: {elements: 10.0.0.0/8}
"""


def test_a_set_is_as_few_prefixes_as_do(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f'{ONE}{SETS}firewall: {{rules: [{{source: "@both"}}]}}\n')
    both, lone = plan.sets
    assert both.of(4) == (ip_network("10.0.0.0/24"), ip_network("192.0.2.7"))
    assert both.of(6) == (ip_network("2001:db8::/33"),)
    assert (lone.name, lone.elements) == ("lone", (ip_network("10.0.0.0/8"),))
    assert plan.rules[0].source is both
    assert ip_address("10.0.0.200") in both
    assert ip_address("2001:db8:8000::1") not in both


@pytest.mark.parametrize(
    ("stated", "protocols"),
    [
        ('source: "@both", service: [icmp, icmpv6]', (Protocol.ICMP, Protocol.ICMPV6)),
        ('source: "@lone", service: [icmp, icmpv6]', (Protocol.ICMP,)),
        ('source: "@both", destination: "::/0", service: [icmp, icmpv6]', (Protocol.ICMPV6,)),
    ],
)
def test_a_set_decides_which_services_there_are(
    tmp_path: Path, stated: str, protocols: tuple[Protocol, ...]
) -> None:
    (rule,) = plan_of(tmp_path, f"{ONE}{SETS}firewall: {{rules: [{{{stated}}}]}}\n").rules
    assert tuple(service.protocol for service in rule.services) == protocols


@pytest.mark.parametrize(
    ("stated", "rate"),
    [
        ("1/s", Rate(1, Per.SECOND)),
        ("90/minute", Rate(90, Per.MINUTE)),
        ("10000/hour", Rate(10000, Per.HOUR)),
    ],
)
def test_limits(tmp_path: Path, stated: str, rate: Rate) -> None:
    (rule,) = plan_of(
        tmp_path, f"{ONE}firewall: {{rules: [{{from: lan, limit: {stated}}}]}}\n"
    ).rules
    assert rule.limit == rate


def test_servers_on_a_link_behind_a_route_and_behind_the_gateway(tmp_path: Path) -> None:
    text = f"""{ONE}{TAGGED}  far:
    interface: eth2
    addresses: {{gw: "2001:db8::1/64"}}
    routes: [{{to: "2001:db8:aa::/48", via: "2001:db8::2"}}]
management:
  syslog: [{{address: 10.1.0.9}}, {{address: "2001:db8:aa::9", port: 1514, protocol: tcp}}]
  ntp: [203.0.113.123, "2001:db8:aa::123"]
  dns: 10.0.0.53
"""
    assert plan_of(tmp_path, text).servers == Servers(
        syslog=(
            LogHost(ip_address("10.1.0.9"), 514, Transport.UDP),
            LogHost(ip_address("2001:db8:aa::9"), 1514, Transport.TCP),
        ),
        ntp=(ip_address("203.0.113.123"), ip_address("2001:db8:aa::123")),
        dns=(ip_address("10.0.0.53"),),
    )


def test_keys_of_every_kind_that_ssh_keygen_makes(tmp_path: Path) -> None:
    made = (Path(__file__).parent / "keys.pub").read_text().splitlines()
    listed = "".join(f"      - {key}\n" for key in made)
    plan = plan_of(tmp_path, f"{ONE}management:\n  ssh:\n    from: lan\n    keys:\n{listed}")
    assert plan.ssh == Ssh(("lan",), tuple(made))
    assert len({key.split()[0] for key in made}) == 5


def test_scalars_keep_the_text_of_the_file(tmp_path: Path) -> None:
    """What YAML 1.1 would read as a truth, an octal number or base 60 stays a name."""
    text = """\
site: on
nodes: {no: }
networks:
  yes: {interface: e0777, addresses: {no: 10.0.0.1/24}}
firewall:
  rules:
    - {from: yes, comment: 0755}
    - {from: yes, comment: 52:54:00:12:34:56}
"""
    plan = plan_of(tmp_path, text)
    assert (plan.site, plan.nodes[0].name, list(plan.networks)) == ("on", "no", ["yes"])
    assert [rule.comment for rule in plan.rules] == ["0755", "52:54:00:12:34:56"]


def test_a_byte_order_mark_and_other_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + ONE.replace("\n", "\r\n").encode())
    assert load(path).site == "one"


def test_firmware_is_for_real_machines_and_stays_in_its_order(tmp_path: Path) -> None:
    text = (EXAMPLES / "testcase.yaml").read_text()
    file = tmp_path / "site.yaml"
    file.write_text(f"{text}\nhardware: {{firmware: [intel-microcode, firmware-bnx2x]}}\n")
    assert load(file).firmware == ("intel-microcode", "firmware-bnx2x")
