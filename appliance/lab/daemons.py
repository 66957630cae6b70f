"""The programs that hosts serve with, as pure text: commands, configurations and preparations."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.lab import postfix
from appliance.lab.places import BASE, KEY, SHARE, folder
from appliance.lab.serving import (
    STANDARD,
    Application,
    Page,
    Port,
    pages,
    serving,
)
from appliance.lab.topology import Host
from appliance.plan.model import Address, Protocol
from appliance.plan.virtual import VirtualService
from appliance.render.real_servers import held, vsftpd

_PROGRAMS = (
    "echo",
    "probe",
    "meter",
    "paced",
    "ftp",
    "transfers",
    "questions",
    "web",
    "smtp",
    "traffic",
    "asking",
    "mailing",
)
_CERTIFICATE, _CERTIFICATE_KEY = f"{BASE}/certificate.pem", f"{BASE}/certificate.key"

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

# The server's own patience (seconds) and limits (0 is none) must never be why a connection ends.
VSFTPD = f"""\
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
seccomp_sandbox=NO
background=NO
"""

# Active mode data comes from port 20, as RFC 959 section 5.2 has it; some firewalls look for that.
_ANY_FTP = ("listen=NO", "listen_ipv6=YES", "connect_from_port_20=YES")

NGINX = """\
load_module modules/ngx_http_echo_module.so;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 1;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 100000;
  keepalive_timeout 1d;
  server {{
{listen}
    root {share};
    location = /who {{ return 200 "{name}\\n"; }}
    include {folder}/health.conf;
  }}
}}
"""

TLS = f"""\
    ssl_certificate {_CERTIFICATE};
    ssl_certificate_key {_CERTIFICATE_KEY};
"""

# Of the root, so that it answers for every name; and whatever is asked, it can say who it is.
ZONE = """\
$TTL 60
@ SOA ns.lab. lab. 1 3600 600 86400 60
@ NS ns.lab.
@ TXT "{name}"
* TXT "{name}"
{addresses}"""

NSD = """\
server:
  server-count: 1
  rrl-size: 1000
  rrl-ratelimit: 0
  username: ""
  chroot: ""
  zonesdir: {folder}
  pidfile: ""
  xfrdfile: {folder}/xfrd.state
  zonelistfile: {folder}/zone.list
{listen}
remote-control:
  control-enable: no
zone:
  name: .
  zonefile: root.zone
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One program of a host: what starts it, what it reads, and the ports to wait for.

    `prepare` is a script that runs before the first start, in the machine.
    """

    name: str
    commands: tuple[str, ...]
    listens: tuple[Port, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    prepare: str = ""


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs one of the lab's own programs on a host."""
    words = ["python3", "-m", f"appliance.lab.{module}", *arguments]
    return ["env", f"PYTHONPATH={BASE}", *words]


def programs() -> dict[str, str]:
    """The lab's own programs, by their paths in the machine."""
    package = Path(__file__).parents[1]
    names = ("__init__", "lab/__init__", *(f"lab/{name}" for name in _PROGRAMS))
    return {f"{BASE}/appliance/{name}.py": (package / f"{name}.py").read_text() for name in names}


def keys() -> str:
    """The script that makes what all hosts have in common, once: host key, key, certificate.

    The host key is the same everywhere, so that a client does not care which server it meets.
    """
    certificate = f"-keyout {_CERTIFICATE_KEY} -out {_CERTIFICATE} -subj /CN=lab -days 3650"
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    made = [
        f"[ -e {path} ] || ssh-keygen -q -t ed25519 -N '' -f {path}"
        for path in (f"{BASE}/host_key", KEY)
    ]
    made += [f"[ -e {_CERTIFICATE} ] || openssl req -quiet -x509 {curve} {certificate}"]
    return "\n".join(made)


def daemons(host: Host) -> tuple[Daemon, ...]:
    """What a host runs from the start."""
    return tuple(_made(host, serving(host)))


def daemon(host: Host, name: str) -> Daemon:
    """A host's program of that name, with the ports of its own, else the usual ones; KeyError when
    there is no such program.
    """
    own = {each.name: each for each in daemons(host)}
    usual = {each.name: each for each in _made(host, STANDARD)}
    return own.get(name) or usual[name]


Ports = Sequence[Port]


def _made(host: Host, ports: Mapping[Application, Ports]) -> Iterator[Daemon]:
    web = [*ports.get(Application.HTTP, ()), *ports.get(Application.HTTPS, ())]
    if web:
        secure = ports.get(Application.HTTPS, ())
        yield _nginx(host, tuple(web), frozenset(secure))
    for spoken, make in _MAKERS.items():
        if spoken in ports:
            yield make(host, ports[spoken])


def _sshd(host: Host, ports: Ports) -> Daemon:
    path = f"{folder(host.name)}/sshd_config"
    lines = [f"Port {port.number}\n" for port in ports]
    text = SSHD + f"SetEnv LAB_HOST={host.name}\n" + "".join(lines)
    return Daemon("sshd", (f"/usr/sbin/sshd -D -e -f {path}",), tuple(ports), {path: text})


def _vsftpd(host: Host, ports: Ports) -> Daemon:
    """As `appliance explain` has it for the service; one program for each IP version of that."""
    service = next((each for each in host.serves if each.ftp), None)
    files = {}
    for version in service.versions if service else (None,):
        path = f"{folder(host.name)}/vsftpd{version or ''}.conf"
        own = vsftpd(service, version) if service and version else _ANY_FTP
        lines = (*own, f"listen_port={ports[0].number}", f"ftpd_banner={host.name}")
        files[path] = VSFTPD + "\n".join(lines) + "\n"
    return Daemon("vsftpd", tuple(f"vsftpd {path}" for path in files), tuple(ports), files)


def _nginx(host: Host, ports: Ports, secure: frozenset[Port]) -> Daemon:
    own = folder(host.name)
    listen = "".join(
        f"    listen {family}{port.number}{' ssl' if port in secure else ''};\n"
        for port in ports
        for family in ("", "[::]:")
    )
    text = NGINX.format(
        folder=own, listen=listen + (TLS if secure else ""), share=SHARE, name=host.name
    )
    files = {f"{own}/nginx.conf": text, f"{own}/health.conf": health(host)}
    return Daemon("nginx", (f"nginx -c {own}/nginx.conf",), tuple(ports), files)


def health(host: Host, status: int | None = None, *, hangs: bool = False) -> str:
    """What nginx answers on the pages that health checks ask for: that all is well, or `status`,
    or nothing for a day.
    """
    return "".join(_location(page, status, hangs=hangs) for page in pages(host))


def _location(page: Page, status: int | None, *, hangs: bool) -> str:
    if hangs:
        answer = "echo_sleep 86400; echo late;"
    elif 300 <= (status or page.status) < 400:
        answer = f"return {status or page.status} /;"
    else:
        text = page.text if status is None else "not well"
        answer = f'return {status or page.status} "{text}\\n";'
    return f"location = {page.path} {{ {answer} }}\n"


def _postfix(host: Host, ports: Ports) -> Daemon:
    return Daemon(
        "postfix",
        (postfix.command(host.name),),
        tuple(ports),
        postfix.files(host.name, [port.number for port in ports]),
        postfix.prepare(host.name),
    )


def _nsd(host: Host, ports: Ports) -> Daemon:
    """On each address by itself: only so does an answer over UDP come from the one that was
    asked.
    """
    own = folder(host.name)
    addresses = [each.ip for each in host.addresses] + _held(host.serves)
    numbers = sorted({port.number for port in ports})
    listen = [f"  ip-address: {address}@{n}\n" for address in addresses for n in numbers]
    both = tuple(Port(p, n) for p in (Protocol.TCP, Protocol.UDP) for n in numbers)
    records = "".join(
        f"{name} {'A' if address.version == 4 else 'AAAA'} {address}\n"
        for name in "@*"
        for address in [each.ip for each in host.addresses]
    )
    files = {
        f"{own}/nsd.conf": NSD.format(folder=own, listen="".join(listen)),
        f"{own}/root.zone": ZONE.format(name=host.name, addresses=records),
    }
    return Daemon("nsd", (f"/usr/sbin/nsd -d -c {own}/nsd.conf",), both, files)


def _held(services: Sequence[VirtualService]) -> list[Address]:
    each = [address.ip for s in services for one in held(s) for address in one.addresses]
    return list(dict.fromkeys(each))


def _echo(_: Host, ports: Ports) -> Daemon:
    return Daemon("echo", (shlex.join(program("echo", *map(str, ports))),), tuple(ports))


def _iperf3(_: Host, ports: Ports) -> Daemon:
    return Daemon("iperf3", (f"iperf3 -s -p {ports[0].number}",), tuple(ports[:1]))


_MAKERS: Mapping[Application, Callable[[Host, Ports], Daemon]] = {
    Application.SSH: _sshd,
    Application.FTP: _vsftpd,
    Application.SMTP: _postfix,
    Application.DNS: _nsd,
    Application.ECHO: _echo,
    Application.IPERF3: _iperf3,
}
