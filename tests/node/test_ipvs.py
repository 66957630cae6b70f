"""IPVS by bytes: its tables over generic netlink, its list of connections, its sync messages."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.node import balancing, ipvs, ipvs_replay
from appliance.node.balancing import Balancing, Channel, Claim
from appliance.node.ipvs import Counts, Daemon, Sync, Table
from appliance.node.ipvs_connections import LARGEST, entry, messages, reader
from appliance.node.ipvs_replay import replay
from appliance.render import balanced
from appliance.site import load
from tests.node import ipvs_bytes as kernel
from tests.render import golden

WEB, FTP, DIRECT = 80, 21, 90
VIP, VIP6 = "198.51.100.10", "2001:db8:1::10"

CLAIMS = (
    Claim(ip_address(VIP), "tcp", 80, 80, WEB),
    Claim(ip_address(VIP), "udp", 443, 443, WEB),
    Claim(ip_address(VIP), "tcp", 10000, 20000, FTP),
    Claim(ip_address(VIP6), "tcp", 80, 80, 1000080),
    Claim(ip_address(VIP), "tcp", 8080, 8080, DIRECT),
)
GROUP = ip_address("224.0.0.81")
CHANNEL = Channel("lo", ip_address("127.0.0.1"), GROUP, 8848, 51)
SITE = Balancing((), CLAIMS, CHANNEL)


def table() -> Table:
    """Marks with their servers; FTP is persistent, the last forwards directly."""
    asked = [
        (kernel.service(WEB), [("10.0.30.31", 3, (5, 9, 0), 0), ("10.0.30.32", 0, (1, 0, 0), 0)]),
        (
            kernel.service(FTP, flags=1, timeout=300, scheduler=b"mh"),
            [("10.0.30.41", 1, (2, 0, 4), 0)],
        ),
        (kernel.service(1000080, family=10), [("2001:db8:30::31", 1, (0, 1, 0), 0)]),
        (kernel.service(DIRECT), [("10.0.30.43", 1, (1, 1, 0), 3)]),
    ]
    services = tuple(
        ipvs.service(said, tuple(ipvs.server(kernel.dest(a, w, c, forward=f)) for a, w, c, f in to))
        for said, to in asked
    )
    return Table(services, (ipvs.daemon(kernel.daemon(1, "sync0", 51)),))


# The tables


def test_services_and_servers_are_read_from_the_kernels_bytes() -> None:
    read = table()
    web, ftp, web6, direct = read.services
    assert (web.version, web.mark, web.scheduler, web.persistence) == (4, 80, "wlc", None)
    assert (ftp.scheduler, ftp.persistence) == ("mh", 300)
    assert (web6.version, web6.servers[0].address) == (6, ip_address("2001:db8:30::31"))
    first, second = web.servers
    assert (first.address, first.weight, first.active, first.inactive) == (
        *(ip_address("10.0.30.31"), 3, 5, 9),
    )
    assert second.weight == 0
    assert direct.servers[0].forward == 3
    assert first.counts == Counts(*kernel.STATS)
    assert first.counts.bytes_out_rate == 900
    assert (read.connections, read.templates) == (9, 4)
    assert set(read.by_mark) == {(4, 80), (4, 21), (6, 1000080), (4, 90)}


def test_the_sync_daemon_is_read_from_the_kernels_bytes() -> None:
    assert table().daemons == (Daemon(Sync.MASTER, "sync0", 51),)
    assert ipvs.daemon(kernel.daemon(2, "sync0", 51)).state is Sync.BACKUP


def test_the_request_for_servers_names_family_and_mark() -> None:
    """ip_vs_genl_parse_service needs both, and no more."""
    found = {1: struct.pack("=H", 2), 5: struct.pack("=I", 80), 6: b"wlc\0"}
    expected = kernel.nest(0x8001, kernel.u16(1, 2), kernel.u32(5, 80))
    assert ipvs.which(found) == expected


def test_the_kernel_is_asked_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families, services, the servers of each, daemons; what has no mark is not ours."""
    asked: list[tuple[int, bytes]] = []
    families = kernel.HEAD + kernel.u16(1, 34) + kernel.attribute(2, b"IPVS\0")
    other = kernel.HEAD + kernel.u16(1, 33) + kernel.attribute(2, b"nl80211\0")
    bare = kernel.HEAD + kernel.nest(1, kernel.u16(1, 2))
    answers = {
        (16, 3): [other, families],
        (34, 4): [bare, kernel.service(80)],
        (34, 8): [kernel.dest("10.0.30.31", 3, (1, 2, 3))],
        (34, 11): [kernel.daemon(2, "sync0", 51)],
    }

    def dump(_: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
        asked.append((kind, body[4:]))
        yield from answers[kind, body[0]]

    monkeypatch.setattr(ipvs, "dump", dump)
    read = ipvs.table()
    assert [kind for kind, _ in asked] == [16, 34, 34, 34]
    assert asked[2][1] == kernel.nest(0x8001, kernel.u16(1, 2), kernel.u32(5, 80))
    assert (read.connections, read.templates, len(read.daemons)) == (1, 3, 1)


@pytest.mark.parametrize(
    ("group", "told"),
    [("224.0.0.81", (5, b"\xe0\0\0\x51")), ("ff15::81", (6, b"\xff\x15" + bytes(13) + b"\x81"))],
)
def test_a_sync_daemon_takes_the_place_of_one_that_works_otherwise(
    monkeypatch: pytest.MonkeyPatch, group: str, told: tuple[int, bytes]
) -> None:
    asked: list[tuple[int, bytes]] = []

    def order(_: socket.socket, kind: int, body: bytes) -> None:
        assert kind == 34
        asked.append((body[0], body[4:]))
        if len(asked) == 1:
            raise FileExistsError(17, "it runs already")

    monkeypatch.setattr(ipvs, "family", lambda *_: 34)
    monkeypatch.setattr(ipvs, "order", order)
    ipvs.start(Channel("sync0", ip_address("192.0.2.1"), ip_address(group), 8848, 51), Sync.BACKUP)
    state = kernel.u32(1, 2)
    rest = (kernel.attribute(2, b"sync0\0"), kernel.u32(3, 51), kernel.attribute(*told))
    new, removed, again = asked
    assert new == again == (9, kernel.nest(0x8003, state, *rest))
    assert removed == (10, kernel.nest(0x8003, state))


def test_what_the_kernel_refuses_has_its_own_error() -> None:
    with ipvs.connect(16) as link, pytest.raises(OSError, match="Operation not supported"):
        ipvs.order(link, 16, bytes([255, 1, 0, 0]))


def test_a_kernel_without_ipvs_is_an_error_and_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    other = kernel.HEAD + kernel.u16(1, 33) + kernel.attribute(2, b"nl80211\0")
    monkeypatch.setattr(ipvs, "dump", lambda *_: iter([other]))
    with pytest.raises(OSError, match="no IPVS"):
        ipvs.table()


def test_the_real_kernel_tells_its_families() -> None:
    with ipvs.connect(16) as link:
        assert ipvs.family(link, b"nlctrl\0") == 16


# The list of connections

HEADER = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"


def v4(
    protocol: str, port: int, server: str, state: str, expires: int, *, client: int = 40000
) -> str:
    """As ip_vs_conn_seq_show prints it."""
    ends = [int(ip_address(each)) for each in ("192.0.2.7", VIP, server)]
    return (
        f"{protocol:<3} {ends[0]:08X} {client:04X} {ends[1]:08X} {port:04X}"
        f" {ends[2]:08X} {port:04X} {state:<11} {expires:7}\n"
    )


def template(mark: int, server: str, expires: int) -> str:
    ends = [int(ip_address(each)) for each in ("192.0.2.0", server)]
    return (
        f"IP  {ends[0]:08X} 0000 {mark:08X} 0000 {ends[1]:08X} 0000 {'ASSURED':<11} {expires:7}\n"
    )


def v6(state: str, expires: int) -> str:
    ends = [ip_address(each).exploded for each in ("2001:db8:9::7", VIP6, "2001:db8:30::31")]
    return f"TCP {ends[0]} 9C40 {ends[1]} 0050 {ends[2]} 0050 {state:<11} {expires:7}\n"


def sync_v4(protocol: int, flags: int, state: int, ports: str, *rest: int, ends: tuple[str, ...]):
    """struct ip_vs_sync_v4; the rest are mark and timeout."""
    numbers = map(int, ports.split())
    head = struct.pack("!BBHIHHHHII", 0, protocol, 36, flags, state, *numbers, *rest)
    return head + b"".join(ip_address(each).packed for each in ends)


def read(line: str):
    return reader(SITE, table())(line.encode())


def test_an_established_connection_keeps_what_is_left_of_its_time() -> None:
    found = read(v4("TCP", 80, "10.0.30.31", "ESTABLISHED", 431_000))
    ends = ("192.0.2.7", VIP, "10.0.30.31")
    assert entry(found) == sync_v4(6, 0, 1, "40000 80 80", WEB, 431_000, ends=ends)


@pytest.mark.parametrize(
    ("state", "number"), [("FIN_WAIT", 4), ("TIME_WAIT", 5), ("CLOSE", 6), ("CLOSE_WAIT", 7)]
)
def test_what_is_ending_counts_as_inactive(state: str, number: int) -> None:
    found = read(v4("TCP", 80, "10.0.30.31", state, 60))
    ends = ("192.0.2.7", VIP, "10.0.30.31")
    assert entry(found) == sync_v4(6, 0x100, number, "40000 80 80", WEB, 60, ends=ends)


@pytest.mark.parametrize("state", ["SYN_RECV", "SYN_SENT", "LAST_ACK", "NONE", "LISTEN", "SYNACK"])
def test_the_peer_is_not_told_of_what_the_kernel_does_not_tell_either(state: str) -> None:
    assert read(v4("TCP", 80, "10.0.30.31", state, 60)) is None


def test_udp_is_inactive_and_never_gets_the_whole_time_by_chance() -> None:
    found = read(v4("UDP", 443, "10.0.30.31", "UDP", 0))
    ends = ("192.0.2.7", VIP, "10.0.30.31")
    assert entry(found) == sync_v4(17, 0x100, 0, "40000 443 443", WEB, 1, ends=ends)


def test_the_mark_follows_from_what_the_client_spoke_to() -> None:
    assert read(v4("TCP", 10000, "10.0.30.41", "ESTABLISHED", 9)).mark == FTP
    assert read(v4("TCP", 20000, "10.0.30.41", "ESTABLISHED", 9)).mark == FTP
    assert read(v4("TCP", 20001, "10.0.30.41", "ESTABLISHED", 9)) is None
    assert read(v4("UDP", 80, "10.0.30.31", "UDP", 9)) is None


def test_how_it_forwards_follows_from_the_server() -> None:
    found = read(v4("TCP", 8080, "10.0.30.43", "ESTABLISHED", 9))
    assert found.flags == 0x0003 | 0x0080  # direct, and no answers by here


def test_a_template_gets_its_whole_time() -> None:
    """The kernel takes what it is told for the time of each renewal."""
    found = read(template(FTP, "10.0.30.41", 2))
    mark = str(ip_address(FTP))
    ends = ("192.0.2.0", mark, "10.0.30.41")
    assert found.is_template
    assert entry(found) == sync_v4(0, 0x1000, 1, "0 0 0", FTP, 300, ends=ends)


def test_a_template_of_no_service_is_left_out() -> None:
    assert read(template(4711, "10.0.30.41", 2)) is None
    assert read(template(WEB, "10.0.30.31", 2)) is None  # not persistent any more


def test_ipv6() -> None:
    found = read(v6("ESTABLISHED", 77))
    head = struct.pack("!BBHIHHHHII", 1, 6, 72, 0, 1, 40000, 80, 80, 1000080, 77)
    ends = ("2001:db8:9::7", VIP6, "2001:db8:30::31")
    assert entry(found) == head + b"".join(ip_address(each).packed for each in ends)


def test_a_template_of_ipv6_has_its_mark_first() -> None:
    """A union nf_inet_addr whose `ip` was set."""
    zero = ":0000" * 6
    line = (
        f"IP  {ip_address('2001:db8:9::').exploded} 0000 000f:4290{zero} 0000"
        f" {ip_address('2001:db8:30::31').exploded} 0000 NONE            55\n"
    )
    persistent = kernel.service(1000080, family=10, flags=1, timeout=60)
    server = ipvs.server(kernel.dest("2001:db8:30::31", 1, (0, 0, 1)))
    found = reader(SITE, Table((ipvs.service(persistent, (server,)),), ()))(line.encode())
    assert found is not None
    assert (found.mark, found.expires, found.virtual) == (
        *(1000080, 60, bytes.fromhex("000f4290") + bytes(12)),
    )


def test_the_header_and_other_protocols_are_no_connections() -> None:
    assert read(HEADER) is None
    assert read("\n") is None
    assert read(v4("SCTP", 80, "10.0.30.31", "ESTABLISHED", 9)) is None


# Messages


def many(count: int) -> str:
    lines = (
        v4("TCP", 80, "10.0.30.31", "ESTABLISHED", 1000, client=client)
        for client in range(1024, 1024 + count)
    )
    return "".join(lines)


def parsed(message: bytes, number: int = 51) -> list[bytes]:
    """As ip_vs_process_message takes it apart; it drops what is not exactly so."""
    reserved, sync_id, size, count, version, spare = struct.unpack_from("!BBHBbH", message)
    assert (reserved, sync_id, size, version, spare) == (0, number, len(message), 1, 0)
    entries, at = [], 8
    for _ in range(count):
        length = int.from_bytes(message[at + 2 : at + 4]) & 0x0FFF
        assert message[at + 2] >> 4 == 0  # the version of an entry
        entries.append(message[at : at + length])
        at += length + -length % 4
    assert at == len(message)
    return entries


def test_messages_are_full_and_fit_a_packet() -> None:
    lines = many(100).encode().splitlines()
    made = list(messages(filter(None, map(reader(SITE, table()), lines)), 51))
    assert [len(parsed(each)) for each in made] == [40, 40, 20]
    assert max(map(len, made)) <= LARGEST


def test_both_versions_share_a_message() -> None:
    lines = [v6("ESTABLISHED", 5), v4("TCP", 80, "10.0.30.31", "ESTABLISHED", 5)]
    (made,) = messages([read(each) for each in lines], 7)
    assert [len(each) for each in parsed(made, 7)] == [72, 36]


# The replay


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The kernel's receiver (make_receive_sock), on a loopback that lets us hear ourselves."""
    monkeypatch.setattr(ipvs, "table", table)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        end.bind((str(GROUP), 0))
        joined = struct.pack("=4s4si", GROUP.packed, bytes(4), socket.if_nametoindex("lo"))
        end.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        end.settimeout(5)
        yield end


def channel(peer: socket.socket) -> Balancing:
    port = peer.getsockname()[1]
    to = Channel("lo", ip_address("127.0.0.1"), GROUP, port, 51)
    return Balancing((), CLAIMS, to)


def heard(peer: socket.socket, count: int) -> list[bytes]:
    entries: list[bytes] = []
    while len(entries) < count:
        entries += parsed(peer.recv(2048))
    return entries


@pytest.fixture
def heard_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is its own peer: only for that the messages come back."""
    real = ipvs_replay.connected

    def connected(to: Channel) -> socket.socket:
        link = real(to)
        assert link.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
        assert link.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        return link

    monkeypatch.setattr(ipvs_replay, "connected", connected)


def test_all_of_it_arrives(peer: socket.socket, heard_here: None, tmp_path: Path) -> None:
    listing = tmp_path / "list"
    held = template(FTP, "10.0.30.41", 9)
    listing.write_text(HEADER + many(1000) + held + v4("TCP", 80, "10.0.30.31", "SYN_RECV", 9))
    done = replay(channel(peer), lambda _: False, listing)
    assert (done.connections, done.templates, done.whole) == (1000, 1, True)
    entries = heard(peer, 1001)
    assert [int.from_bytes(each[10:12]) for each in entries[:-1]] == [*range(1024, 2024)]
    assert entries[-1][4:8] == struct.pack("!I", 0x1000)


def test_news_stops_it(peer: socket.socket, heard_here: None, tmp_path: Path) -> None:
    listing = tmp_path / "list"
    listing.write_text(HEADER + many(1000))
    asked: list[float] = []

    def stop(worked: float) -> bool:
        asked.append(worked)
        return len(asked) == 3

    done = replay(channel(peer), stop, listing)
    assert not done.whole
    assert 100 < done.connections < 250  # three pages
    assert len(heard(peer, done.connections)) == done.connections


def test_a_card_that_is_not_there_is_an_error(tmp_path: Path, peer: socket.socket) -> None:
    (tmp_path / "list").write_text(HEADER)
    lost = Channel("nowhere0", ip_address("127.0.0.1"), GROUP, 8848, 51)
    with pytest.raises(OSError, match="no interface"):
        replay(Balancing((), CLAIMS, lost), lambda _: False, tmp_path / "list")


def test_a_large_table_costs_the_sender_little(
    peer: socket.socket, heard_here: None, tmp_path: Path
) -> None:
    """What of the time is ours, without the kernel's to list: some microseconds for each."""
    count = 20_000
    listing = tmp_path / "list"
    listing.write_text(HEADER + many(count))
    began = time.process_time()
    assert replay(channel(peer), lambda _: False, listing).connections == count
    spent = time.process_time() - began
    print(f"\n{spent / count * 1e6:.1f} us of processor time for each connection")
    assert spent / count < 100e-6


# What is rendered


def test_what_is_rendered_is_read_as_it_was_meant() -> None:
    plan = load(golden.HERE / "balancer" / "site.yaml")
    meant = balanced.render(plan, "lb1")
    read_back = balancing.parse(meant)
    assert balancing.text(read_back) == meant
    assert read_back.channel == Channel(
        *("sync0", ip_address("2001:db8:ff::1"), ip_address("ff15::81"), 8848, 51)
    )
    web = read_back.services[0]
    assert (web.name, dict(web.marks)) == ("web", {4: 80, 6: 1000080})
    assert web.servers[0].address(6) == ip_address("2001:db8:30::31")
    claim = Claim(ip_address("198.51.100.11"), "tcp", 10000, 20000, 460366)
    assert claim in read_back.claims


def test_a_lone_node_has_nobody_to_tell() -> None:
    plan = load(golden.HERE / "lone-balancer" / "site.yaml")
    assert balancing.parse(balanced.render(plan, "gate")).channel is None
