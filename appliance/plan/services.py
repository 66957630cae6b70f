"""What rules can name: the built-in services, the site's own, and protocols with ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from appliance.plan.model import PortRange, Protocol, Service
from appliance.site.document import Loc
from appliance.site.faults import Faults
from appliance.site.schema import Site
from appliance.site.words import meant, quote

Services = tuple[Service, ...]


def _tcp(*ports: int) -> Service:
    return Service(Protocol.TCP, tuple(PortRange(p, p) for p in ports))


def _udp(*ports: int) -> Service:
    return Service(Protocol.UDP, tuple(PortRange(p, p) for p in ports))


# Names as in IANA's registry of service names, and those that people say instead.
BUILT_IN: Mapping[str, Services] = {
    "bgp": (_tcp(179),),
    "dns": (_tcp(53), _udp(53)),
    "domain": (_tcp(53), _udp(53)),
    "ftp": (Service(Protocol.TCP, (PortRange(21, 21),), helper="ftp"),),
    "http": (_tcp(80),),
    "https": (_tcp(443),),
    "imap": (_tcp(143),),
    "imaps": (_tcp(993),),
    "isakmp": (_udp(500, 4500),),
    "kerberos": (_tcp(88), _udp(88)),
    "ldap": (_tcp(389),),
    "ldaps": (_tcp(636),),
    "mysql": (_tcp(3306),),
    "nfs": (_tcp(2049),),
    "ntp": (_udp(123),),
    "openvpn": (_udp(1194),),
    "pop3": (_tcp(110),),
    "pop3s": (_tcp(995),),
    "postgresql": (_tcp(5432),),
    "radius": (_udp(1812, 1813),),
    "rdp": (_tcp(3389), _udp(3389)),
    "rsync": (_tcp(873),),
    "smb": (_tcp(445),),
    "smtp": (_tcp(25),),
    "snmp": (_udp(161),),
    "snmptrap": (_udp(162),),
    "ssh": (_tcp(22),),
    "submission": (_tcp(587),),
    "submissions": (_tcp(465),),
    "syslog": (_udp(514),),
    "telnet": (_tcp(23),),
    "wireguard": (_udp(51820),),
}

VERSION = {Protocol.ICMP: 4, Protocol.ICMPV6: 6}


def has_version(service: Service, version: int) -> bool:
    """Whether packets of this service exist in IP `version` 4 or 6."""
    return VERSION.get(service.protocol, version) == version


class Catalogue:
    """The services that this site can name."""

    def __init__(self, site: Site, faults: Faults) -> None:
        self._faults = faults
        self._known = dict(BUILT_IN)
        self._named = {*BUILT_IN, *Protocol, *faults.names("services")}
        own: dict[str, Services] = {}
        for name, words in site.services.items():
            loc: Loc = ("services", name)
            if name in BUILT_IN or name in tuple(Protocol):
                faults.add(loc, f"service {quote(name)} is built in: choose another name", key=True)
            own[name] = self.of(words, loc, own=faults.names("services"))
        self._known = {**own, **BUILT_IN}

    def of(
        self, words: Sequence[Service | str] | None, loc: Loc, own: Iterable[str] = ()
    ) -> Services:
        """What the words mean, each service once; names in `own` may not be used here."""
        found: list[Service] = []
        for i, word in enumerate(words or ()):
            if isinstance(word, Service):
                found.append(word)
            elif word in self._known:
                found += self._known[word]
            else:
                self._unknown(word, (*loc, i), own)
        return tuple(dict.fromkeys(found))

    def _unknown(self, word: str, loc: Loc, own: Iterable[str]) -> None:
        if word in own:
            what = f"service {quote(word)} is the site's own: one such cannot be made of another"
            self._faults.add(loc, what)
        elif word not in self._named:
            hint = f"write tcp/{word} or udp/{word}" if word.isdigit() else meant(word, self._named)
            if word in ("any", "all"):
                hint = "leave 'service' out for every protocol"
            self._faults.add(loc, f"unknown service {quote(word)}", hint)
