"""Plans made by hand, for tests of single renderers."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from appliance.plan.model import (
    Action,
    DropLog,
    Network,
    Node,
    Origin,
    Pair,
    Per,
    Plan,
    PortRange,
    Protocol,
    Rate,
    Role,
    Rule,
    Service,
    SourceNat,
    Ssh,
    VirtualRouter,
)

TCP = Service(Protocol.TCP)
FTP = Service(Protocol.TCP, (PortRange(21, 21),), "ftp")
ICMP = Service(Protocol.ICMP)


def network(name, interface, role, one, two, *virtual, line=1, gateways=(), routes=()):
    return Network(
        name=name,
        interface=interface,
        role=role,
        addresses={
            "fw1": tuple(ip_interface(each) for each in one.split()),
            "fw2": tuple(ip_interface(each) for each in two.split()),
        },
        aliases={},
        virtual=tuple(ip_interface(each) for each in virtual),
        gateways=gateways,
        routes=routes,
        origin=Origin(line, 1),
    )


def rule(line=1, **kwargs):
    said = {
        "from_": None,
        "to": None,
        "to_self": False,
        "source": None,
        "destination": None,
        "services": (),
        "action": Action.ACCEPT,
        "comment": None,
    }
    return Rule(**(said | kwargs), origin=Origin(line, 1))


NETWORKS = (
    network(
        "inside", "enp0s3", Role.TRAFFIC, "192.168.0.1/24", "192.168.0.2/24", "192.168.0.100/24"
    ),
    network(
        "outside", "enp0s4", Role.TRAFFIC, "192.168.1.1/24", "192.168.1.2/24", "192.168.1.100/24"
    ),
    network("sync", "enp0s5", Role.SYNC, "192.168.3.1/24", "192.168.3.2/24"),
)


def routers(networks):
    """A virtual router for each network and family that has virtual addresses."""
    result = []
    for each in networks:
        for version in (4, 6):
            held = tuple(address for address in each.virtual if address.version == version)
            if held:
                result.append(VirtualRouter(each.name, version, len(result) + 1, held))
    return tuple(result)


def plan(networks=NETWORKS, **kwargs):
    """The plan of examples/testcase.yaml, with what is given instead."""
    said = {
        "site": "testcase",
        "file": "testcase.yaml",
        "digest": "0" * 64,
        "nodes": (Node("fw1", 150), Node("fw2", 100)),
        "networks": {each.name: each for each in networks},
        "rules": (
            rule(25, from_="inside", to="outside", services=(TCP,)),
            rule(26, from_="inside", to="outside", services=(FTP,)),
            rule(27, from_="inside", to="outside", services=(ICMP,)),
        ),
        "source_nat": (
            SourceNat(
                "inside",
                "outside",
                ip_network("192.168.0.3"),
                None,
                (),
                ip_address("192.168.1.100"),
                Origin(31, 5),
            ),
        ),
        "destination_nat": (),
        "log": DropLog(dropped=True, invalid=True, limit=Rate(10, Per.SECOND)),
        "pair": Pair(100, False, ("sync",), routers(networks)),
        "ssh": Ssh(("inside", "sync"), ()),
        "metrics": None,
        "expectations": (),
    }
    return Plan(**(said | kwargs))
