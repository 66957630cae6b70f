"""Site files that are right, as text, in as much variety as the format has.

A site is drawn as plain values and written as YAML, in block or flow style, with and without
the short forms. `sites()` is for whoever wants to prove that what `check` accepts works.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

from appliance.plan.services import BUILT_IN
from appliance.site.conntrackd_words import reads_otherwise

Draw = Callable[[st.SearchStrategy[Any]], Any]
Tree = dict[str, Any]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAME_REST = LETTERS + LETTERS.upper() + "0123456789-_"
AWKWARD = ["accept", "tcp", "ip", "in", "drop", "default", "sync", "all", "lo", "N", "on", "null2"]

labels = st.from_regex(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in ("localhost", "ip6-localhost", "null")
)
names = st.one_of(
    st.sampled_from(AWKWARD),
    st.builds(
        str.__add__,
        st.sampled_from(LETTERS + LETTERS.upper()),
        st.text(NAME_REST, max_size=31),
    ),
).filter(lambda name: name not in ("any", "self") and name.lower() not in ("null", "~"))
cards = st.one_of(
    st.from_regex(r"(enp|eth|ens|eno)[0-9]{1,4}", fullmatch=True),
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,14}", fullmatch=True),
).filter(
    lambda name: (
        name.lower() not in ("lo", "all", "default", "null")
        and not reads_otherwise(name)
        and not name.startswith("vlan")
    )
)
comments = st.text(
    st.characters(codec="utf-8", exclude_characters='"', exclude_categories=("C", "Z"))
    | st.just(" "),
    min_size=1,
    max_size=100,
).filter(lambda text: text.isprintable() and text.strip() and len(text.encode()) <= 100)


def is_regex(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error:
        return False
    return "$_" not in text and "${" not in text


regexes = st.text(
    st.sampled_from("ab.*+?()[]{}|^$\\\\\"'#!@~ ;/%d1"), min_size=1, max_size=12
).filter(is_regex)
scripts = st.sampled_from(['exec true "$1" "$2"', "true # well", "echo '{'; exit 1", "a=`id`"])
ports = st.one_of(st.integers(1, 65535), st.sampled_from([1, 22, 53, 80, 65535]))


# Ports that a virtual service can have, none of them the node's own; each is given once.
BALANCED = ["tcp/80", "tcp/443", "tcp/25", "tcp/587", "tcp/53", "udp/53", "tcp/100-200", "udp/514"]
BALANCED += ["udp/600-700", "udp/443", "tcp/1-19", "udp/1-19"]


@st.composite
def checks(draw: Draw) -> Tree:
    """A check whose port is said, so that it fits every service."""
    times = st.sampled_from(["100ms", "2s", "1.5s", "60s"])
    page: Tree = {"path": draw(st.sampled_from(["/", "/a?b=%20&c=(1)", "/~x/;y=:@"]))}
    page |= draw(
        st.sampled_from([{}, {"status": 200}, {"status": ["200-299", 404]}, {"digest": "0a" * 16}])
        | st.builds(lambda text: {"regex": text}, regexes)
    )
    page |= draw(st.sampled_from([{}, {"virtual_host": "www.example.net:8080"}]))
    kind = draw(st.sampled_from(["tcp", "http", "https", "smtp", "dns", "udp", "ping", "script"]))
    inside: dict[str, Any] = {
        "tcp": 1,
        "http": page,
        "https": page,
        "smtp": draw(st.sampled_from([{}, {"helo": "lb.example.net"}])),
        "dns": draw(st.sampled_from([{}, {"name": "_a.b-c.example.", "type": "AAAA"}])),
        "udp": draw(st.sampled_from([{}, {"payload": "00ffAB"}])),
        "ping": None,
        "script": draw(scripts),
    }
    tree = {kind: inside[kind]}
    if kind not in ("tcp", "ping"):
        tree["port"] = draw(ports)
    tree |= draw(st.sampled_from([{}, {"interval": draw(times)}, {"retries": 0}]))
    if draw(st.booleans()):
        tree["delay_retry"] = draw(times)
    return tree | draw(st.sampled_from([{}, {"timeout": "5s"}]))


@st.composite
def services(draw: Draw, own: tuple[str, ...] = (), *, with_ports: bool = False) -> str:
    """One word under `service`; `with_ports` for those that have ports only."""
    protocol = draw(st.sampled_from(["tcp", "udp"]))
    kind = draw(st.sampled_from(["port", "range", "name", "own", "whole", "icmp"]))
    if kind == "range":
        first, last = sorted((draw(ports), draw(ports)))
        return f"{protocol}/{first}-{last}"
    if kind == "name":
        return str(draw(st.sampled_from(sorted(BUILT_IN))))
    if kind == "own" and own:
        return str(draw(st.sampled_from(own)))
    if kind == "whole":
        return str(protocol)
    if kind == "icmp" and not with_ports:
        return str(draw(st.sampled_from(["icmp", "icmpv6"])))
    return f"{protocol}/{draw(ports)}"


class Link:
    """One network on paper: its prefixes, each a base to which a host's number is added."""

    def __init__(self, index: int, versions: tuple[int, ...]) -> None:
        self.index = index
        self.versions = versions

    def prefix(self, version: int) -> str:
        return f"10.{self.index}.0.0/16" if version == 4 else f"2001:db8:{self.index:x}::/64"

    def host(self, version: int, number: int) -> str:
        """The address of one host here; `number` from 1 to 65000."""
        if version == 4:
            return f"10.{self.index}.{number // 256}.{number % 256}"
        return f"2001:db8:{self.index:x}::{number:x}"

    def card(self, version: int, number: int) -> str:
        return f"{self.host(version, number)}/{16 if version == 4 else 64}"


class Site:
    """A site as it is drawn."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.pair = draw(st.booleans())
        self.nodes = draw(
            st.lists(labels, min_size=1 + self.pair, max_size=1 + self.pair, unique=True)
        )
        count = draw(st.integers(1 + self.pair, 5))
        self.networks = draw(st.lists(names, min_size=count, max_size=count, unique=True))
        some = st.sampled_from([(4,), (6,), (4, 6)])
        self.links = [Link(i, draw(some)) for i in range(count)]
        self.used: dict[int, set[int]] = {i: set() for i in range(count)}
        self.tagged: list[int] = []
        self.tags: set[tuple[int, int]] = set()
        self.sets: dict[str, tuple[int, ...]] = {}
        self.gateways: set[int] = set()
        self.virtual: list[tuple[int, str]] = []
        self.traffic: list[int] = []
        self.held: list[tuple[int, str]] = []
        self.own_services = tuple(
            name
            for name in draw(st.lists(names, max_size=3, unique=True))
            if name not in (*BUILT_IN, "tcp", "udp", "icmp", "icmpv6")
        )

    def maybe(self, value: Any) -> bool:
        """A coin; `value` says what for, in a failing example."""
        return bool(self.draw(st.booleans().map(lambda side: side and bool(value))))

    def number(self, index: int) -> int:
        """A host's number that is free on that link."""
        used = self.used[index]
        number = self.draw(st.integers(2, 65000).filter(lambda n: n not in used and n % 256))
        used.add(number)
        return int(number)

    def short(self, items: list[Any]) -> Any:
        """A list of one may stand without its brackets."""
        return items[0] if len(items) == 1 and self.maybe("short form") else items

    # Networks

    def network_trees(self, sync: int | None, interfaces: list[str]) -> Tree:
        trees = {}
        for i, name in enumerate(self.networks):
            trees[name] = self.network(i, sync, interfaces[i])
        return trees

    def network(self, i: int, sync: int | None, interface: str) -> Tree:
        tree: Tree = {"interface": interface}
        if i and self.maybe("vlan"):
            self.tagged.append(i)
            card = self.draw(st.sampled_from([n for n in range(i) if n not in self.tagged]))
            tree = {"vlan": {"on": self.networks[card], "id": self.tag(card)}}
        role = "sync" if i == sync else self.draw(st.sampled_from([None, "traffic", "management"]))
        # The first network always carries traffic: a pair needs a virtual address somewhere.
        role = "traffic" if i == 0 and role == "management" else role
        if role:
            tree["role"] = role
        if role not in ("sync", "management"):
            self.traffic.append(i)
        tree["addresses"] = {node: self.short(self.own(i)) for node in self.nodes}
        if self.maybe("aliases"):
            tree["aliases"] = {node: self.short(self.own(i, held=True)) for node in self.nodes[:1]}
        if self.pair and role not in ("sync", "management") and (i == 0 or self.maybe("virtual")):
            tree["virtual"] = self.short(self.moving(i))
        if role != "sync":
            self.ways(tree, i)
        return tree

    def tag(self, card: int) -> int:
        """An id that is free on that card; some are on two cards."""
        free = [n for n in (1, 30, 31, 4094) if (card, n) not in self.tags]
        tag = int(self.draw(st.sampled_from(free)))
        self.tags.add((card, tag))
        return tag

    def own(self, i: int, *, held: bool = False) -> list[str]:
        link = self.links[i]
        numbers = {version: self.number(i) for version in link.versions}
        if held or not self.pair:
            self.held += [(v, link.host(v, n)) for v, n in numbers.items()]
        return [link.card(version, number) for version, number in numbers.items()]

    def moving(self, i: int) -> list[str]:
        found = []
        for _ in range(self.draw(st.integers(1, 3))):
            version = self.draw(st.sampled_from(self.links[i].versions))
            number = self.number(i)
            address = self.links[i].host(version, number)
            self.virtual.append((version, address))
            whole = f"{address}/{32 if version == 4 else 128}"
            found.append(
                whole if self.maybe("host prefix") else self.links[i].card(version, number)
            )
        if 6 in self.links[i].versions and self.maybe("link-local"):
            found.append(f"fe80::{i + 1:x}/64")
        return found

    def ways(self, tree: Tree, i: int) -> None:
        link = self.links[i]
        free = [version for version in link.versions if version not in self.gateways]
        chosen = [version for version in free if self.maybe("gateway")]
        self.gateways.update(chosen)
        if chosen:
            tree["gateway"] = self.short([self.hop(i, version) for version in chosen])
        if self.maybe("routes"):
            version = link.versions[0]
            to = f"172.16.{i}.0/24" if version == 4 else f"2001:db8:aa{i:02x}::/48"
            tree["routes"] = [{"to": to, "via": self.hop(i, version)}]

    def hop(self, i: int, version: int) -> str:
        if version == 6 and self.maybe("link-local hop"):
            return "fe80::beef"
        return self.links[i].host(version, self.number(i))

    # Rules

    def end(self, version: int) -> str:
        """What a rule may match at one end, some of it of that IP version."""
        sets = [name for name, versions in self.sets.items() if version in versions]
        if sets and self.maybe("a set"):
            return f"@{self.draw(st.sampled_from(sets))}"
        return self.place(version)

    def place(self, version: int) -> str:
        """An address or prefix, of a host on some link or far away."""
        far = ["198.51.100.7", "203.0.113.0/24", "0.0.0.0/0"]
        far6 = ["2001:db8:ffff::7", "2001:db8:ffff::/48", "::/0"]
        near = [link for link in self.links if version in link.versions]
        if near and self.maybe("on a link"):
            link = self.draw(st.sampled_from(near))
            number = self.draw(st.integers(1, 65000))
            return str(
                self.draw(st.sampled_from([link.prefix(version), link.host(version, number)]))
            )
        return str(self.draw(st.sampled_from(far if version == 4 else far6)))

    def address_sets(self) -> Tree:
        """Sets of one IP version or of both, some of their elements inside others."""
        trees = {}
        for name in self.draw(st.lists(names, max_size=3, unique=True)):
            versions = self.draw(st.sampled_from([(4,), (6,), (4, 6)]))
            some = range(self.draw(st.integers(1, 4)))
            trees[name] = {"elements": self.short([self.place(v) for v in versions for _ in some])}
            if self.maybe("type"):
                trees[name]["type"] = "address"
            self.sets[name] = versions
        return trees

    def matching(self, version: int, *, to: bool = True, to_self: bool = False) -> Tree:
        tree: Tree = {"from": self.draw(st.sampled_from([*self.networks, "any"]))}
        if to and self.maybe("to"):
            more = ["self"] if to_self else []
            tree["to"] = self.draw(st.sampled_from([*self.networks, "any", *more]))
        for key in ("source", "destination"):
            if self.maybe(key):
                tree[key] = self.end(version)
        return tree

    def service(self, version: int, *, with_ports: bool = False) -> Any:
        """What may stand under `service`, with one at least that fits the IP version."""
        other = "icmpv6" if version == 4 else "icmp"
        word = services(self.own_services, with_ports=with_ports)
        words = self.draw(st.lists(word, min_size=1, max_size=4))
        if all(w == other or w in self.own_services for w in words):
            words.append("tcp/25")
        return self.short(words)

    def rule(self) -> Tree:
        version = self.draw(st.sampled_from([4, 6]))
        tree = self.matching(version, to_self=True)
        if self.maybe("service"):
            tree["service"] = self.service(version)
        if self.maybe("limit"):
            tree["limit"] = self.draw(st.sampled_from(["1/s", "10000/s", "7/minute", "100/hour"]))
        if self.maybe("action"):
            tree["action"] = self.draw(st.sampled_from(["accept", "drop", "reject"]))
        if self.maybe("comment"):
            tree["comment"] = self.draw(comments)
        return tree

    def source_nat(self) -> Tree:
        held = self.virtual if self.pair else self.held
        version, address = self.draw(
            st.sampled_from([*held, (4, "192.0.2.9"), (6, "2001:db8:fe::9")])
        )
        tree = {**self.matching(version), "snat": address}
        if self.maybe("service"):
            tree["service"] = self.service(version)
        return tree

    def destination_nat(self) -> Tree:
        version = self.draw(st.sampled_from([4, 6]))
        near = [i for i, link in enumerate(self.links) if version in link.versions]
        target = {4: "198.51.100.99", 6: "2001:db8:fe::99"}[version]
        if near and self.maybe("on a link"):
            i = self.draw(st.sampled_from(near))
            target = self.links[i].host(version, self.number(i))
        tree = {**self.matching(version, to=False), "destination": self.end(version)}
        if self.maybe("port"):
            tree["service"] = self.service(version, with_ports=True)
            at = target if version == 4 else f"[{target}]"
            return {**tree, "dnat": f"{at}:{self.draw(ports)}"}
        if self.maybe("service"):
            tree["service"] = self.service(version)
        return {**tree, "dnat": target}

    # Virtual services

    def virtual_services(self) -> Tree:
        """Some, on addresses that the appliance holds; no two of them have a port in common."""
        free = list(self.draw(st.permutations(BALANCED)))
        held = self.virtual if self.pair else self.held
        found: Tree = {}
        for name in self.draw(st.lists(names, max_size=3, unique=True)):
            count = self.draw(st.integers(1, 3))
            some = self.draw(st.lists(st.sampled_from(held), min_size=1, max_size=3, unique=True))
            found[name] = self.virtual_service(some, [free.pop() for _ in range(count)])
        if found and self.pair and self.maybe("ftp"):
            self.make_ftp(self.draw(st.sampled_from(list(found.values()))))
        return found

    def virtual_service(self, held: list[tuple[int, str]], ports: list[str]) -> Tree:
        versions = sorted({version for version, _ in held})
        near = [i for i in self.traffic if set(versions) <= set(self.links[i].versions)]
        forward = self.draw(st.sampled_from([None, "nat", "direct", "tunnel"]))
        on_link = bool(near) and (forward != "tunnel" or self.maybe("on a link"))
        forward = forward if on_link else "tunnel"
        count = self.draw(st.integers(1, 4))
        servers = [self.real_server(versions, near if on_link else [], n) for n in range(count)]
        servers[0].pop("weight", None)
        tree: Tree = {
            "address": self.short([address for _, address in held]),
            "ports": self.short(ports),
            "servers": servers,
        }
        if forward:
            tree["forward"] = forward
        return tree | self.manners(versions, tree)

    def real_server(self, versions: list[int], near: list[int], number: int) -> Tree:
        if near:
            i = self.draw(st.sampled_from(near))
            addresses = [self.links[i].host(v, self.number(i)) for v in versions]
        else:
            far = {4: f"203.0.113.{number + 1}", 6: f"2001:db8:ee::{number + 1}"}
            addresses = [far[v] for v in versions]
        tree: Tree = {"address": self.short(addresses)}
        if self.maybe("weight"):
            tree["weight"] = self.draw(st.sampled_from([0, 1, 7, 65535]))
        if self.maybe("limit"):
            tree["limit"] = self.draw(st.integers(1, 999_999_999))
        return tree

    def manners(self, versions: list[int], so_far: Tree) -> Tree:
        """All that may be left out."""
        schedulers = ["rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "fo", "ovf"]
        lengths = {v: {4: 24, 6: 64}[v] for v in versions}
        persistence = ["off", "300s", {"time": "1s"}, {"time": "2678400s", "netmask": lengths}]
        optional: Tree = {
            "scheduler": st.sampled_from(schedulers),
            "persistence": st.sampled_from(persistence),
            "on_failure": st.sampled_from(["remove", "weight-zero"]),
            "quorum": st.just(1),
            "hysteresis": st.just(0),
            "check": checks(),
        }
        tree = {key: self.draw(some) for key, some in optional.items() if self.maybe(key)}
        if self.maybe("sorry"):
            sorry = {4: "203.0.113.99", 6: "2001:db8:ee::99"}
            if so_far.get("forward") == "tunnel":
                tree["sorry"] = {"address": [sorry[v] for v in versions]}
            elif len(so_far["servers"]) > 1:
                tree["sorry"] = {"address": so_far["servers"].pop()["address"]}
        return tree

    def make_ftp(self, service: Tree) -> None:
        """Turn a service to FTP, which has one address of each IP version."""
        each = [service["address"]] if isinstance(service["address"], str) else service["address"]
        by_version = {":" in address: address for address in reversed(each)}
        service["address"] = list(by_version.values())
        service["ports"] = "tcp/21"
        service["ftp"] = {"passive": "10000-20000"} | self.draw(
            st.sampled_from([{}, {"active": "yes"}, {"active": False}])
        )
        if service.get("scheduler") not in (None, "mh"):
            service["persistence"] = "300s"

    # The rest

    def server(self) -> str:
        """The address of a host that the nodes can reach."""
        i = self.draw(st.integers(0, len(self.links) - 1))
        if self.gateways and self.maybe("far away"):
            far = {4: "198.51.100.123", 6: "2001:db8:ffff::7b"}
            return far[self.draw(st.sampled_from(sorted(self.gateways)))]
        return self.links[i].host(
            self.draw(st.sampled_from(self.links[i].versions)), self.number(i)
        )

    def servers(self, most: int) -> Any:
        some = range(self.draw(st.integers(1, most)))
        return self.short(list(dict.fromkeys(self.server() for _ in some)))

    def log_hosts(self) -> list[Tree]:
        trees: list[Tree] = []
        for address in dict.fromkeys(self.server() for _ in range(self.draw(st.integers(1, 7)))):
            trees.append({"address": address})
            if self.maybe("port"):
                trees[-1]["port"] = self.draw(ports)
            if self.maybe("protocol"):
                trees[-1]["protocol"] = self.draw(st.sampled_from(["udp", "tcp"]))
        return trees

    def ssh(self) -> Tree:
        networks = st.lists(st.sampled_from(self.networks), unique=True)
        from_ = self.draw(networks)
        tree: Tree = {"from": self.short(from_)}
        if from_ and self.maybe("keys"):
            tree["keys"] = self.short(
                self.draw(st.lists(keys(), unique_by=lambda key: key.split()[1], max_size=2))
            )
        return tree

    def metrics(self) -> Tree:
        networks = st.lists(st.sampled_from(self.networks), min_size=1, unique=True)
        tree: Tree = {"from": self.short(self.draw(networks))}
        if self.maybe("port"):
            tree["port"] = self.draw(st.integers(1024, 65535))
        return tree

    def expectation(self) -> Tree:
        version = self.draw(st.sampled_from([4, 6]))
        words = ["tcp/22", "udp/53", "ssh", "ftp", "ntp", "icmp" if version == 4 else "icmpv6"]
        tree: Tree = {
            "from": self.draw(st.sampled_from(self.networks)),
            "source": {4: "198.51.100.77", 6: "2001:db8:fd::77"}[version],
            "destination": {4: "203.0.113.77", 6: "2001:db8:fc::77"}[version],
            "service": self.draw(st.sampled_from(words)),
            "verdict": self.draw(st.sampled_from(["accept", "drop"])),
        }
        if self.maybe("to"):
            tree["to"] = self.draw(st.sampled_from(self.networks))
        return tree

    def management(self) -> Tree:
        keys: dict[str, Callable[[], Any]] = {
            "ssh": self.ssh,
            "metrics": self.metrics,
            "syslog": self.log_hosts,
            "ntp": lambda: self.servers(4),
            "dns": lambda: self.servers(3),
        }
        return {name: make() for name, make in keys.items() if self.maybe(name)}

    def ha(self, sync: int | None) -> Tree:
        tree: Tree = {}
        if sync is None:
            named = st.lists(st.sampled_from(self.networks), min_size=1, max_size=2, unique=True)
            tree["sync"] = self.short(self.draw(named))
        elif self.maybe("second sync"):
            tree["sync"] = [self.networks[sync], self.draw(st.sampled_from(self.networks[:sync]))]
        if self.maybe("advert"):
            tree["advert"] = self.draw(st.sampled_from(["10ms", "100ms", "0.25s", "1s", "40.95s"]))
        if self.maybe("preempt"):
            tree["preempt"] = self.draw(st.sampled_from(["true", "no"]))
        if self.maybe("vrid"):
            tree["vrid"] = self.draw(st.integers(1, 245))
        return tree

    def firewall(self) -> Tree:
        some = range(self.draw(st.integers(0, 5)))
        tree: Tree = {"rules": [self.rule() for _ in some]}
        if self.maybe("log"):
            dropped = self.draw(st.sampled_from(["true", "false", {}, {"limit": "3/s"}]))
            tree["log"] = {
                "dropped": dropped,
                "invalid": self.draw(st.sampled_from(["yes", "off"])),
            }
        return tree

    def tree(self) -> Tree:
        draw, count = self.draw, len(self.networks)
        with_role = self.pair and self.maybe("role sync")
        sync = count - 1 if with_role else None
        interfaces = draw(st.lists(cards, min_size=count, max_size=count, unique=True))
        tree: Tree = {"site": draw(labels)}
        tree["nodes"] = {
            node: {"priority": draw(st.integers(1, 254))} if self.maybe("priority") else {}
            for node in self.nodes
        }
        tree["networks"] = self.network_trees(sync, interfaces)
        if self.pair and (sync is None or self.maybe("ha")):
            tree["ha"] = self.ha(sync)
        word = services(with_ports=True)
        tree["services"] = {
            name: self.short(draw(st.lists(word, min_size=1, max_size=3)))
            for name in self.own_services
        }
        tree["sets"] = self.address_sets()
        tree["firewall"] = self.firewall()
        tree["virtual_services"] = self.virtual_services()
        nat = draw(st.lists(st.sampled_from([self.source_nat, self.destination_nat]), max_size=4))
        tree["nat"] = [make() for make in nat]
        tree["management"] = self.management()
        tree["expect"] = [self.expectation() for _ in range(draw(st.integers(0, 2)))]
        return {key: value for key, value in tree.items() if value or draw(st.booleans())}


def _wire(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4) + part for part in parts)


# OpenSSH takes a point of its curve only: the generator of P-256 (FIPS 186, D.1.2.3) is one.
ON_CURVE = bytes.fromhex(
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@st.composite
def keys(draw: Draw) -> str:
    """A public key that nobody has the private half of."""
    number = draw(st.binary(min_size=32, max_size=32))
    curve = b"nistp256"
    blobs = {
        "ssh-ed25519": (number,),
        "ssh-rsa": (b"\x01\x00\x01", b"\x00\xff" + (number * 8)[1:]),
        "ecdsa-sha2-nistp256": (curve, b"\x04" + ON_CURVE),
    }
    kind = draw(st.sampled_from(sorted(blobs)))
    encoded = base64.b64encode(_wire(kind.encode(), *blobs[kind])).decode()
    return f"{kind} {encoded}{draw(st.sampled_from(['', ' me@example', ' two words']))}"


@st.composite
def trees(draw: Draw) -> Tree:
    """A right site file as plain values."""
    return Site(draw).tree()


@st.composite
def sites(draw: Draw) -> str:
    """A right site file as text."""
    style = draw(st.sampled_from([None, True, False]))
    tree = draw(trees())
    return str(yaml.safe_dump(tree, default_flow_style=style, allow_unicode=True, sort_keys=False))
