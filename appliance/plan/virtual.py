"""Virtual services as the plan has them: what is balanced, how, and over which real servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.plan.model import Address, Origin, PortRange, Protocol, Service

# What an FTP server sends its active data connections from (RFC 959 section 3.2: the port before
# that of the control connection), and where clients listen for them.
FTP_DATA = 20
CLIENT_PORTS = PortRange(1024, 65535)


class Forward(StrEnum):
    """How a packet gets from here to the real server."""

    NAT = "nat"
    DIRECT = "direct"
    TUNNEL = "tunnel"


class Scheduler(StrEnum):
    """Who gets the next connection, by the names of the kernel's modules (ip_vs_NAME)."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    SH = "sh"
    DH = "dh"
    MH = "mh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"


class OnFailure(StrEnum):
    """What becomes of a real server that fails its check."""

    REMOVE = "remove"
    WEIGHT_ZERO = "weight-zero"


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection is accepted."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A page is served: with one of the `statuses` (first and last; none: 200 to 299), and with
    this MD5 `digest` of its body or a body that `regex` (PCRE2) matches. `tls` trusts any
    certificate.
    """

    tls: bool
    path: str
    statuses: tuple[tuple[int, int], ...]
    digest: str | None
    regex: str | None
    virtual_host: str | None


@dataclass(frozen=True, slots=True)
class SmtpCheck:
    """A mail server greets, and takes our greeting."""

    helo: str | None


class RecordType(StrEnum):
    """What a DNS check can ask for."""

    A = "A"
    NS = "NS"
    CNAME = "CNAME"
    SOA = "SOA"
    MX = "MX"
    TXT = "TXT"
    AAAA = "AAAA"


@dataclass(frozen=True, slots=True)
class DnsCheck:
    """A name server answers, over UDP."""

    name: str
    type: RecordType


@dataclass(frozen=True, slots=True)
class UdpCheck:
    """No ICMP error comes back; with a `payload` (hexadecimal digits), an answer does."""

    payload: str | None


@dataclass(frozen=True, slots=True)
class PingCheck:
    """An echo request is answered."""


@dataclass(frozen=True, slots=True)
class ScriptCheck:
    """A shell script, given the server's address and port, ends with 0."""

    text: str


Kind = TcpCheck | HttpCheck | SmtpCheck | DnsCheck | UdpCheck | PingCheck | ScriptCheck


@dataclass(frozen=True, slots=True)
class Check:
    """How the health of each real server is known; times in milliseconds.

    A server has failed when `retries` more checks have, `delay_retry_ms` apart. A ping has no port.
    """

    kind: Kind
    port: int | None
    interval_ms: int
    timeout_ms: int
    retries: int
    delay_retry_ms: int


@dataclass(frozen=True, slots=True)
class Persistence:
    """A client stays on its server until it was away for `time_s` seconds; clients whose addresses
    agree in so many bits (by IP version; none: all of them) are one.
    """

    time_s: int
    lengths: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Ftp:
    """Where the real servers listen for passive data connections, and whether they open active
    ones themselves.
    """

    passive: PortRange
    active: bool


@dataclass(frozen=True, slots=True)
class RealServer:
    """One server: an address of each IP version of its service. Weight 0 gets nothing new; `limit`
    is the most connections at a time.
    """

    addresses: tuple[Address, ...]
    weight: int
    limit: int | None
    origin: Origin

    def address(self, version: int) -> Address:
        """Its address of that IP version; StopIteration where it has none."""
        return next(each for each in self.addresses if each.version == version)


@dataclass(frozen=True, slots=True)
class VirtualService:
    """One service on virtual addresses, balanced over real servers.

    Its packets are known by a firewall mark for each IP version. `ports` hold those of passive FTP
    as well.
    """

    name: str
    addresses: tuple[Address, ...]
    ports: tuple[Service, ...]
    marks: Mapping[int, int]
    forward: Forward
    scheduler: Scheduler
    persistence: Persistence | None
    ftp: Ftp | None
    check: Check
    quorum: int
    hysteresis: int
    on_failure: OnFailure
    servers: tuple[RealServer, ...]
    sorry: tuple[Address, ...]
    origin: Origin

    def of(self, version: int) -> tuple[Address, ...]:
        """Its addresses of one IP version."""
        return tuple(each for each in self.addresses if each.version == version)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it is served in, 4 before 6."""
        return tuple(version for version in (4, 6) if self.of(version))

    @property
    def begins_at(self) -> int:
        """The weight of living servers that it takes to begin with: else the sorry server does."""
        return self.quorum + self.hysteresis

    def ranges(self, protocol: Protocol) -> tuple[PortRange, ...]:
        """Its ports of one protocol, in the order of the file."""
        return tuple(r for each in self.ports if each.protocol is protocol for r in each.ports)
