"""The words of a site file: each parsed once into a typed value, or refused in our terms."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from appliance.plan.model import (
    Action,
    Address,
    Per,
    PortRange,
    Protocol,
    Rate,
    Role,
    Service,
    Transport,
    Verdict,
)
from appliance.site import conntrackd_words
from appliance.site.addresses import host
from appliance.site.scalars import one_of, refuse, scalar
from appliance.site.words import meant, quote

ANY = "any"
SELF = "self"

# Names


def _label(kind: str, longest: int) -> Callable[[str], str]:
    # RFC 1123 section 2.1, in lower case: node and site names become host names and file names.
    pattern = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")

    def parse(text: str) -> str:
        if len(text) > longest:
            raise refuse(f"{quote(text)} is no {kind}: longer than {longest} characters")
        if not pattern.fullmatch(text):
            rule = "lower-case letters, digits and inner hyphens, a letter first"
            raise refuse(f"{quote(text)} is no {kind}: {rule}")
        if text in ("localhost", "ip6-localhost"):
            raise refuse(f"{quote(text)} is the name of every machine for itself")
        return text

    return parse


def _name(kind: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", text):
            rule = "letters, digits, '-' and '_', a letter first, at most 32"
            raise refuse(f"{quote(text)} is no {kind}: {rule}")
        if text in (ANY, SELF):
            raise refuse(f"{quote(text)} is no {kind}: rules use that word")
        return text

    return parse


def _interface_name(text: str) -> str:
    if len(text) > 15:
        # IFNAMSIZ in linux/if.h is 16, the closing zero included.
        raise refuse(f"interface name {quote(text)} is longer than 15 characters")
    if "." in text:
        hint = "a tagged network is written with 'vlan'"
        raise refuse(f"interface name {quote(text)} has a dot", hint)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text):
        rule = "letters, digits, '-' and '_', a letter first"
        raise refuse(f"{quote(text)} is no interface name: {rule}")
    if text in ("lo", "all", "default"):
        raise refuse(f"{quote(text)} is no network card: the kernel uses that name itself")
    if conntrackd_words.reads_otherwise(text):
        hint = "its configuration reads that as an address, or as a word of its own"
        raise refuse(f"conntrackd cannot have a network card {quote(text)}", hint)
    return text


def _firmware(text: str) -> str:
    if not re.fullmatch(r"firmware-[a-z0-9][a-z0-9.+-]*|(amd64|intel)-microcode", text):
        hint = "as Debian names them: firmware-bnx2x, intel-microcode"
        raise refuse(f"{quote(text)} is no firmware package", hint)
    return text


SiteName = Annotated[str, scalar("a site name", _label("site name", 32))]
NodeName = Annotated[str, scalar("a node name", _label("node name", 63))]
NetworkName = Annotated[str, scalar("a network name", _name("network name"))]
ServiceName = Annotated[str, scalar("a service name", _name("service name"))]
SetName = Annotated[str, scalar("a set name", _name("set name"))]
InterfaceName = Annotated[str, scalar("an interface name", _interface_name)]
Word = Annotated[str, scalar("a name", str)]
Firmware = Annotated[str, scalar("a firmware package", _firmware)]


# Services


def port(text: str, lowest: int = 1) -> int:
    """A port number, `lowest` to 65535."""
    if not text:
        raise refuse("the port number is missing")
    if not re.fullmatch(r"[0-9]{1,6}", text):
        hint = "named ports are written without the protocol: http, not tcp/http"
        raise refuse(f"{quote(text)} is not a port number", hint)
    if not lowest <= int(text) <= 65535:
        raise refuse(f"port {text} is not between {lowest} and 65535")
    return int(text)


def _open_port(text: str) -> int:
    """A port that a service without privileges may listen on (ip(7): those from 1024)."""
    return port(text, 1024)


def ports(text: str) -> PortRange:
    """A port, or a range of ports with both ends included."""
    first, dash, last = text.partition("-")
    found = PortRange(port(first), port(last) if dash else port(first))
    if found.first > found.last:
        hint = f"did you mean {found.last}-{found.first}?"
        raise refuse(f"port range {quote(text)} runs backwards", hint)
    return found


def _service(text: str) -> Service | str:
    name, slash, stated = text.partition("/")
    if name not in tuple(Protocol):
        if slash:
            raise refuse(
                f"{quote(name)} in {quote(text)} is neither tcp nor udp", meant(name, Protocol)
            )
        return text
    protocol = Protocol(name)
    if not slash:
        return Service(protocol)
    if protocol not in (Protocol.TCP, Protocol.UDP):
        raise refuse(f"{quote(text)}: {protocol} has no ports", f"write {protocol}")
    return Service(protocol, (ports(stated),))


ServiceWord = Annotated[Service | str, scalar("a service", _service)]


# NAT


@dataclass(frozen=True, slots=True)
class Target:
    """Where NAT sends a packet."""

    address: Address
    port: int | None


def _target(text: str) -> Target:
    bracketed = re.fullmatch(r"\[([^\]]*)\]:(.*)", text)
    if bracketed:
        return Target(host(bracketed[1]), port(bracketed[2]))
    if text.startswith("["):
        raise refuse(f"{quote(text)} is not an address and port", "write it as in [2001:db8::1]:80")
    if text.count(":") == 1:
        address, _, number = text.partition(":")
        return Target(host(address), port(number))
    return Target(host(text), None)


NatTarget = Annotated[Target, scalar("an address, or address:port", _target)]


# Numbers, switches, choices


class SetKind(StrEnum):
    """What a set holds."""

    ADDRESS = "address"


def number(name: str, low: int, high: int) -> Callable[[str], int]:
    """A parser for numbers from `low` to `high`, which its errors call `name`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise refuse(f"{name} {quote(text)} is not a number from {low} to {high}")
        return int(text)

    return parse


def _advert(text: str) -> int:
    """Milliseconds; VRRPv3 counts centiseconds in 12 bits (RFC 9568 section 5.2.7)."""
    matched = re.fullmatch(r"([0-9]{1,6})(?:\.([0-9]{1,3}))?(ms|s)", text)
    if not matched:
        raise refuse(f"{quote(text)} is not a time", "write it as in 100ms or 1s")
    thousandths = int(matched[1]) * 1000 + int((matched[2] or "").ljust(3, "0"))
    ms, rest = (thousandths, 0) if matched[3] == "s" else divmod(thousandths, 1000)
    if rest or ms % 10 or not 10 <= ms <= 40950:
        raise refuse(f"advert {quote(text)} is not between 10ms and 40.95s in steps of 10ms")
    return ms


def switch(text: str) -> bool:
    """True or false, in any of YAML 1.1's words."""
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    raise refuse(f"{quote(text)} is neither true nor false")


_PER = {"s": Per.SECOND, "minute": Per.MINUTE, "hour": Per.HOUR}


def _rate(text: str) -> Rate:
    matched = re.fullmatch(r"([0-9]{1,9})/(s|minute|hour)", text)
    if not matched or not 1 <= int(matched[1]) <= 10000:
        hint = "a number from 1 to 10000, per s, minute or hour: 50/s"
        raise refuse(f"{quote(text)} is not a rate", hint)
    return Rate(int(matched[1]), _PER[matched[2]])


def _comment(text: str) -> str:
    # nft ends its quoted strings at the next quote (there is no escape) and holds 128 bytes in a
    # comment; the rest of them is for the line number that leads back to the site file.
    if '"' in text:
        raise refuse("a comment cannot hold double quotes")
    if not text.strip():
        raise refuse("the comment is empty")
    if len(text.encode()) > 100:
        raise refuse(f"the comment has {len(text.encode())} bytes: at most 100 fit")
    return text


Priority = Annotated[int, scalar("a number", number("priority", 1, 254))]
Vrid = Annotated[int, scalar("a number", number("vrid", 1, 255))]
Advert = Annotated[int, scalar("a time", _advert)]
Switch = Annotated[bool, scalar("true or false", switch)]
RateWord = Annotated[Rate, scalar("a rate", _rate)]
Tag = Annotated[int, scalar("a number", number("vlan id", 1, 4094))]
Port = Annotated[int, scalar("a port number", port)]
OpenPort = Annotated[int, scalar("a port number", _open_port)]
Comment = Annotated[str, scalar("text", _comment)]
SetKindWord = Annotated[SetKind, one_of("a kind of set", SetKind)]
TransportWord = Annotated[Transport, one_of("a protocol", Transport)]
RoleWord = Annotated[Role, one_of("a role", Role)]
ActionWord = Annotated[Action, one_of("an action", Action)]
VerdictWord = Annotated[Verdict, one_of("a verdict", Verdict)]
