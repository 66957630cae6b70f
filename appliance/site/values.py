"""The words of a site file: each parsed once into a typed value, or refused in our terms."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from appliance.plan.model import (
    Action,
    Address,
    Interface,
    PortRange,
    Prefix,
    Protocol,
    Role,
    Service,
    Verdict,
)
from appliance.site.words import meant, quote

T = TypeVar("T")

REFUSED = "refused"
ANY = "any"
SELF = "self"


def refuse(what: str, hint: str | None = None) -> PydanticCustomError:
    """The error that carries our wording through pydantic."""
    return PydanticCustomError(REFUSED, "{what}", {"what": what, "hint": hint})


def found(value: object) -> str:
    """What stands where something else was expected."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else quote(str(value))


def _scalar(kind: str, parse: Callable[[str], T]) -> PlainValidator:
    """A validator for text; `kind` says what was expected where a list or mapping stands."""

    def validate(value: object) -> T:
        if not isinstance(value, str):
            raise refuse(f"expected {kind}, found {found(value)}")
        return parse(value)

    return PlainValidator(validate)


def _one_of(kind: str, words: type[StrEnum]) -> PlainValidator:
    def parse(text: str) -> StrEnum:
        if text in tuple(words):
            return words(text)
        choice = ", ".join(words)
        raise refuse(f"{quote(text)} is not {kind}: one of {choice}", meant(text, words))

    return _scalar(kind, parse)


# Lists: one item may stand without its brackets.


def _as_list(value: object) -> object:
    if value is None or value == "":
        raise refuse("expected a value or a list, found nothing")
    return [value] if isinstance(value, str) else value


def _as_list_or_none(value: object) -> object:
    return [] if value is None else _as_list(value)


def _not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise refuse("the list is empty", "leave the key out if nothing is meant")
    return value


Some = Annotated[tuple[T, ...], BeforeValidator(_as_list), AfterValidator(_not_empty)]
Any = Annotated[tuple[T, ...], BeforeValidator(_as_list_or_none)]


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
        if text == "localhost":
            raise refuse("a node cannot be named 'localhost'")
        return text

    return parse


def _network_name(text: str) -> str:
    if text in (ANY, SELF):
        raise refuse(f"a network cannot be named {quote(text)}: rules use that word")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", text):
        rule = "letters, digits, '-' and '_', a letter first, at most 32"
        raise refuse(f"{quote(text)} is no network name: {rule}")
    return text


def _service_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", text):
        rule = "letters, digits, '-' and '_', a letter first, at most 32"
        raise refuse(f"{quote(text)} is no service name: {rule}")
    return text


def _interface_name(text: str) -> str:
    if len(text) > 15:
        # IFNAMSIZ in linux/if.h is 16, the closing zero included.
        raise refuse(f"interface name {quote(text)} is longer than 15 characters")
    if "." in text:
        hint = "VLANs are not supported yet"
        raise refuse(f"interface name {quote(text)} has a dot", hint)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text):
        rule = "letters, digits, '-' and '_', a letter first"
        raise refuse(f"{quote(text)} is no interface name: {rule}")
    if text in ("lo", "all", "default"):
        raise refuse(f"{quote(text)} is no network card: the kernel uses that name itself")
    return text


SiteName = Annotated[str, _scalar("a site name", _label("site name", 32))]
NodeName = Annotated[str, _scalar("a node name", _label("node name", 63))]
NetworkName = Annotated[str, _scalar("a network name", _network_name)]
ServiceName = Annotated[str, _scalar("a service name", _service_name)]
InterfaceName = Annotated[str, _scalar("an interface name", _interface_name)]
Word = Annotated[str, _scalar("a name", str)]


# Addresses


def _address(text: str) -> Address:
    if text.startswith("@"):
        raise refuse(f"address set {quote(text)} is not supported yet")
    try:
        address = ip_address(text)
    except ValueError:
        raise refuse(f"{quote(text)} is not an IP address") from None
    _plain(address)
    return address


def _plain(address: Address) -> None:
    if address.version == 6 and address.scope_id is not None:
        raise refuse(f"{quote(str(address))}: an address with a zone (%…) has no place here")
    if address.version == 6 and address.ipv4_mapped is not None:
        hint = f"write {address.ipv4_mapped}"
        raise refuse(f"{quote(str(address))} is an IPv4 address in IPv6 clothes", hint)


def _unicast(address: Address) -> Address:
    """One host's address: what a machine can hold (RFC 1122 section 3.2.1.3, RFC 4291)."""
    this_network = address.version == 4 and int(address) >> 24 == 0
    if address.is_unspecified or this_network:
        raise refuse(f"{quote(str(address))} is no host's address")
    if address.is_multicast:
        raise refuse(f"{quote(str(address))} is a multicast address")
    if address.is_loopback:
        raise refuse(f"{quote(str(address))} is a loopback address")
    if isinstance(address, IPv4Address) and address.is_reserved:
        raise refuse(f"{quote(str(address))} is in the reserved range 240.0.0.0/4")
    return address


def _host(text: str) -> Address:
    if "/" in text and not text.startswith("@"):
        raise refuse(f"{quote(text)}: one address without a prefix length is expected")
    return _unicast(_address(text))


def _length(text: str) -> None:
    """A prefix length is a number: masks such as 255.255.255.0 are not used here."""
    mask = text.partition("/")[2]
    if not re.fullmatch(r"[0-9]{1,3}", mask):
        raise refuse(f"{quote(text)} has no prefix length", "write it as in 192.0.2.1/24")


def _interface(text: str) -> Interface:
    _length(text)
    try:
        interface = ip_interface(text)
    except ValueError:
        raise refuse(f"{quote(text)} is not an IP address with a prefix length") from None
    _plain(interface.ip)
    _unicast(interface.ip)
    _a_host_of_its_prefix(interface)
    return interface


def _a_host_of_its_prefix(interface: Interface) -> None:
    """A prefix's first address names the network, and IPv4's last is for broadcast.

    IPv6's first is the subnet-router anycast address (RFC 4291 section 2.6.1). /31 and /127 have
    neither (RFC 3021, RFC 6164).
    """
    network = interface.network
    if network.num_addresses <= 2:
        return
    if interface.ip == network.network_address:
        raise refuse(f"{quote(str(interface))} is the address of the network, not of a host")
    if interface.version == 4 and interface.ip == network.broadcast_address:
        raise refuse(f"{quote(str(interface))} is the broadcast address of its network")


def _prefix(text: str) -> Prefix:
    if "/" not in text:
        return ip_network(_address(text))
    if text.startswith("@"):
        raise refuse(f"address set {quote(text)} is not supported yet")
    _length(text)
    try:
        interface = ip_interface(text)
    except ValueError:
        raise refuse(f"{quote(text)} is neither an IP address nor a prefix") from None
    _plain(interface.ip)
    if interface.ip != interface.network.network_address:
        hint = f"did you mean {interface.network} or {interface.ip}?"
        raise refuse(f"{quote(text)} has bits set behind its prefix length", hint)
    return interface.network


def _route_to(text: str) -> Prefix:
    if text == "default":
        raise refuse("a default route is not written as a route", "use 'gateway'")
    prefix = _prefix(text)
    if prefix.prefixlen == 0:
        raise refuse("a default route is not written as a route", "use 'gateway'")
    if prefix.prefixlen > 0 and (prefix.is_multicast or prefix.is_loopback):
        raise refuse(f"{quote(text)} cannot be routed")
    return prefix


Host = Annotated[Address, _scalar("an IP address", _host)]
OnLink = Annotated[Interface, _scalar("an address with its prefix length", _interface)]
Match = Annotated[Prefix, _scalar("an address or prefix", _prefix)]
RouteTo = Annotated[Prefix, _scalar("a prefix", _route_to)]


@dataclass(frozen=True, slots=True)
class Target:
    """Where NAT sends a packet."""

    address: Address
    port: int | None


def _target(text: str) -> Target:
    bracketed = re.fullmatch(r"\[([^\]]*)\]:(.*)", text)
    if bracketed:
        return Target(_host(bracketed[1]), port(bracketed[2]))
    if text.count(":") == 1:
        address, _, number = text.partition(":")
        return Target(_host(address), port(number))
    return Target(_host(text), None)


NatTarget = Annotated[Target, _scalar("an address, or address:port", _target)]


# Services


def port(text: str) -> int:
    """A port number, 1 to 65535."""
    if not re.fullmatch(r"[0-9]{1,6}", text):
        hint = "named ports are written without the protocol: http, not tcp/http" if text else None
        raise refuse(f"{quote(text)} is not a port number", hint)
    if not 1 <= int(text) <= 65535:
        raise refuse(f"port {text} is not between 1 and 65535")
    return int(text)


def _ports(text: str) -> PortRange:
    first, dash, last = text.partition("-")
    ports = PortRange(port(first), port(last) if dash else port(first))
    if ports.first > ports.last:
        hint = f"did you mean {ports.last}-{ports.first}?"
        raise refuse(f"port range {quote(text)} runs backwards", hint)
    return ports


def _service(text: str) -> Service | str:
    name, slash, ports = text.partition("/")
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
    return Service(protocol, (_ports(ports),))


ServiceWord = Annotated[Service | str, _scalar("a service", _service)]


# Numbers, switches, choices


def _number(name: str, low: int, high: int) -> Callable[[str], int]:
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


def _rate(text: str) -> int:
    matched = re.fullmatch(r"([0-9]{1,9})/s", text)
    if not matched or not 1 <= int(matched[1]) <= 10000:
        raise refuse(f"{quote(text)} is not a rate from 1/s to 10000/s")
    return int(matched[1])


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


class NetworkRole(StrEnum):
    """The roles a site file may name."""

    TRAFFIC = "traffic"
    SYNC = "sync"


def _role(text: str) -> Role:
    if text == "management":
        hint = "leave 'role' out: a network without virtual addresses takes no part in failover"
        raise refuse("role 'management' is not supported yet", hint)
    if text not in tuple(NetworkRole):
        choice = ", ".join(NetworkRole)
        raise refuse(f"{quote(text)} is not a role: one of {choice}", meant(text, NetworkRole))
    return Role(text)


Priority = Annotated[int, _scalar("a number", _number("priority", 1, 254))]
Vrid = Annotated[int, _scalar("a number", _number("vrid", 1, 255))]
Advert = Annotated[int, _scalar("a time", _advert)]
Switch = Annotated[bool, _scalar("true or false", switch)]
Rate = Annotated[int, _scalar("a rate", _rate)]
Comment = Annotated[str, _scalar("text", _comment)]
RoleWord = Annotated[Role, _scalar("a role", _role)]
ActionWord = Annotated[Action, _one_of("an action", Action)]
VerdictWord = Annotated[Verdict, _one_of("a verdict", Verdict)]


# SSH keys

KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def _key(text: str) -> str:
    """One line of a `.pub` file; its blob is counted strings, the type first (RFC 4253 6.6)."""
    hint = "paste the line of a .pub file, such as ~/.ssh/id_ed25519.pub"
    if "PRIVATE KEY" in text:
        raise refuse("this is a private key: it must stay where it was made", hint)
    kind, _, rest = text.strip().partition(" ")
    if kind not in KEY_TYPES:
        raise refuse(f"{quote(kind)} is not a type of SSH public key", hint)
    try:
        parts = _strings(base64.b64decode(rest.strip().partition(" ")[0], validate=True))
    except (binascii.Error, ValueError):
        raise refuse(f"this is not a whole {kind} public key", hint) from None
    if parts[0] != kind.encode() or not _whole(kind, parts[1:]):
        raise refuse(f"this is not a whole {kind} public key", hint)
    return text.strip()


def _strings(blob: bytes) -> list[bytes]:
    parts = []
    while blob:
        end = 4 + int.from_bytes(blob[:4])
        if len(blob) < max(end, 4):
            raise ValueError("cut short")
        parts.append(blob[4:end])
        blob = blob[end:]
    if not parts:
        raise ValueError("empty")
    return parts


def _whole(kind: str, parts: list[bytes]) -> bool:
    """Whether the numbers behind the type have the form of that kind of key."""
    lengths = [len(part) for part in parts]
    if kind == "ssh-rsa":
        return len(parts) == 2 and lengths[1] >= 2048 // 8
    if kind == "ssh-ed25519":
        return lengths == [32]
    if kind == "sk-ssh-ed25519@openssh.com":
        return len(parts) == 2 and lengths[0] == 32
    curve, size = {"256": (b"nistp256", 65), "384": (b"nistp384", 97), "521": (b"nistp521", 133)}[
        re.sub(r"\D", "", kind.partition("nistp")[2])
    ]
    count = 3 if kind.startswith("sk-") else 2
    return len(parts) == count and parts[0] == curve and lengths[1] == size


PublicKey = Annotated[str, _scalar("an SSH public key", _key)]
