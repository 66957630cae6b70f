"""What a site asks of machines that are not its own: the real servers of its virtual services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from textwrap import indent

from appliance.plan.model import Address, Network, Plan, Service
from appliance.plan.virtual import FTP_DATA, Forward, VirtualService
from appliance.render.balancing import on_link
from appliance.render.real_servers import Held, gateway, held, vsftpd, vsftpd_settings

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
    if service.sorry:
        yield f"  {', '.join(map(str, service.sorry))}, the sorry server: the same goes for it"
    yield ""
    if service.forward is Forward.NAT:
        yield from _behind_nat(plan, service)
    for each in held(service):
        yield from _at_the_tunnel(each) if each.module else _held_quietly(each)
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
            hosts = [*(s.address(version) for s in service.servers), *service.sorry]
            here = [each for each in hosts if each.version == version and on_link(each, network)]
            if here:
                names = ", ".join(map(str, here))
                way = gateway(network, version, pair=plan.pair is not None)
                yield from _default(names, way, version, network)


def _default(names: str, way: Address | None, version: int, network: Network) -> Iterator[str]:
    if way is None:
        yield from _part(
            f"{names}: network {network.name} has no virtual address of IPv{version}. Give it one: "
            "it is the servers' default gateway."
        )
        return
    route = f"[Network]\nGateway={way}"
    yield from _part(
        f"{names}: the default gateway is {way}.",
        ("their file in /etc/systemd/network", route),
        ("or at once", f"ip -{version} route replace default via {way}"),
    )


# Direct routing and tunnels: each server holds the virtual address as well


def _lines(settings: Mapping[str, str]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in settings.items())


def _network(held: Held, *more: str) -> str:
    own = (f"[Address]\nAddress={a}{_SCOPE[a.version]}" for a in held.addresses)
    return "\n\n".join([f"[Match]\nName={held.device}", *more, *own])


# Of a wider scope ARP would ask with it by a card that has no address of its own.
_SCOPE = {4: "\nScope=host", 6: ""}


def _held_quietly(held: Held) -> Iterator[str]:
    yield from _part(
        "Every server holds the virtual address on lo and keeps quiet about it: else clients "
        "learn its MAC address.",
        ("/etc/systemd/network/10-lo.network", _network(held)),
        ("/etc/sysctl.d/90-balanced.conf", _lines(held.settings)),
    )


def _at_the_tunnel(held: Held) -> Iterator[str]:
    settings = [("/etc/sysctl.d/90-balanced.conf", _lines(held.settings))] if held.settings else []
    yield from _part(
        f"Every server holds the virtual address on {held.device}, where what was sent through the "
        "tunnel comes out.",
        ("/etc/modules-load.d/balanced.conf", str(held.module)),
        (
            f"/etc/systemd/network/10-{held.device}.network",
            _network(held, "[Link]\nRequiredForOnline=no"),
        ),
        *settings,
    )


# FTP


def _ftp(service: VirtualService) -> Iterator[str]:
    """What a server says of itself goes to the client as it is: nobody rewrites it on the way."""
    assert service.ftp is not None, "only asked of FTP services"
    first, last = service.ftp.passive.first, service.ftp.passive.last
    told = service.of(4)
    own, *second = service.versions
    yield from _part(
        "FTP servers tell clients the virtual address and listen for data on the range"
        + (
            f"; they open active data connections from port {FTP_DATA}."
            if service.ftp.active
            else "."
        ),
        ("vsftpd.conf", "\n".join(vsftpd(service, own))),
        ("proftpd.conf", _proftpd(told, first, last)),
        ("pure-ftpd.conf", _pureftpd(told, first, last)),
    )
    for version in second:
        yield from _part(
            f"vsftpd: run a second one for IPv{version}. It would take IPv4 from the first, unless "
            "the kernel keeps them apart.",
            (f"vsftpd-ipv{version}.conf", "\n".join(vsftpd(service, version))),
            ("/etc/sysctl.d/90-vsftpd.conf", _lines(vsftpd_settings(service))),
        )


def _proftpd(told: tuple[Address, ...], first: int, last: int) -> str:
    lines = [f"MasqueradeAddress {told[0]}"] if told else []
    return "\n".join([*lines, f"PassivePorts {first} {last}"])


def _pureftpd(told: tuple[Address, ...], first: int, last: int) -> str:
    lines = [f"ForcePassiveIP {told[0]}"] if told else []
    return "\n".join([*lines, f"PassivePortRange {first} {last}"])
