"""The hosts inside the peers machine: how they are set up, as pure text, and what they serve.

Each is a network namespace with a card of its own (macvlan) on the machine's card for that
network. All serve the same: SSH (22), FTP (21, anonymous), HTTP (80), echo (7, TCP and UDP),
iperf3 (5201).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.lab import qemu
from appliance.lab.topology import Host

BASE = "/run/lab"
KEY = f"{BASE}/key"
SHARED_FILE = "data"  # what FTP and HTTP give
SHARED_SIZE = 8 << 20  # bytes

SSHD = f"""\
HostKey {BASE}/host_key
AuthorizedKeysFile {KEY}.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
UseDNS no
"""

# Active mode data comes from port 20, as RFC 959 section 5.2 has it; some firewalls look for that.
VSFTPD = f"""\
listen=YES
anonymous_enable=YES
no_anon_password=YES
anon_root={BASE}/share
secure_chroot_dir={BASE}/empty
connect_from_port_20=YES
reverse_lookup_enable=NO
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
  server {{ listen 80; listen [::]:80; root {BASE}/share; }}
}}
"""


def files() -> dict[str, str]:
    """What is written into the peers machine before `prepare` runs."""
    here = Path(__file__).parent
    programs = ("traffic.py", "echo.py", "probe.py")
    return {
        **{f"{BASE}/{name}": (here / name).read_text() for name in programs},
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
    share = f"{BASE}/share"
    return f"""\
set -e
# An account whose password field begins with ! is locked for sshd; * only has no password.
sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
mkdir -p {share} {BASE}/empty {BASE}/log /run/sshd
{keys}
head -c {SHARED_SIZE} /dev/urandom >{share}/{SHARED_FILE}
echo lab >{share}/index.html
chmod -R a+rX {share}
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


def serve(host: Host) -> str:
    """The script that starts a host's services; each writes to a log of its own."""
    programs = {
        "sshd": f"/usr/sbin/sshd -D -e -f {BASE}/sshd_config",
        "vsftpd": f"vsftpd {BASE}/vsftpd.conf",
        "nginx": f"nginx -c {BASE}/nginx.conf",
        "iperf3": "iperf3 -s",
        "echo": f"python3 {BASE}/echo.py",
    }
    return "\n".join(
        f"ip netns exec {host.name} {command} </dev/null >{BASE}/log/{host.name}.{name} 2>&1 &"
        for name, command in programs.items()
    )


def listening() -> str:
    """A command that succeeds when all services of the host that runs it listen."""
    ports = "22|21|80|5201|7"
    return f"test $(ss -Hltn | grep -cE ':({ports}) ' ) -ge 5"


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
