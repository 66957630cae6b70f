"""Real servers in the lab: who they are, what they serve and hold, and where packets land."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.explain import explain
from appliance.lab import daemons, postfix, services, topology
from appliance.lab.cells import Kind, Mode, balanced
from appliance.lab.expect import Landing, land
from appliance.lab.serving import Application, serving
from appliance.lab.topology import Host
from appliance.plan.model import Plan
from appliance.site import load

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/render/golden"


def example(name: str) -> Plan:
    return load(ROOT / f"examples/{name}.yaml")


def golden(name: str) -> Plan:
    return load(GOLDEN / name / "site.yaml")


def hosts(plan: Plan, **clients: int) -> dict[str, Host]:
    return {host.name: host for host in topology.hosts(plan, clients)}


def ports(host: Host) -> dict[str, list[str]]:
    return {spoken: [str(port) for port in some] for spoken, some in serving(host).items()}


# Who they are


def test_real_servers_are_named_for_their_service() -> None:
    found = hosts(example("ftp-lvs"))
    assert list(found) == ["public", "public-2", "ftp-1", "ftp-2"]
    assert [str(found[name].addresses[0]) for name in ("ftp-1", "ftp-2")] == [
        "10.11.12.21/24",
        "10.11.12.22/24",
    ]
    assert [str(router) for router in found["ftp-1"].routers] == ["10.11.12.1"]
    assert found["public"].answers(ip_address("203.0.113.1"))


def test_an_address_of_several_services_is_one_host_and_bears_the_name_of_the_first() -> None:
    found = hosts(example("web-bundle"))
    assert list(found) == ["public", "web-1", "web-2", "web-sorry"]
    assert [service.name for service in found["web-1"].serves] == ["web", "shell"]
    assert [service.name for service in found["web-sorry"].serves] == ["web"]


def test_both_addresses_of_a_server_are_on_one_host() -> None:
    web = hosts(example("edge"))["web-1"]
    assert [str(a) for a in web.addresses] == ["10.0.30.31/24", "2001:db8:30::31/64"]
    assert [str(r) for r in web.routers] == ["2001:db8:30::1", "10.0.30.1"]


def test_no_host_of_a_network_gets_the_name_of_a_server(tmp_path: Path) -> None:
    text = (ROOT / "examples/web-bundle.yaml").read_text().replace("  public:", "  web:")
    path = tmp_path / "site.yaml"
    path.write_text(
        text + "expect:\n  - {from: web, source: 203.0.113.77, "
        "destination: 203.0.113.10, service: tcp/80, verdict: accept}\n"
    )
    assert list(hosts(load(path))) == ["web", "web-3", "web-1", "web-2", "web-sorry"]


def test_clients_are_one_host_with_as_many_addresses_of_each_version() -> None:
    clients = hosts(example("edge"), wan=3)["wan-clients"]
    assert [str(a) for a in clients.addresses] == [
        *(f"198.51.100.{n}/24" for n in (12, 13, 14)),
        *(f"2001:db8:1::{n}/64" for n in "abc"),
    ]
    assert clients.client
    assert not serving(clients)
    assert services.serve(clients) == ""


def test_a_server_beyond_the_gateway_is_reached_through_it() -> None:
    found = hosts(golden("balancer"))
    farm, gateway = found["farm-1"], found["wan"]
    assert str(farm.addresses[0]) == "192.0.2.1/32"
    assert ip_address("192.0.2.1") in gateway.onward
    there = services.namespace("balancer", gateway, {"wan": "enp0s3"})
    assert "sysctl -qw net.ipv4.ip_forward=1\n" in there
    assert "route add 192.0.2.1 dev eth0\n" in there
    here = services.namespace("balancer", farm, {"wan": "enp0s3"})
    assert "route add default via 198.51.100.1 dev eth0 onlink\n" in here


def test_a_link_local_gateway_is_an_address_on_the_link() -> None:
    gateway = hosts(golden("balancer"))["wan"]
    assert "fe80::1/64" in [str(a) for a in gateway.addresses]
    assert "fe80::1" not in [str(r) for r in gateway.routers]


# What they serve


def test_a_real_server_serves_what_its_services_ask_for_and_no_more() -> None:
    found = hosts(example("edge"))
    assert ports(found["web-1"]) == {
        "ssh": ["tcp/22"],
        "http": ["tcp/80"],
        "https": ["tcp/443"],
    }
    assert ports(found["ftp-1"]) == {"ftp": ["tcp/21"]}
    assert ports(found["dns-1"]) == {"dns": ["tcp/53", "udp/53"]}
    assert set(ports(found["lan"])) == {"ssh", "ftp", "http", "https", "echo", "iperf3"}


def test_what_a_check_speaks_is_spoken_on_its_port() -> None:
    mail = hosts(golden("balancer"))["mail-1"]
    spoken = ports(mail)
    assert spoken["smtp"] == ["tcp/25", "tcp/587"]
    assert spoken["http"] == ["tcp/8080"]
    assert spoken["dns"] == ["tcp/53", "udp/53"]
    assert spoken["echo"] == [
        "tcp/8081",
        *(f"udp/{n}" for n in (161, 162, 514, 1812, 1813)),
    ]
    assert [d.name for d in daemons.daemons(mail)] == ["nginx", "postfix", "nsd", "echo"]


def test_the_page_of_a_check_is_there_with_its_status() -> None:
    web = hosts(golden("balancer"))["web-1"]
    (nginx,) = [each for each in daemons.daemons(web) if each.name == "nginx"]
    text = "".join(nginx.files.values())
    assert 'location = /healthz { return 200 "web-1 is well\\n"; }' in text
    assert 'location = /who { return 200 "web-1\\n"; }' in text
    assert "listen [::]:443 ssl;" in text
    assert 'location = /healthz { return 503 "' in daemons.health(web, 503)
    assert "location = /healthz { return 302 /; }" in daemons.health(web, 302)
    assert "location = /healthz { echo_sleep 86400;" in daemons.health(web, hangs=True)


def test_a_page_that_is_known_by_plain_text_has_it() -> None:
    plan = golden("balancer")
    web = plan.virtual_services[0]
    kind = replace(web.check.kind, regex="all is well", path="/state?of=me", statuses=())
    changed = replace(web, check=replace(web.check, kind=kind))
    host = replace(hosts(plan)["web-1"], serves=(changed,))
    assert 'location = /state { return 200 "all is well\\n"; }' in daemons.health(host)


@pytest.mark.parametrize("site", ["ftp-lvs", "edge", "balancer"])
def test_ftp_servers_are_as_explain_tells_the_operator(site: str) -> None:
    plan = golden(site) if site == "balancer" else example(site)
    told = [line.strip() for line in explain(plan).splitlines()]
    ftp = hosts(plan)["ftp-1"]
    (vsftpd,) = [each for each in daemons.daemons(ftp) if each.name == "vsftpd"]
    for text in vsftpd.files.values():
        own = text.removeprefix(daemons.VSFTPD).splitlines()
        assert [line for line in own if line not in told] == [
            "listen_port=21",
            "ftpd_banner=ftp-1",
        ]
    assert len(vsftpd.commands) == len(vsftpd.files) == len(ftp.serves[0].versions)


def test_nsd_answers_from_the_address_that_was_asked() -> None:
    plan = golden("balancer")
    host = hosts(plan)["web-1"]
    (text, zone) = daemons.daemon(host, "nsd").files.values()
    for address in ("10.0.30.31", "2001:db8:30::31", "198.51.100.10", "2001:db8:1::10"):
        assert f"  ip-address: {address}@53\n" in text
    assert '* TXT "web-1"\n' in zone


def test_a_program_that_a_host_has_not_from_the_start_can_be_had() -> None:
    inside = hosts(example("testcase"))["inside"]
    assert "postfix" not in [each.name for each in daemons.daemons(inside)]
    assert [str(p) for p in daemons.daemon(inside, "postfix").listens] == ["tcp/25"]
    with pytest.raises(KeyError):
        daemons.daemon(inside, "sendmail")


def test_postfix_takes_refuses_or_passes_on() -> None:
    assert "virtual_transport = virtual\n" in postfix.main("mail-1")
    assert "client_restrictions" not in postfix.main("mail-1")
    assert "smtpd_client_restrictions = reject\n" in postfix.main("mail-1", refuses=True)
    passing = postfix.main("mail-1", relay=ip_address("192.0.2.1"))
    assert "virtual_transport = smtp:[192.0.2.1]:25\n" in passing


# What they hold


def test_with_direct_routing_the_virtual_address_is_on_lo_as_explain_tells_the_operator() -> None:
    plan = golden("balancer")
    host = hosts(plan)["web-1"]
    cards = {"dmz": "enp0s4", "wan": "enp0s3"}
    script = services.namespace("balancer", host, cards)
    told = explain(plan)
    for line in ("net.ipv4.conf.all.arp_ignore = 1", "net.ipv4.conf.all.arp_announce = 2"):
        assert f"    {line}\n" in told
        assert f"ip netns exec web-1 sysctl -qw {line.replace(' ', '')}\n" in script
    assert "addr add 198.51.100.10 dev lo scope host\n" in script
    assert "Address=198.51.100.10/32\n    Scope=host\n" in told
    assert "addr add 2001:db8:1::10 dev lo nodad\n" in script


def test_answers_from_the_virtual_address_do_not_go_by_the_appliance() -> None:
    host = hosts(golden("balancer"))["web-1"]
    assert services.devices(host) == {"dmz": "eth0", "wan": "eth1"}
    script = services.namespace("balancer", host, {"dmz": "enp0s4", "wan": "enp0s3"})
    assert "ip link add link enp0s3 name eth1 netns web-1 " in script
    assert "ip -4 -n web-1 rule add from 198.51.100.10 lookup 100\n" in script
    assert "route add default via 198.51.100.1 dev eth1 onlink table 100\n" in script
    assert "ip -6 -n web-1 rule add from 2001:db8:1::10 lookup 101\n" in script
    assert "route add default via 10.0.30.1\n" in script  # its own packets go by it


def test_at_a_tunnel_the_virtual_address_is_on_its_device() -> None:
    host = hosts(golden("balancer"))["farm-1"]
    script = services.namespace("balancer", host, {"wan": "enp0s3"})
    assert script.index("modprobe ipip\n") < script.index("ip netns add farm-1\n")
    assert "link set tunl0 up\naddr add 198.51.100.11 dev tunl0 scope host\n" in script
    assert "sysctl -qw net.ipv4.conf.tunl0.rp_filter=0\n" in script


def test_programs_are_started_stopped_and_frozen_as_control_groups() -> None:
    host = hosts(golden("balancer"))["ftp-1"]
    (vsftpd,) = daemons.daemons(host)
    first, second = vsftpd.commands
    assert services.launch(host, vsftpd) == (
        f"sh /run/lab/start ftp-1 vsftpd '{first} & exec {second}' &"
    )
    group = "/sys/fs/cgroup/lab/ftp-1/vsftpd"
    assert services.end("ftp-1", "vsftpd").startswith(f"echo 1 >{group}/cgroup.kill; ")
    assert services.freeze("ftp-1", "vsftpd", frozen=True).startswith(
        f"echo 1 >{group}/cgroup.freeze; "
    )


# Where packets land, and what a load can carry


def test_the_destination_of_a_claim_is_any_real_server_of_its_service() -> None:
    plan = example("ftp-lvs")
    control, passive, shell, beside = plan.expectations
    servers = [ip_address(f"10.11.12.{n}") for n in (21, 22)]
    assert land(plan, control, 21) == tuple(Landing(a, a, 21) for a in servers)
    assert land(plan, passive, 15000) == tuple(Landing(a, a, 15000) for a in servers)
    virtual = ip_address("203.0.113.10")
    assert land(plan, shell, 22) == (Landing(virtual, virtual, 22),)
    assert land(plan, beside, 21) == (Landing(servers[0], servers[0], 21),)


def test_without_nat_a_packet_comes_to_the_virtual_address_on_each_server() -> None:
    plan = golden("balancer")
    claim = replace(example("ftp-lvs").expectations[0], destination=ip_address("198.51.100.10"))
    virtual = ip_address("198.51.100.10")
    found = land(plan, claim, 80)
    assert {str(each.host) for each in found} == {"10.0.30.31", "10.0.30.32", "10.0.30.99"}
    assert {each.address for each in found} == {virtual}


def test_a_load_over_a_virtual_service_has_what_its_ports_carry() -> None:
    edge = {service.name: service for service in example("edge").virtual_services}
    ftp = balanced(edge["ftp"], "wan-clients")
    assert {cell.kind for cell in ftp} == {
        Kind.FTP_IDLE,
        Kind.DOWNLOAD,
        Kind.UPLOAD,
        Kind.NEXT,
        Kind.HELD,
    }
    assert {cell.mode for cell in ftp if cell.mode} == set(Mode)
    web = balanced(edge["web"], "wan-clients")
    assert [(cell.kind, str(cell.path.to)) for cell in web] == [
        (Kind.HTTP, "198.51.100.10"),
        (Kind.HTTP, "2001:db8:1::10"),
    ]
    assert {cell.kind for cell in balanced(edge["shell"], "wan")} == {Kind.SSH, Kind.SSH_IDLE}


def test_a_load_from_one_address_goes_to_those_of_its_version() -> None:
    web = example("edge").virtual_services[0]
    source = ip_address("198.51.100.12")
    (cell,) = balanced(web, "wan-clients", source)
    assert cell.path.source == source
    assert str(cell) == "http kept, web at 198.51.100.10 from 198.51.100.12"
    assert cell.path.server == "web"


def test_without_active_ftp_the_client_opens_all_data_connections() -> None:
    ftp = example("ftp-lvs").virtual_services[0]
    assert ftp.ftp is not None
    passive = replace(ftp, ftp=replace(ftp.ftp, active=False))
    modes = {cell.mode for cell in balanced(passive, "public") if cell.mode}
    assert modes == {Mode.PASV, Mode.EPSV}


def test_classic_hosts_have_the_standard_ports() -> None:
    inside = hosts(example("testcase"))["inside"]
    assert [str(p) for p in serving(inside)[Application.ECHO]] == ["tcp/7", "udp/7"]
