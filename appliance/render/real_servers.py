"""What a virtual service asks of its real servers, which are no part of the appliance.

`appliance explain` tells people, and the lab's real servers do the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface

from appliance.plan.model import Address, Interface, Network
from appliance.plan.virtual import FTP_DATA, Forward, VirtualService

# Who holds an address of others must not speak of it (ip-sysctl.rst in the kernel's documentation).
# And it has to be of scope `host`: else ARP asks with it by a card that has no address of its own,
# and who is asked takes it for that card's.
_QUIET = {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}

# What comes out of the tunnel has a client's address, to which another way leads.
_ANY_WAY = {"net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.tunl0.rp_filter": "0"}


@dataclass(frozen=True, slots=True)
class Held:
    """Virtual addresses that every real server has on a device, which a kernel `module` makes; and
    the kernel's settings besides, by their names in sysctl.d(5).
    """

    device: str
    module: str | None
    addresses: tuple[Interface, ...]
    settings: Mapping[str, str]


def held(service: VirtualService) -> tuple[Held, ...]:
    """With direct routing and tunnels packets come to the virtual address still: who has it?"""
    match service.forward:
        case Forward.NAT:
            return ()
        case Forward.DIRECT:
            addresses = tuple(ip_interface(each) for each in service.addresses)
            return (Held("lo", None, addresses, _QUIET),)
        case Forward.TUNNEL:
            return tuple(_at_the_tunnel(service, version) for version in service.versions)


def _at_the_tunnel(service: VirtualService, version: int) -> Held:
    """tunl0 and ip6tnl0 are there with their modules; they take packets from any sender."""
    addresses = tuple(ip_interface(each) for each in service.of(version))
    if version == 4:
        return Held("tunl0", "ipip", addresses, _ANY_WAY | _QUIET)
    return Held("ip6tnl0", "ip6_tunnel", addresses, {})


def gateway(network: Network, version: int, *, pair: bool) -> Address | None:
    """Where hosts of a network find the appliance: on a pair by the virtual address, for a node's
    own is gone with the node.
    """
    own = next(iter(network.addresses.values()))
    among = network.virtual if pair else own
    return next((each.ip for each in among if each.version == version), None)


def vsftpd(service: VirtualService, version: int) -> tuple[str, ...]:
    """The lines of vsftpd.conf(5); a server of both IP versions runs a second vsftpd for the other.

    With both in one it would tell clients 0.0.0.0. Nobody rewrites on the way what it says.
    """
    assert service.ftp is not None, "only asked of FTP services"
    return (
        *_family(service, version),
        "pasv_enable=YES",
        f"pasv_min_port={service.ftp.passive.first}",
        f"pasv_max_port={service.ftp.passive.last}",
        *(_ACTIVE if service.ftp.active else ("port_enable=NO",)),
    )


_ACTIVE = ("port_enable=YES", f"connect_from_port_{FTP_DATA}=YES")


def _family(service: VirtualService, version: int) -> Iterator[str]:
    if version == 4:
        yield from ("listen=YES", "listen_ipv6=NO", f"pasv_address={service.of(4)[0]}")
    else:
        yield from ("listen=NO", "listen_ipv6=YES")


def vsftpd_settings(service: VirtualService) -> Mapping[str, str]:
    """The kernel's settings for two vsftpd beside each other: the one of IPv6 would take IPv4 too,
    and cannot be told otherwise.
    """
    both = service.ftp is not None and len(service.versions) == 2
    return {"net.ipv6.bindv6only": "1"} if both else {}
