"""What the kernel would say of IPVS, as bytes: made from linux/ip_vs.h and ip_vs_ctl.c, apart from
the code that reads them.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address


def attribute(kind: int, content: bytes) -> bytes:
    """struct nlattr, padded to four bytes."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def nest(kind: int, *inside: bytes) -> bytes:
    return attribute(kind, b"".join(inside))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def stats64(kind: int, *values: int) -> bytes:
    """ip_vs_genl_fill_stats64."""
    return nest(kind, numbers(*values))


def numbers(*values: int) -> bytes:
    """What is in it: with a padding attribute before a number that would lie askew."""
    pad = attribute(11, b"")
    return b"".join(
        pad + attribute(i, struct.pack("=Q", value)) for i, value in enumerate(values, 1)
    )


def stats32(kind: int, *values: int) -> bytes:
    """ip_vs_genl_fill_stats: 32 bits, but for the bytes."""
    sizes = {4: "=Q", 5: "=Q"}
    parts = (struct.pack(sizes.get(i, "=I"), v) for i, v in enumerate(values, 1))
    return nest(kind, *(attribute(i, part) for i, part in enumerate(parts, 1)))


HEAD = struct.pack("=BBH", 1, 1, 0)  # struct genlmsghdr
STATS = (7, 70, 60, 7000, 6000, 1, 10, 9, 1000, 900)
INET, INET6 = 2, 10


def service(
    mark: int, *, family: int = INET, flags: int = 0, timeout: int = 0, scheduler: bytes = b"wlc"
) -> bytes:
    """ip_vs_genl_fill_service."""
    return HEAD + nest(
        1,
        u16(1, family),
        u32(5, mark),
        attribute(6, scheduler + b"\0"),
        attribute(7, struct.pack("=II", flags, 0xFFFFFFFF)),
        u32(8, timeout),
        attribute(9, b"\xff" * 4),
        stats32(10, *STATS),
        stats64(12, *STATS),
    )


def dest(address: str, weight: int, counts: tuple[int, int, int], *, forward: int = 0) -> bytes:
    """ip_vs_genl_fill_dest; the counts are active, inactive and persistent."""
    raw = ip_address(address).packed
    return HEAD + nest(
        2,
        attribute(1, raw + bytes(16 - len(raw))),
        attribute(2, b"\0\0"),
        u32(3, forward),
        u32(4, weight),
        attribute(13, b"\0"),
        attribute(14, b"\0\0"),
        u16(15, 0),
        u32(5, 0),
        u32(6, 0),
        *(u32(kind, count) for kind, count in zip((7, 8, 9), counts, strict=True)),
        u16(11, INET if len(raw) == 4 else INET6),
        stats32(10, *STATS),
        stats64(12, *STATS),
    )


def daemon(state: int, card: str, number: int) -> bytes:
    """ip_vs_genl_fill_daemon, for IPv4."""
    return HEAD + nest(
        3,
        u32(1, state),
        attribute(2, card.encode() + b"\0"),
        u32(3, number),
        u16(4, 1472),
        u16(6, 8848),
        attribute(8, b"\1"),
        attribute(5, ip_address("224.0.0.81").packed),
    )
