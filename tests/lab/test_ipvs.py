"""The kernel's table of virtual services, as a node with both IP versions has it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from appliance.lab.frames import TCP, dissect
from appliance.lab.ipvs import missing, read, weights
from appliance.site import load

GOLDEN = Path(__file__).resolve().parents[1] / "render/golden/balancer/site.yaml"

TABLE = """\
IP Virtual Server version 1.2.1 (size=262144)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00000050 mh persistent 300 FFFFFF00
  -> 0A001E1F:0000      Route   3      1          0
  -> 0A001E20:0000      Route   0      0          4
FWM  000F4290 mh
  -> [2001:0db8:0030:0000:0000:0000:0000:0031]:0000      Route   3      0          0
"""


def test_the_table_is_read_by_mark() -> None:
    assert read(TABLE) == {
        0x50: {ip_address("10.0.30.31"): 3, ip_address("10.0.30.32"): 0},
        0xF4290: {ip_address("2001:db8:30::31"): 3},
    }
    assert read("") == {}


def test_who_is_not_there_or_has_no_weight_is_missing() -> None:
    plan = load(GOLDEN)
    web = plan.virtual_services[0]
    assert web.marks == {4: 0x50, 6: 0xF4290}
    assert set(weights(read(TABLE), web)) == {
        *map(ip_address, ("10.0.30.31", "10.0.30.32", "2001:db8:30::31")),
    }
    told = [words for words in missing(read(TABLE), plan, ()) if words.startswith("web ")]
    assert told == ["web does without 10.0.30.32", "web does without 2001:db8:30::32"]


def test_nothing_is_expected_of_who_is_ailing_or_has_no_weight_by_the_site() -> None:
    plan = load(GOLDEN)
    ill = {
        address
        for service in plan.virtual_services[2:]
        for s in service.servers
        for address in s.addresses
    }
    ill |= set(plan.virtual_services[0].servers[1].addresses)
    assert list(missing(read(TABLE), plan, ill)) == ["farm does without 192.0.2.1"]


def test_a_packet_in_a_tunnel_is_read_as_what_it_carries() -> None:
    inner = bytes.fromhex(
        "4500002800010000400600000a000001cb00710a"  # 10.0.0.1 to 203.0.113.10, TCP
        "30390050000000070000000050020000"
        "00000000"
    )
    outer = bytes.fromhex("4500003c00010000400400000a0000020a000015") + inner
    packet = dissect(bytes(12) + b"\x08\x00" + outer)
    assert (packet.protocol, packet.source_port, packet.destination_port) == (TCP, 12345, 80)
    assert packet.destination == ip_address("203.0.113.10")
    assert packet.sequence == 7
    six = bytes.fromhex("6000000000280440") + bytes(32) + inner
    assert dissect(bytes(12) + b"\x86\xdd" + six) == packet
