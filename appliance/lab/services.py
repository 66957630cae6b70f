"""The hosts inside the peers machine: how they are set up, as pure text, and what they serve.

Each is a network namespace with a card of its own (macvlan) on the machine's card for that
network. All serve the same: SSH (22), FTP (21, anonymous, also to write), HTTP (80), echo (7, TCP
and UDP), iperf3 (5201).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.lab import qemu
from appliance.lab.topology import Host
from appliance.plan.model import Vlan

BASE = "/run/lab"
KEY = f"{BASE}/key"
SHARE = f"{BASE}/share"
SHARED_FILE = "data"  # what FTP and HTTP give; every host has the same
SMALL_FILE = "small"
SHARED_SIZES = {SHARED_FILE: 1 << 20, SMALL_FILE: 64 << 10}  # bytes
SHARED_DIGESTS = f"{BASE}/sha256"
INCOMING = "incoming"  # where FTP's clients may write

_PROGRAMS = ("echo", "probe", "meter", "paced", "ftp", "transfers", "traffic")

SSHD = f"""\
HostKey {BASE}/host_key
AuthorizedKeysFile {KEY}.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
UseDNS no
# Many come at once from one address, and some are killed in the middle: no reason to shut them out.
MaxStartups 100
PerSourcePenalties no
TCPKeepAlive no
"""

# Active mode data comes from port 20, as RFC 959 section 5.2 has it; some firewalls look for that.
# The server's own patience (seconds) and limits (0 is none) must never be why a connection ends.
VSFTPD = f"""\
listen=NO
listen_ipv6=YES
anonymous_enable=YES
no_anon_password=YES
anon_root={SHARE}
write_enable=YES
anon_upload_enable=YES
idle_session_timeout=86400
data_connection_timeout=86400
accept_timeout=86400
max_clients=0
max_per_ip=0
secure_chroot_dir={BASE}/empty
connect_from_port_20=YES
seccomp_sandbox=NO
background=NO
"""

NGINX = f"""\
daemon off;
pid /dev/null;
error_log stderr;
worker_processes 1;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off;
  keepalive_requests 100000;
  server {{ listen 80; listen [::]:80; root {SHARE}; }}
}}
"""


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs one of the lab's own programs on a host."""
    words = ["python3", "-m", f"appliance.lab.{module}", *arguments]
    return ["env", f"PYTHONPATH={BASE}", *words]


def files() -> dict[str, str]:
    """What is written into the peers machine before `prepare` runs."""
    package = Path(__file__).parents[1]
    programs = ("__init__", "lab/__init__", *(f"lab/{name}" for name in _PROGRAMS))
    sources = [f"{name}.py" for name in programs]
    return {
        **{f"{BASE}/appliance/{name}": (package / name).read_text() for name in sources},
        f"{BASE}/sshd_config": SSHD,
        f"{BASE}/vsftpd.conf": VSFTPD,
        f"{BASE}/nginx.conf": NGINX,
    }


def prepare() -> str:
    """The script that makes keys and the shared file, once."""
    keys = "\n".join(
        f"[ -e {path} ] || ssh-keygen -q -t ed25519 -N '' -f {path}"
        for path in (f"{BASE}/host_key", KEY)
    )
    shared = "\n".join(f"head -c {size} /dev/urandom >{n}" for n, size in SHARED_SIZES.items())
    return f"""\
set -e
# An account whose password field begins with ! is locked for sshd; * only has no password.
sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
mkdir -p {SHARE}/{INCOMING} {BASE}/empty {BASE}/log /run/sshd
{keys}
cd {SHARE}
{shared}
sha256sum {" ".join(SHARED_SIZES)} >{SHARED_DIGESTS}
echo lab >index.html
chmod -R a+rX .
chmod 1777 {INCOMING}
"""


def namespace(site: str, host: Host, card: str) -> str:
    """The script that makes one host on `card`, the machine's card on its network."""
    mac = qemu.mac(site, host.name, host.network)
    batch = "\n".join(_batch(host))
    return f"""\
set -e
ip netns add {host.name}
ip link add link {card} name eth0 netns {host.name} address {mac} type macvlan mode bridge
ip -n {host.name} -batch - <<'END'
{batch}
END
"""


def tag(card: str, name: str, vlan: Vlan) -> str:
    """The script that makes the tagged card `name` on `card`; more than one host may ask for it."""
    make = f"ip link add link {card} name {name} type vlan id {vlan.tag}"
    return f"[ -e /sys/class/net/{name} ] || {make}; ip link set {name} up"


def serve(host: Host) -> str:
    """The script that starts a host's services; each writes to a log of its own."""
    programs = {
        "sshd": f"/usr/sbin/sshd -D -e -f {BASE}/sshd_config",
        "vsftpd": f"vsftpd {BASE}/vsftpd.conf",
        "nginx": f"nginx -c {BASE}/nginx.conf",
        "iperf3": "iperf3 -s",
        "echo": shlex.join(program("echo")),
    }
    # vsftpd writes what is wrong to its standard input, where a client would be.
    return "\n".join(
        f"ip netns exec {host.name} {command} >{BASE}/log/{host.name}.{name} 2>&1 <&1 &"
        for name, command in programs.items()
    )


def listening() -> str:
    """A command that succeeds when all services of the host that runs it listen."""
    ports = (7, 21, 22, 80, 5201)
    return " && ".join(f"ss -Hltn sport = {port} | grep -q ." for port in ports)


def cards(networks: Sequence[str]) -> Mapping[str, str]:
    """The peers machine's card on each network."""
    return {network: f"enp0s{slot}" for slot, network in enumerate(networks, 3)}


def _batch(host: Host) -> list[str]:
    """Lines for `ip -batch`. No duplicate address detection: it takes a second and is not the
    point.
    """
    nodad = {4: "", 6: " nodad"}
    return [
        "link set lo up",
        *(f"addr add {a} dev eth0{nodad[a.version]}" for a in host.addresses),
        "link set eth0 up",
        *(f"addr add {a} dev lo{nodad[a.version]}" for a in host.behind),
        *(f"route add default via {a}" for a in host.routers),
    ]
