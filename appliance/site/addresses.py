"""The addresses and prefixes of a site file, each with the part that it can play on a real link."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Annotated

from appliance.plan.model import Address, Interface, Prefix
from appliance.site.scalars import refuse, scalar
from appliance.site.words import quote


def _address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise refuse(f"{quote(text)} is not an IP address") from None
    _plain(text, address)
    return address


def _plain(text: str, address: Address) -> None:
    if "%" in text:
        raise refuse(f"{quote(text)}: an address with a zone (%…) has no place here")
    if address.version == 6 and address.ipv4_mapped is not None:
        hint = f"write {address.ipv4_mapped}"
        raise refuse(f"{quote(text)} is an IPv4 address in IPv6 clothes", hint)


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


def host(text: str) -> Address:
    """One host's address, without a prefix length."""
    if text.startswith("@"):
        raise refuse(f"{quote(text)}: one address is expected here, not a set")
    if "/" in text:
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
    _plain(text, interface.ip)
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
    if "/" in text:
        _length(text)
    try:
        interface = ip_interface(text)
    except ValueError:
        raise refuse(f"{quote(text)} is neither an IP address nor a prefix") from None
    _plain(text, interface.ip)
    if interface.ip != interface.network.network_address:
        hint = f"did you mean {interface.network} or {interface.ip}?"
        raise refuse(f"{quote(text)} has bits set behind its prefix length", hint)
    return interface.network


@dataclass(frozen=True, slots=True)
class SetName:
    """An address set, by the name that stands behind `@`."""

    name: str


def _match(text: str) -> Prefix | SetName:
    return SetName(text[1:]) if text.startswith("@") else _prefix(text)


def _element(text: str) -> Prefix:
    if text.startswith("@"):
        raise refuse(f"{quote(text)}: a set holds addresses and prefixes, not another set")
    return _prefix(text)


def _route_to(text: str) -> Prefix:
    if text == "default":
        raise refuse("a default route is not written as a route", "use 'gateway'")
    prefix = _prefix(text)
    if prefix.prefixlen == 0:
        raise refuse("a default route is not written as a route", "use 'gateway'")
    if prefix.prefixlen > 0 and (prefix.is_multicast or prefix.is_loopback):
        raise refuse(f"{quote(text)} cannot be routed")
    return prefix


Host = Annotated[Address, scalar("an IP address", host)]
OnLink = Annotated[Interface, scalar("an address with its prefix length", _interface)]
Match = Annotated[Prefix | SetName, scalar("an address or prefix", _match)]
Element = Annotated[Prefix, scalar("an address or prefix", _element)]
RouteTo = Annotated[Prefix, scalar("a prefix", _route_to)]
