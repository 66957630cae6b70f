"""What virtual services mean: defaults, marks, warnings."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from zlib import crc32

import pytest

from appliance import cli
from appliance.explain import explain
from appliance.plan.model import Plan, PortRange, Protocol, Service
from appliance.plan.virtual import (
    Check,
    DnsCheck,
    Forward,
    Ftp,
    HttpCheck,
    OnFailure,
    Persistence,
    PingCheck,
    RecordType,
    Scheduler,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
    VirtualService,
)
from appliance.site import load

EXAMPLES = Path(__file__).parents[2] / "examples"

PAIR = """\
site: two
nodes: {a: {}, b: {}}
networks:
  wan:
    interface: eth0
    addresses: {a: [192.0.2.1/24, 2001:db8::1/64], b: [192.0.2.2/24, 2001:db8::2/64]}
    virtual: [192.0.2.9/24, 192.0.2.10/24, 2001:db8::9/64]
  lan:
    interface: eth1
    addresses: {a: 10.0.0.1/24, b: 10.0.0.2/24}
    virtual: 10.0.0.3/24
ha: {sync: lan}
virtual_services:
"""


def plan_of(tmp_path: Path, *services: str) -> Plan:
    path = tmp_path / "site.yaml"
    path.write_text(PAIR + "".join(f"  {each}\n" for each in services))
    return load(path)


def service(tmp_path: Path, text: str) -> VirtualService:
    """One service on a server in the farm, with these keys besides."""
    plan = plan_of(
        tmp_path, f"one: {{address: 192.0.2.9, servers: [{{address: 10.0.0.7}}], {text}}}"
    )
    (found,) = plan.virtual_services
    return found


def tcp(first: int, last: int | None = None) -> Service:
    return Service(Protocol.TCP, (PortRange(first, last or first),))


def test_the_ftp_cluster() -> None:
    (ftp,) = load(EXAMPLES / "ftp-lvs.yaml").virtual_services
    assert ftp.addresses == (ip_address("203.0.113.10"),)
    assert ftp.ports == (tcp(21), tcp(10000, 20000))
    assert ftp.marks == {4: 21}
    assert (ftp.forward, ftp.scheduler) == (Forward.NAT, Scheduler.WLC)
    assert ftp.persistence == Persistence(300, {})
    assert ftp.ftp == Ftp(PortRange(10000, 20000), active=True)
    assert ftp.check == Check(TcpCheck(), 21, 2000, 1000, 2, 1000)
    assert [str(server.address(4)) for server in ftp.servers] == ["10.11.12.21", "10.11.12.22"]


def test_the_web_bundle_and_the_mail_balancer() -> None:
    web, shell = load(EXAMPLES / "web-bundle.yaml").virtual_services
    page = HttpCheck(
        tls=False,
        path="/healthz",
        statuses=((200, 200),),
        digest=None,
        regex=None,
        virtual_host=None,
    )
    assert web.check == Check(page, 80, 2000, 1000, 2, 1000)
    assert web.sorry == (ip_address("10.11.12.33"),)
    assert shell.check == Check(TcpCheck(), 22, 5000, 3000, 2, 1000)
    (mail,) = load(EXAMPLES / "mail-balancer.yaml").virtual_services
    assert mail.check == Check(SmtpCheck(None), 25, 10_000, 15_000, 2, 6000)
    assert mail.on_failure is OnFailure.WEIGHT_ZERO


@pytest.mark.parametrize(
    ("said", "scheduler"),
    [
        ("ports: tcp/80", Scheduler.WLC),
        ("ports: tcp/80, persistence: off", Scheduler.WLC),
        ("ports: tcp/80, persistence: 1s", Scheduler.MH),
        ("ports: tcp/21, ftp: {passive: 3000-3999}", Scheduler.MH),
    ],
)
def test_who_must_come_back_to_its_server_is_led_by_its_address(tmp_path, said, scheduler) -> None:
    assert service(tmp_path, said).scheduler is scheduler


@pytest.mark.parametrize(
    ("said", "kind", "port"),
    [
        ("ports: tcp/80", TcpCheck(), 80),
        ("ports: [udp/443, tcp/443]", TcpCheck(), 443),
        ("ports: tcp/8000-8010", TcpCheck(), 8000),
        ("ports: [tcp/587, tcp/25]", SmtpCheck(None), 587),
        ("ports: [udp/53, tcp/53]", DnsCheck(".", RecordType.SOA), 53),
        ("ports: [tcp/53, udp/53]", DnsCheck(".", RecordType.SOA), 53),
        ("ports: tcp/53", TcpCheck(), 53),
        ("ports: udp/514", PingCheck(), None),
        ("ports: udp/514, check: {port: 22}", TcpCheck(), 22),
        ("ports: tcp/25, check: {port: 26}", SmtpCheck(None), 26),
        ("ports: tcp/80, check: {tcp: 22}", TcpCheck(), 22),
        ("ports: [tcp/465, tcp/25], check: {smtp: }", SmtpCheck(None), 25),
        ("ports: tcp/465, check: {smtp: {}}", SmtpCheck(None), 465),
        ("ports: udp/161, check: {udp: }", UdpCheck(None), 161),
        ("ports: tcp/80, check: {ping: }", PingCheck(), None),
    ],
)
def test_how_health_is_known(tmp_path, said, kind, port) -> None:
    check = service(tmp_path, said).check
    assert (check.kind, check.port) == (kind, port)


def test_https_is_asked_at_its_own_port(tmp_path: Path) -> None:
    assert service(tmp_path, "ports: [tcp/80, tcp/443], check: {https: }").check.port == 443


def test_a_datagram_without_an_answer_is_waited_for(tmp_path: Path) -> None:
    quiet = service(tmp_path, "ports: udp/161, check: {udp: }").check
    answered = service(tmp_path, "ports: udp/161, check: {udp: {payload: AB}, timeout: 1s}").check
    assert (quiet.timeout_ms, answered.timeout_ms) == (4000, 1000)
    assert answered.kind == UdpCheck("ab")


@pytest.mark.parametrize(
    ("said", "lengths"),
    [
        ("{time: 5s}", {}),
        ("{time: 5s, netmask: 24}", {4: 24}),
        ("{time: 5s, netmask: {4: 16}}", {4: 16}),
    ],
)
def test_clients_that_count_as_one(tmp_path, said, lengths) -> None:
    assert service(tmp_path, f"ports: tcp/80, persistence: {said}").persistence == Persistence(
        5, lengths
    )


def one(name: str, port: int, more: str = "") -> str:
    place = "address: 192.0.2.9, servers: [{address: 10.0.0.7}]"
    return f"{name}: {{{place}, ports: tcp/{port}{more}}}"


def marks(tmp_path: Path, *services: str) -> dict[str, int]:
    return {each.name: each.marks[4] for each in plan_of(tmp_path, *services).virtual_services}


def test_a_mark_comes_of_the_name_alone(tmp_path: Path) -> None:
    web, mail = one("web", 80), one("mail", 25)
    both = marks(tmp_path, web, mail)
    assert both["web"] == 100_000 + crc32(b"web") % 900_000
    assert marks(tmp_path, web) == {"web": both["web"]}
    assert marks(tmp_path, one("more", 8080), mail, web).items() > both.items()


def test_a_mark_that_is_taken_goes_to_the_next(tmp_path: Path) -> None:
    mark = 100_000 + crc32(b"web") % 900_000
    found = marks(tmp_path, one("web", 80), one("other", 81, f", mark: {mark}"))
    assert found == {"web": mark + 1, "other": mark}


def test_the_families_have_marks_of_their_own(tmp_path: Path) -> None:
    (found,) = plan_of(
        tmp_path,
        "one: {address: [2001:db8::9, 192.0.2.9], mark: 7, ports: tcp/80, forward: tunnel, "
        "servers: [{address: [198.51.100.1, 2001:db8:f::1]}]}",
    ).virtual_services
    assert found.marks == {4: 7, 6: 1_000_007}
    assert found.versions == (4, 6)


def test_a_direct_ftp_service_has_the_clients_half_of_active_data(tmp_path: Path) -> None:
    text = "ports: tcp/21, ftp: {passive: 3000-3999, active: yes}"
    assert service(tmp_path, text).ranges(Protocol.TCP)[-1] == PortRange(3000, 3999)
    direct = service(tmp_path, f"forward: direct, {text}")
    assert direct.ranges(Protocol.TCP)[-1] == PortRange(20, 20)


def run(command: str, site: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["appliance", command, str(site)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_a_warning_is_shown_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert run("check", Path("ftp-lvs.yaml")) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        "ftp-lvs.yaml:30:16: warning: persistence with wlc does not outlive every takeover\n"
        "    hint: a rebooted node does not know who was where; by mh both nodes choose alike\n"
    )
    assert "1 virtual service, 4 expectations" in shown.out


@pytest.mark.parametrize("scheduler", [each for each in Scheduler if each is not Scheduler.MH])
def test_only_by_mh_do_both_nodes_lead_a_client_alike(tmp_path: Path, scheduler: Scheduler) -> None:
    text = one("web", 80, f", persistence: 9s, scheduler: {scheduler}")
    (warning,) = plan_of(tmp_path, text).warnings
    assert warning.what == f"persistence with {scheduler} does not outlive every takeover"


@pytest.mark.parametrize("said", ["ports: tcp/80, persistence: 9s", "ports: tcp/80, scheduler: rr"])
def test_nothing_is_warned_of_without_need(tmp_path: Path, said: str) -> None:
    text = f"one: {{address: 192.0.2.9, servers: [{{address: 10.0.0.7}}], {said}}}"
    assert plan_of(tmp_path, text).warnings == ()


@pytest.mark.parametrize(
    ("rule", "warned"),
    [
        ("{from: any, action: drop}", True),
        ("{from: wan, action: reject}", True),
        ("{from: wan, to: self, action: drop}", False),
        ("{from: wan, source: 192.0.2.7, action: drop}", False),
        ("{from: any}", False),
    ],
)
def test_a_refusal_of_everything_is_warned_of(tmp_path: Path, rule: str, warned: bool) -> None:
    rules = f"firewall:\n  rules: [{rule}]\nvirtual_services:\n"
    path = tmp_path / "site.yaml"
    path.write_text(PAIR.replace("virtual_services:\n", rules) + f"  {one('web', 80)}\n")
    what = ["this refuses the clients of the virtual services as well"] if warned else []
    assert [each.what for each in load(path).warnings] == what


# What the real servers are told


def test_servers_behind_nat_are_told_their_gateway_and_ftp_its_address(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("explain", EXAMPLES / "ftp-lvs.yaml") == 0
    said = capsys.readouterr().out
    assert "10.11.12.21, 10.11.12.22: the default gateway is 10.11.12.1." in said
    for line in ("pasv_address=203.0.113.10", "pasv_min_port=10000", "pasv_max_port=20000"):
        assert f"\n    {line}\n" in said
    assert "\n    MasqueradeAddress 203.0.113.10\n    PassivePorts 10000 20000\n" in said
    assert "\n    ForcePassiveIP 203.0.113.10\n    PassivePortRange 10000 20000\n" in said
    assert "connect_from_port_20=YES" in said


def test_other_servers_are_told_to_hold_the_address_and_how(
    capsys: pytest.CaptureFixture[str],
) -> None:
    golden = Path(__file__).parents[1] / "render" / "golden" / "balancer" / "site.yaml"
    assert run("explain", golden) == 0
    said = capsys.readouterr().out
    assert "    Name=lo\n\n    [Address]\n    Address=198.51.100.10/32\n    Scope=host\n" in said
    assert "    net.ipv4.conf.all.arp_ignore = 1\n    net.ipv4.conf.all.arp_announce = 2\n" in said
    assert "    Name=tunl0\n" in said
    assert "    net.ipv4.conf.tunl0.rp_filter = 0\n" in said
    second = said[said.index("# vsftpd-ipv6.conf") :]
    assert second.startswith("# vsftpd-ipv6.conf\n    listen=NO\n    listen_ipv6=YES\n")
    assert "pasv_address" not in second[: second.index("net.ipv6.bindv6only = 1")]


def test_the_sorry_server_is_told_what_the_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", EXAMPLES / "web-bundle.yaml") == 0
    said = capsys.readouterr().out
    assert "  10.11.12.33, the sorry server: the same goes for it\n" in said
    assert "10.11.12.31, 10.11.12.32, 10.11.12.33: the default gateway is 10.11.12.1." in said


def test_a_network_without_a_virtual_address_is_no_way_back(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(PAIR.replace("    virtual: 10.0.0.3/24\n", "") + f"  {one('web', 80)}\n")
    plan = load(path)
    (warning,) = plan.warnings
    assert warning.what == "network 'lan' has no virtual IPv4 address"
    assert "network lan has no virtual address of IPv4" in explain(plan)


def test_a_site_without_virtual_services_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", EXAMPLES / "testcase.yaml") == 0
    assert capsys.readouterr().out == (
        "testcase.yaml has no virtual services: nothing is asked of other machines.\n"
    )
