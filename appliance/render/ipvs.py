"""keepalived's part of load balancing: virtual servers by firewall mark, their real servers, and
how their health is known.

Sources: keepalived.conf(5) of keepalived 2.3, and the kernel's ip_vs_mh.c and ipvs-sysctl.rst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path, PurePosixPath

from appliance.node import ctnetlink
from appliance.plan.model import Address, Plan
from appliance.plan.virtual import (
    Check,
    DnsCheck,
    Forward,
    HttpCheck,
    Kind,
    OnFailure,
    PingCheck,
    RealServer,
    Scheduler,
    ScriptCheck,
    SmtpCheck,
    TcpCheck,
    UdpCheck,
    VirtualService,
)
from appliance.render import balanced, sysctl
from appliance.render.blocks import Block
from appliance.render.tree import File

CHECKS = PurePosixPath("etc/appliance/checks")
SCRIPT_USER = "keepalived_script"

_METHODS = {Forward.NAT: "NAT", Forward.DIRECT: "DR", Forward.TUNNEL: "TUN"}

# A client must meet one server on all ports of a service: so not by its port (mh-port). And the
# clients of a server that is at weight 0 or full go to another, which is not the default.
_FLAGS = {Scheduler.MH: "mh-fallback", Scheduler.SH: "sh-fallback"}


# Added to the weight of a server whose file says 1: as much as a weight can be, and less than
# nothing is 0 for keepalived. It is no failure: the server keeps its connections, and is checked.
_NOTHING = -65535


def global_lines(plan: Plan) -> Iterator[str]:
    """What global_defs hold for virtual services.

    IPVS would forget an idle connection after 15 minutes, and take its connection-tracking entry
    with it: it lives as long as that.
    """
    if not plan.virtual_services:
        return
    yield f"lvs_timeouts tcp {ctnetlink.ESTABLISHED_S} udp {ctnetlink.STREAM_S}"
    # Else nothing says why a server is out (appliance.node.checks).
    yield "checker_log_all_failures"
    if scripts(plan):
        yield f"script_user {SCRIPT_USER}"


def virtual_servers(plan: Plan) -> list[Block]:
    """One for each service and IP version; before them the files that drain their servers."""
    services = plan.virtual_services
    tracked = [
        Block(f"track_file {_drain(each)}", (f'file "{each}"',)) for each in balanced.drains(plan)
    ]
    servers = [_virtual_server(each, version) for each in services for version in each.versions]
    return [*tracked, *servers]


def _drain(file: Path) -> str:
    return f"drain-{file.name}"


def _virtual_server(service: VirtualService, version: int) -> Block:
    flag = _FLAGS.get(service.scheduler)
    return Block(
        f"virtual_server fwmark {service.marks[version]}",
        (
            f"ip_family {'inet' if version == 4 else 'inet6'}",
            *_times(service.check),
            f"lvs_sched {service.scheduler}",
            *([flag] if flag else []),
            f"lvs_method {_METHODS[service.forward]}",
            *_persistence(service, version),
            f"quorum {service.quorum}",
            f"hysteresis {service.hysteresis}",
            *(f"sorry_server {each} 0" for each in service.sorry if each.version == version),
            *(_real_server(service, server, version) for server in service.servers),
        ),
    )


def _times(check: Check) -> Iterator[str]:
    """Of all its checks: here they are read once, and not for each server."""
    yield f"delay_loop {_seconds(check.interval_ms)}"
    if not isinstance(check.kind, ScriptCheck):
        yield f"connect_timeout {_seconds(check.timeout_ms)}"
    if check.retries:
        yield f"retry {check.retries}"
    yield f"delay_before_retry {_seconds(check.delay_retry_ms)}"


def _persistence(service: VirtualService, version: int) -> Iterator[str]:
    if service.persistence:
        yield f"persistence_timeout {service.persistence.time_s}"
        length = service.persistence.lengths.get(version)
        if length:
            mask = IPv4Network(f"0.0.0.0/{length}").netmask if version == 4 else length
            yield f"persistence_granularity {mask}"


def _real_server(service: VirtualService, server: RealServer, version: int) -> Block:
    address, drain = server.address(version), _drain(balanced.drain(service, server))
    return Block(
        f"real_server {address} 0",
        (
            f"weight {server.weight}",
            *([f"uthreshold {server.limit}"] if server.limit else []),
            *(["inhibit_on_failure"] if service.on_failure is OnFailure.WEIGHT_ZERO else []),
            Block("FILE_CHECK", (f"track_file {drain}", f"weight {_NOTHING}")),
            _check(service, address),
        ),
    )


# Checks

_CHECKERS: Mapping[type[Kind], str] = {
    TcpCheck: "TCP_CHECK",
    HttpCheck: "HTTP_GET",
    SmtpCheck: "SMTP_CHECK",
    DnsCheck: "DNS_CHECK",
    UdpCheck: "UDP_CHECK",
    PingCheck: "PING_CHECK",
    ScriptCheck: "MISC_CHECK",
}


def _check(service: VirtualService, address: Address) -> Block:
    head, lines = _kind(service, address)
    check = service.check
    if check.port is not None and not isinstance(check.kind, ScriptCheck):
        lines.append(f"connect_port {check.port}")
    if not check.retries:  # keepalived takes that at no other place
        lines.append("retry 0")
    return Block(head, tuple(lines))


def _kind(service: VirtualService, address: Address) -> tuple[str, list[str | Block]]:
    """The name of keepalived's checker, and the lines that only it has."""
    kind = service.check.kind
    lines: list[str | Block] = []
    match kind:
        case HttpCheck():
            sni = ["enable_sni"] if kind.tls and kind.virtual_host else []
            lines = [*sni, Block("url", tuple(_page(kind)))]
        case SmtpCheck(str(helo)):
            lines = [f"helo_name {helo}"]
        case DnsCheck(name, type_):
            lines = [f"name {name}", f"type {type_}"]
        case UdpCheck(str(payload)):
            # An answer of more than 255 bytes would be a failure by default.
            lines = [f"payload {payload}", "require_reply", "max_reply_length 65535"]
        case ScriptCheck():
            call = f"/{CHECKS / service.name} {address} {service.check.port}"
            lines = [f'misc_path "{call}"', f"misc_timeout {service.check.timeout_ms // 1000}"]
    secure = isinstance(kind, HttpCheck) and kind.tls
    return "SSL_GET" if secure else _CHECKERS[type(kind)], lines


def _page(page: HttpCheck) -> Iterator[str]:
    yield f'path "{page.path}"'
    if page.virtual_host:
        yield f"virtualhost {page.virtual_host}"
    if page.statuses:
        codes = (str(a) if a == b else f"{a}-{b}" for a, b in page.statuses)
        yield f"status_code {' '.join(codes)}"
    if page.digest:
        yield f"digest {page.digest}"
    if page.regex:
        yield f"regex {quoted(page.regex)}"


def quoted(text: str) -> str:
    """Text that keepalived reads as one word, its escapes its own.

    A quote by its number: keepalived 2.3 first looks for the end of the word without regard to
    escapes (`alloc_strvec_r` in lib/parser.c), and takes `\\"` for it.
    """
    escaped = text.replace("\\", "\\\\").replace('"', "\\x22")
    return f'"{escaped}"'


def _seconds(ms: int) -> str:
    return f"{ms / 1000:g}"


# Files beside keepalived.conf


def scripts(plan: Plan) -> Mapping[PurePosixPath, File]:
    """The scripts of the checks, by the names of their services."""
    kinds = {service.name: service.check.kind for service in plan.virtual_services}
    return {
        CHECKS / name: File(f"#!/bin/sh\n{kind.text}\n", 0o755)
        for name, kind in kinds.items()
        if isinstance(kind, ScriptCheck)
    }


def unit(plan: Plan) -> str | None:
    """What keepalived's service has to allow for the checks of this site, if anything."""
    lines = []
    if scripts(plan):
        # To become the user of the scripts, and to end one that takes too long.
        lines.append("CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL")
    if any(_has_regex(service.check) for service in plan.virtual_services):
        # Regular expressions are compiled to machine code, and not used if that is refused.
        lines.append("MemoryDenyWriteExecute=no")
    return "\n".join(["[Service]", *lines, ""]) if lines else None


def _has_regex(check: Check) -> bool:
    return isinstance(check.kind, HttpCheck) and check.kind.regex is not None


def module_options() -> str:
    """The text of etc/modprobe.d/appliance.conf: by default IPVS has 4096 lists for all
    connections.
    """
    bits = (sysctl.CONNECTIONS - 1).bit_length()
    return f"options ip_vs conn_tab_bits={bits}\n"
