"""The check of a virtual service: the kind that was stated, or that its first port suggests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from appliance.plan.model import Protocol, Service
from appliance.plan.virtual import (
    Check,
    DnsCheck,
    HttpCheck,
    Kind,
    PingCheck,
    RecordType,
    ScriptCheck,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
)
from appliance.site.checks import Check as Stated
from appliance.site.document import Loc
from appliance.site.faults import Faults

KINDS = ("tcp", "http", "https", "smtp", "dns", "udp", "ping", "script")

Protocols = tuple[Protocol, ...]
TCP: Protocols = (Protocol.TCP,)
UDP: Protocols = (Protocol.UDP,)

MAIL = (25, 587)
DOMAIN = 53

# Where each is at home; of a service with more ports this one is asked.
HOMES = {"http": 80, "https": 443, "smtp": 25, "dns": DOMAIN}

TIMEOUT_MS = 3_000

# A host that is down does not refuse a datagram: only ARP gives up on it, after 3 s.
SILENCE_MS = 4_000


def check(stated: Stated, ports: Sequence[Service], loc: Loc, faults: Faults) -> Check:
    """The check as stated, with what it leaves open; mistakes are noted."""
    kind, port = _kind(stated, ports, loc, faults)
    silent = isinstance(kind, UdpCheck) and kind.payload is None
    timeout = stated.timeout or (SILENCE_MS if silent else TIMEOUT_MS)
    if silent and timeout < SILENCE_MS:
        what = "a datagram without an answer needs a timeout of 4s or more"
        hint = "until then a host that is down cannot be told from one that is well"
        faults.add((*loc, "timeout"), what, hint)
    if isinstance(kind, ScriptCheck) and timeout % 1000:
        faults.add((*loc, "timeout"), "the timeout of a script is in whole seconds")
    return Check(kind, port, stated.interval, timeout, stated.retries, stated.delay_retry)


def _kind(
    stated: Stated, ports: Sequence[Service], loc: Loc, faults: Faults
) -> tuple[Kind, int | None]:
    given = [name for name in KINDS if getattr(stated, name) is not None]
    if len(given) > 1:
        faults.add(loc, f"a check is of one kind, not {' and '.join(given)}")
        return TcpCheck(), None
    if not given:
        return _fitting(ports, stated.port)
    kind, protocols = _stated(stated, given[0], loc, faults)
    if stated.tcp is not None:
        if stated.port is not None:
            faults.add((*loc, "port"), "the port of this check is given twice", key=True)
        return kind, stated.tcp
    if isinstance(kind, PingCheck):
        if stated.port is not None:
            faults.add((*loc, "port"), "a ping has no port", key=True)
        return kind, None
    port = stated.port or _port(ports, protocols, HOMES.get(given[0]))
    if port is None and faults.intact(*loc, "port") and faults.intact(*loc[:-1], "ports"):
        wanted = protocols[0]
        what = f"the service has no {wanted} port to check"
        faults.add((*loc, given[0]), what, "say which under 'port'", key=True)
    return kind, port


def _stated(stated: Stated, name: str, loc: Loc, faults: Faults) -> tuple[Kind, Protocols]:
    """The kind of that name, and the protocols that its port can be of."""
    match name:
        case "http" | "https":
            return _http(stated, name, loc, faults), TCP
        case "smtp" if stated.smtp:
            return SmtpCheck(stated.smtp.helo), TCP
        case "dns" if stated.dns:
            return DnsCheck(stated.dns.name, stated.dns.type), UDP
        case "udp" if stated.udp:
            return UdpCheck(stated.udp.payload), UDP
        case "script" if stated.script:
            return ScriptCheck(stated.script), (*TCP, *UDP)
    return (PingCheck() if name == "ping" else TcpCheck()), TCP


def _http(stated: Stated, name: str, loc: Loc, faults: Faults) -> HttpCheck:
    page = stated.https if name == "https" else stated.http
    assert page is not None, "the kind that is stated has something in it"
    if page.digest and page.regex:
        at = (*loc, name, "regex")
        faults.add(at, "a page is held against a digest or a regex, not both")
    return HttpCheck(
        tls=name == "https",
        path=page.path,
        statuses=page.status or (),
        digest=page.digest,
        regex=page.regex,
        virtual_host=page.virtual_host,
    )


def _fitting(ports: Sequence[Service], stated: int | None) -> tuple[Kind, int | None]:
    """What the service's first port suggests."""
    first = next(_numbers(ports, (*TCP, *UDP)), None)
    if first == DOMAIN and DOMAIN in _numbers(ports, UDP):
        return DnsCheck(".", RecordType.SOA), stated or DOMAIN
    tcp = next(_numbers(ports, TCP), None)
    if tcp is None:
        return (TcpCheck(), stated) if stated else (PingCheck(), None)
    return (SmtpCheck(None) if tcp in MAIL else TcpCheck()), stated or tcp


def _port(ports: Sequence[Service], protocols: Protocols, home: int | None) -> int | None:
    """The port at home if the service has it, else its first."""
    ranges = [r for each in ports if each.protocol in protocols for r in each.ports]
    if home and any(r.first <= home <= r.last for r in ranges):
        return home
    return ranges[0].first if ranges else None


def _numbers(ports: Iterable[Service], protocols: Iterable[Protocol]) -> Iterator[int]:
    """The first port of each range of one of the protocols."""
    return (r.first for each in ports if each.protocol in protocols for r in each.ports)
