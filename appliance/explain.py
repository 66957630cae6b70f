"""What a site asks of machines that are not its own: the real servers of its virtual services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import indent

from appliance.plan.model import Address, Network, Plan, Service
from appliance.plan.virtual import FTP_DATA, Forward, VirtualService
from appliance.render.balancing import on_link

_WAYS = {
    Forward.NAT: "by NAT: the real servers answer through the appliance",
    Forward.DIRECT: "directly: the real servers answer the clients themselves",
    Forward.TUNNEL: "by IP in IP: the real servers answer the clients themselves",
}


def explain(plan: Plan) -> str:
    """For each virtual service, what its real servers must do, as snippets that can be pasted."""
    if not plan.virtual_services:
        return f"{plan.file} has no virtual services: nothing is asked of other machines.\n"
    return "\n".join("\n".join(_service(plan, each)) + "\n" for each in plan.virtual_services)


def _service(plan: Plan, service: VirtualService) -> Iterator[str]:
    where = ", ".join(map(str, service.addresses))
    ports = ", ".join(dict.fromkeys(_ports(service.ports)))
    yield f"{service.name}: {ports} of {where}, {_WAYS[service.forward]}"
    for server in service.servers:
        yield f"  {', '.join(map(str, server.addresses))}"
    yield ""
    match service.forward:
        case Forward.NAT:
            yield from _behind_nat(plan, service)
        case Forward.DIRECT:
            yield from _held_quietly(service)
        case Forward.TUNNEL:
            yield from _at_the_tunnel(service)
    if service.ftp:
        yield from _ftp(service)


def _ports(services: Iterable[Service]) -> Iterator[str]:
    for each in services:
        for r in each.ports:
            ports = str(r.first) if r.first == r.last else f"{r.first}-{r.last}"
            yield f"{each.protocol}/{ports}"


def _part(title: str, *files: tuple[str, str]) -> Iterator[str]:
    """A sentence, then files by their names."""
    yield f"  {title}"
    for name, text in files:
        yield ""
        yield indent(f"# {name}\n{text.rstrip()}", "    ")
    yield ""


# NAT


def _behind_nat(plan: Plan, service: VirtualService) -> Iterator[str]:
    """Answers must come back through here: by the address that is the active node's."""
    for network in plan.networks.values():
        for version in service.versions:
            here = [s for s in service.servers if on_link(s.address(version), network)]
            if here:
                names = ", ".join(str(each.address(version)) for each in here)
                gateway = _gateway(network, version, pair=plan.pair is not None)
                yield from _default(names, gateway, version, network)


def _default(names: str, gateway: Address | None, version: int, network: Network) -> Iterator[str]:
    if gateway is None:
        yield from _part(
            f"{names}: network {network.name} has no virtual address of IPv{version}. Give it one: "
            "it is the servers' default gateway."
        )
        return
    route = f"[Network]\nGateway={gateway}"
    yield from _part(
        f"{names}: the default gateway is {gateway}.",
        ("their file in /etc/systemd/network", route),
        ("or at once", f"ip -{version} route replace default via {gateway}"),
    )


def _gateway(network: Network, version: int, *, pair: bool) -> Address | None:
    """On a pair the virtual address: a node's own is gone with the node."""
    own = next(iter(network.addresses.values()))
    held = network.virtual if pair else own
    return next((each.ip for each in held if each.version == version), None)


# Direct routing and tunnels: each server holds the virtual address as well


def _addresses(service: VirtualService) -> str:
    return "\n".join(f"Address={a}/{a.max_prefixlen}" for a in service.addresses)


def _held_quietly(service: VirtualService) -> Iterator[str]:
    quiet = """\
net.ipv4.conf.all.arp_ignore = 1
net.ipv4.conf.all.arp_announce = 2
"""
    yield from _part(
        "Every server holds the virtual address on lo and keeps quiet about it: else clients "
        "learn its MAC address.",
        (
            "/etc/systemd/network/10-lo.network",
            f"[Match]\nName=lo\n\n[Network]\n{_addresses(service)}",
        ),
        ("/etc/sysctl.d/90-balanced.conf", quiet),
    )


def _at_the_tunnel(service: VirtualService) -> Iterator[str]:
    """tunl0 and ip6tnl0 are there with the modules; they take packets from any sender."""
    for version in service.versions:
        device, module = ("tunl0", "ipip") if version == 4 else ("ip6tnl0", "ip6_tunnel")
        held = "\n".join(f"Address={a}/{a.max_prefixlen}" for a in service.of(version))
        network = f"[Match]\nName={device}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\n{held}"
        quiet = """\
net.ipv4.conf.all.rp_filter = 0
net.ipv4.conf.tunl0.rp_filter = 0
net.ipv4.conf.all.arp_ignore = 1
net.ipv4.conf.all.arp_announce = 2
"""
        settings = [("/etc/sysctl.d/90-balanced.conf", quiet)] if version == 4 else []
        yield from _part(
            f"Every server holds the virtual address on {device}, where what was sent through the "
            "tunnel comes out.",
            ("/etc/modules-load.d/balanced.conf", module),
            (f"/etc/systemd/network/10-{device}.network", network),
            *settings,
        )


# FTP


def _ftp(service: VirtualService) -> Iterator[str]:
    """What a server says of itself goes to the client as it is: nobody rewrites it on the way."""
    assert service.ftp is not None, "only asked of FTP services"
    first, last = service.ftp.passive.first, service.ftp.passive.last
    told = service.of(4)
    active = service.ftp.active
    yield from _part(
        "FTP servers tell clients the virtual address and listen for data on the range"
        + (f"; they open active data connections from port {FTP_DATA}." if active else "."),
        ("vsftpd.conf", _vsftpd(told, first, last, active=active)),
        ("proftpd.conf", _proftpd(told, first, last)),
        ("pure-ftpd.conf", _pureftpd(told, first, last)),
    )
    if len(service.versions) == 2:
        yield from _part(
            "vsftpd: run a second one for IPv6, with listen_ipv6=YES and without pasv_address."
        )


def _vsftpd(told: tuple[Address, ...], first: int, last: int, *, active: bool) -> str:
    # With both kinds of addresses it would tell clients 0.0.0.0.
    lines = ["listen=YES", "listen_ipv6=NO", f"pasv_address={told[0]}"] if told else []
    lines += ["pasv_enable=YES", f"pasv_min_port={first}", f"pasv_max_port={last}"]
    opens = ["port_enable=YES", "connect_from_port_20=YES"] if active else ["port_enable=NO"]
    return "\n".join([*lines, *opens])


def _proftpd(told: tuple[Address, ...], first: int, last: int) -> str:
    lines = [f"MasqueradeAddress {told[0]}"] if told else []
    return "\n".join([*lines, f"PassivePorts {first} {last}"])


def _pureftpd(told: tuple[Address, ...], first: int, last: int) -> str:
    lines = [f"ForcePassiveIP {told[0]}"] if told else []
    return "\n".join([*lines, f"PassivePortRange {first} {last}"])
