"""The switch without sockets or clock: what a frame becomes, under every fault."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

from appliance.lab.frames import CONNTRACKD, VRRP, Match, dissect, untagged
from appliance.lab.pcap import HEADER, Writer, read
from appliance.lab.switch import AGEING, Faults, Filter, Switch, Way

A, B, C = (bytes([0x52, 0, 0, 0, 0, n]) for n in (1, 2, 3))
EVERYONE = b"\xff" * 6


def frame(to: bytes, source: bytes, payload: bytes = b"x", ethertype: int = 0x88B5) -> bytes:
    return to + source + struct.pack("!H", ethertype) + payload


def ipv4(protocol: int, payload: bytes = b"", fragment: int = 0) -> bytes:
    total = 20 + len(payload)
    ends = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    return struct.pack("!BBHHHBBH", 0x45, 0, total, 0, fragment, 64, protocol, 0) + ends + payload


def udp(port: int, data: bytes = b"", fragment: int = 0) -> bytes:
    body = struct.pack("!HHHH", 1234, port, 8 + len(data), 0) + data
    return frame(B, A, ipv4(17, body, fragment), 0x0800)


def ports(switch: Switch, port: str, data: bytes, now: float = 0.0) -> list[str] | None:
    out = switch.frame(port, data, now)
    return None if out is None else [each.port for each in out]


def learnt() -> Switch:
    """A switch that knows A at a, B at b and C at c."""
    switch = Switch(("a", "b", "c"))
    for port, mac in (("a", A), ("b", B), ("c", C)):
        switch.frame(port, frame(EVERYONE, mac), 0.0)
    return switch


def test_unknown_and_group_addresses_are_flooded_and_never_sent_back() -> None:
    switch = Switch(("a", "b", "c"))
    assert ports(switch, "a", frame(B, A)) == ["b", "c"]
    assert ports(switch, "a", frame(EVERYONE, A)) == ["b", "c"]
    assert ports(switch, "a", frame(b"\x01\x00\x5e\x00\x00\x12", A)) == ["b", "c"]


def test_a_learnt_address_gets_its_frames_alone() -> None:
    assert ports(learnt(), "a", frame(B, A)) == ["b"]


def test_a_frame_to_a_machine_at_the_same_port_goes_nowhere() -> None:
    assert ports(learnt(), "a", frame(A, A)) == []


def test_an_address_moves_with_its_next_frame_as_after_a_takeover() -> None:
    switch = learnt()
    switch.frame("c", frame(EVERYONE, B), 1.0)
    assert ports(switch, "a", frame(B, A), 1.0) == ["c"]


def test_an_address_is_forgotten_after_its_age() -> None:
    assert ports(learnt(), "a", frame(B, A), AGEING - 1) == ["b"]
    assert ports(learnt(), "a", frame(B, A), AGEING + 1) == ["b", "c"]


def test_a_group_address_as_source_is_not_learnt() -> None:
    switch = Switch(("a", "b", "c"))
    switch.frame("a", frame(B, EVERYONE), 0.0)
    assert ports(switch, "b", frame(EVERYONE, B)) == ["a", "c"]


def test_a_cut_port_neither_sends_nor_gets_and_its_addresses_are_forgotten() -> None:
    switch = learnt()
    switch.set_faults("b", Faults(cut=True))
    assert ports(switch, "b", frame(A, B)) is None
    assert ports(switch, "a", frame(B, A)) == ["c"]  # flooded: nobody knows where B is now
    switch.set_faults("b", Faults())
    assert ports(switch, "a", frame(B, A)) == ["b", "c"]


def test_silence_has_a_direction() -> None:
    switch = learnt()
    switch.set_faults("b", Faults(silence=Way.TO))
    assert ports(switch, "a", frame(B, A)) == []
    assert ports(switch, "b", frame(A, B)) == ["a"]
    switch.set_faults("b", Faults(silence=Way.FROM))
    assert ports(switch, "a", frame(B, A)) == ["b"]
    assert ports(switch, "b", frame(A, B)) is None
    switch.set_faults("b", Faults(silence=Way.BOTH))
    assert ports(switch, "a", frame(B, A)) == []
    assert ports(switch, "b", frame(A, B)) is None


def lost(seed: int) -> list[int]:
    switch = learnt()
    switch.set_faults("b", Faults(loss=20, seed=seed))
    return [n for n in range(1000) if not ports(switch, "a", frame(B, A))]


def test_loss_is_about_what_was_asked_and_the_same_for_the_same_seed() -> None:
    assert 150 < len(lost(1)) < 250
    assert lost(1) == lost(1)
    assert lost(1) != lost(2)


def test_delay_adds_up_along_the_way() -> None:
    switch = learnt()
    switch.set_faults("a", Faults(delay=20))
    switch.set_faults("b", Faults(delay=30))
    (delivery,) = switch.frame("a", frame(B, A), 100.0) or []
    assert delivery.due == 100.05
    (other,) = switch.frame("a", frame(C, A), 100.0) or []
    assert other.due == 100.02


def test_a_cable_keeps_its_order_when_its_delay_shrinks() -> None:
    switch = learnt()
    switch.set_faults("b", Faults(delay=50))
    (first,) = switch.frame("a", frame(B, A), 1.0) or []
    switch.set_faults("b", Faults())
    (second,) = switch.frame("a", frame(B, A), 1.01) or []
    assert second.due >= first.due


def test_a_filter_takes_one_kind_of_frame_and_leaves_the_rest() -> None:
    switch = learnt()
    switch.set_faults("b", Faults(filters=(Filter(VRRP), Filter(CONNTRACKD, Way.TO))))
    assert ports(switch, "a", frame(B, A, ipv4(112), 0x0800)) == []
    assert ports(switch, "a", udp(3780)) == []
    assert ports(switch, "a", udp(3781)) == ["b"]
    assert ports(switch, "b", udp(3780)) is not None
    assert ports(switch, "a", frame(B, A)) == ["b"]


def test_faults_survive_the_way_to_the_switch_process() -> None:
    match = Match(source="192.0.2.1")
    faults = Faults(silence=Way.TO, loss=1.5, delay=3, filters=(Filter(match, Way.FROM),))
    assert Faults.from_json(faults.as_json()) == faults
    assert Faults.from_json(Faults().as_json()) == Faults()
    assert faults.words() == "silent to, loss 1.5 %, delay 3 ms, 1 filters"


def test_frames_that_were_lost_are_counted() -> None:
    switch = learnt()
    switch.set_faults("b", Faults(cut=True))
    switch.frame("b", frame(A, B), 0.0)
    assert switch.counts()["b"]["lost"] == 1


def test_frames_cut_short_are_dropped_or_read_as_far_as_they_go() -> None:
    assert ports(learnt(), "a", b"short") is None
    whole = udp(7, b"data")
    for length in range(len(whole)):
        dissect(whole[:length])


def test_a_packet_is_read_and_a_later_fragment_has_no_ports() -> None:
    packet = dissect(udp(7, b"data"))
    assert (packet.source_port, packet.destination_port, packet.payload) == (1234, 7, b"data")
    assert str(packet.destination) == "192.0.2.2"
    assert dissect(udp(7, b"data", fragment=100)).destination_port is None


def tagged(data: bytes, tag: int) -> bytes:
    return data[:12] + struct.pack("!HH", 0x8100, 5 << 13 | tag) + data[12:]


def test_a_tag_is_read_and_taken_off() -> None:
    plain = udp(7, b"data")
    assert untagged(tagged(plain, 30)) == (30, plain)
    assert untagged(plain) == (None, plain)
    assert untagged(tagged(plain, 30)[:17]) == (None, tagged(plain, 30)[:17])
    assert dissect(tagged(plain, 30)) == dissect(plain)


def test_a_switch_hands_tags_on_and_filters_see_what_is_behind_them() -> None:
    switch = learnt()
    whole = tagged(udp(3780), 30)
    assert [each.frame for each in switch.frame("a", whole, 0.0) or []] == [whole]
    switch.set_faults("b", Faults(filters=(Filter(CONNTRACKD),)))
    assert ports(switch, "a", whole) == []
    assert ports(switch, "a", tagged(udp(3781), 30)) == ["b"]


def test_a_capture_is_read_back_with_its_times_and_half_a_record_is_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "net.pcap"
    writer = Writer(path)
    writer.add(1_500_000_123_456_789, b"one")
    mark = writer.flush()
    writer.add(1_500_000_123_999_000, b"two")
    writer.flush()
    assert mark == len(HEADER) + 16 + 3
    assert [r.frame for r in read(path)] == [b"one", b"two"]
    assert [r.frame for r in read(path, mark)] == [b"two"]
    assert abs(next(read(path)).time - 1_500_000.123456) < 1e-6
    path.write_bytes(path.read_bytes()[:-1])
    assert [r.frame for r in read(path)] == [b"one"]
