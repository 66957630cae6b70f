"""The sites that several tests share, each one pair for all of them, and the ways through them."""

from __future__ import annotations

from ipaddress import ip_address

from appliance.lab.load import Cell, Kind, Mode, Path, cells
from appliance.site import load
from vmtests.installed import CLONE
from vmtests.wanted import Wanted

FILE = CLONE / "vmtests/sites/matrix.yaml"
SITE = FILE.read_text()
PLAN = load(FILE)

# testcase.yaml with a rule more, for a UDP probe each 5 ms, and with metrics.
USUAL = (
    (CLONE / "examples/testcase.yaml")
    .read_text()
    .replace("  rules:\n", "  rules:\n    - {from: inside, to: outside, service: udp}\n")
    .replace("  ssh: {from", "  metrics: {from: inside}\n  ssh: {from")
)

# Somebody is on its sync network too: what answers there is asked.
USUAL_PAIR = Wanted(USUAL, {"sync": 1})

# What the matrix and the soak have.
SNAT = Path("snat", "inside", "outside", ip_address("192.168.1.3"))
DNAT = Path("dnat", "outside", "inside", ip_address("192.168.1.100"))
# A host for each address that the site names: the IPv6 ones have hosts of their own.
IPV6 = Path("ipv6", "inside-2", "outside-2", ip_address("fd00:0:0:b::3"))
WAYS = (SNAT, DNAT, IPV6)

# Some of each kind: every way, and FTP where NAT has most to rewrite and where it has nothing to.
FEW: tuple[Cell, ...] = (
    *cells(WAYS, (Kind.SSH, Kind.UDP)),
    *cells((SNAT,), (Kind.SSH_IDLE, Kind.HANDSHAKE, Kind.TCP, Kind.FTP_IDLE)),
    *cells((SNAT,), (Kind.DOWNLOAD, Kind.UPLOAD, Kind.NEXT, Kind.HELD), (Mode.PORT,)),
    *cells((DNAT,), (Kind.DOWNLOAD, Kind.UPLOAD, Kind.NEXT, Kind.HELD), (Mode.PASV,)),
    *cells((IPV6,), (Kind.HELD,), (Mode.EPSV,)),
)
