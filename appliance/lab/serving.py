"""What each host of the lab serves, and on which ports: it follows from the plan.

A real server has what its services ask for and no more, since an emulated machine pays for every
program; the other hosts have the classic set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.lab.topology import Host
from appliance.plan.model import Protocol
from appliance.plan.virtual import (
    DnsCheck,
    HttpCheck,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
    VirtualService,
)


class Application(StrEnum):
    """What is spoken on a port."""

    SSH = "ssh"
    FTP = "ftp"
    HTTP = "http"
    HTTPS = "https"
    SMTP = "smtp"
    DNS = "dns"
    ECHO = "echo"
    IPERF3 = "iperf3"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """Where a program listens."""

    protocol: Protocol
    number: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.number}"


def tcp(number: int) -> Port:
    """A port of TCP."""
    return Port(Protocol.TCP, number)


def udp(number: int) -> Port:
    """A port of UDP."""
    return Port(Protocol.UDP, number)


# The ports of IANA's registry, and those of the lab.
STANDARD: Mapping[Application, tuple[Port, ...]] = {
    Application.SSH: (tcp(22),),
    Application.FTP: (tcp(21),),
    Application.HTTP: (tcp(80),),
    Application.HTTPS: (tcp(443),),
    Application.SMTP: (tcp(25),),
    Application.DNS: (tcp(53), udp(53)),
    Application.ECHO: (tcp(7), udp(7)),
    Application.IPERF3: (tcp(5201),),
}
CLASSIC = (
    Application.SSH,
    Application.FTP,
    Application.HTTP,
    Application.HTTPS,
    Application.ECHO,
    Application.IPERF3,
)

_KNOWN = {port: spoken for spoken, ports in STANDARD.items() for port in ports} | {
    tcp(587): Application.SMTP,
    tcp(8080): Application.HTTP,
}

# A page that a check asks for is found by its regular expression only where that is plain text.
_PLAIN = re.compile(r"[\w <>/:=-]+", re.ASCII)
_WELL = 200


@dataclass(frozen=True, slots=True)
class Page:
    """A page that tells whether a host is well."""

    path: str
    status: int
    text: str


def serving(host: Host) -> Mapping[Application, tuple[Port, ...]]:
    """The ports of all that a host serves from the start."""
    if host.client:
        return {}
    if not host.serves:
        return {spoken: STANDARD[spoken] for spoken in CLASSIC}
    found: dict[Port, Application] = {}
    for service in host.serves:
        for port, spoken in _asked(service):
            found.setdefault(port, spoken)
    return {
        spoken: tuple(sorted(port for port in found if found[port] is spoken))
        for spoken in Application
        if spoken in found.values()
    }


def _asked(service: VirtualService) -> Iterator[tuple[Port, Application]]:
    """What its check speaks comes first; data connections have no program of their own.

    A range of ports is served at its ends: a program listens on each.
    """
    checked = _checked(service)
    if checked:
        yield checked
    for each in service.ports[:-1] if service.ftp else service.ports:
        for ports in each.ports:
            for number in dict.fromkeys((ports.first, ports.last)):
                port = Port(each.protocol, number)
                yield port, _KNOWN.get(port, Application.ECHO)


def _checked(service: VirtualService) -> tuple[Port, Application] | None:
    """What is asked where by its check; a ping and a script have no say in it."""
    number, kind = service.check.port, service.check.kind
    if number is None or not isinstance(kind, (*_SPOKEN, HttpCheck)):
        return None
    port = udp(number) if isinstance(kind, DnsCheck | UdpCheck) else tcp(number)
    if isinstance(kind, HttpCheck):
        return port, Application.HTTPS if kind.tls else Application.HTTP
    return port, _SPOKEN[type(kind)] or _KNOWN.get(port, Application.ECHO)


# None: any answer does.
_SPOKEN: Mapping[type, Application | None] = {
    SmtpCheck: Application.SMTP,
    DnsCheck: Application.DNS,
    TcpCheck: None,
    UdpCheck: None,
}


def pages(host: Host) -> Iterable[Page]:
    """The pages that are asked for by checks, and `/healthz`, each once."""
    text = f"{host.name} is well"
    found = {"/healthz": Page("/healthz", _WELL, text)}
    for service in host.serves:
        kind = service.check.kind
        if isinstance(kind, HttpCheck):
            path = kind.path.partition("?")[0]
            status = kind.statuses[0][0] if kind.statuses else _WELL
            plain = kind.regex if kind.regex and _PLAIN.fullmatch(kind.regex) else None
            found[path] = Page(path, status, plain or text)
    return found.values()
