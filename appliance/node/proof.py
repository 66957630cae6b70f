"""Checks of one node's files by the programs that will read them; runs alone, in namespaces.

Started by a python3 in a network and mount namespace of its own, with a job (JSON, as `job` makes
it) on standard input: by a build within the tools tree, and by a router before it changes its site.
Prints a JSON list of what was refused, as [path, program, words]. Standard library only, and
nothing of this package.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

Refusal = tuple[str, str, str]

FILES = Path("/run/verify")
RULESET = "etc/nftables.conf"
KEEPALIVED = "etc/keepalived/keepalived.conf"
CONNTRACKD = "etc/conntrackd/conntrackd.conf"
SSHD = "etc/ssh/sshd_config.d/10-appliance.conf"
KEYS = "etc/ssh/authorized_keys/root"
SCRIPTS = "etc/appliance/checks/"
RSYSLOG = "etc/rsyslog.conf"
NETWORKS = "etc/systemd/network/"

# What systemd makes on the router before the programs start.
FOLDERS = ("/run/appliance", "/run/conntrackd", "/run/sshd", "/var/lib/appliance/drain")

# What the router's base image has made (sshd by its package, the other by systemd-sysusers).
ACCOUNTS = """\
sshd:x:65533:65534::/run/sshd:/bin/false
keepalived_script:x:65532:65534::/:/bin/false
"""

# The one warning that is no fault: a site with a single virtual router has its sync group all the
# same, for it is the group that the agent listens to.
LONE_ROUTER = r"Sync group \S+ has only 1 virtual router"

# All that rsyslogd has to say of a file that is right; the last where it runs as an idle job.
FRAME = (
    r"rsyslogd: (version .*, config validation run|End of config validation run"
    r"|pthread_attr_setschedpolicy failed)"
)

LIMIT_S = 10.0
STATISTICS = 21  # the request of `conntrackd -s`, by its number in conntrackd.h


def job(
    files: Mapping[str, str], only: Collection[str] | None = None, *, root: bool = True
) -> dict[str, Any]:
    """What to check: all of a node's files, or `only` some of them beside the others; and whether
    we are truly root.
    """
    chosen = list(files if only is None else only)
    return {"files": dict(files), "only": chosen, "links": dict(_links(files)), "root": root}


def _links(files: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Each network card's name with its addresses, as networkd's files say."""
    for path, content in files.items():
        if path.startswith(NETWORKS) and path.endswith(".network"):
            pairs = [line.split("=", 1) for line in content.splitlines() if "=" in line]
            name = next(value for key, value in pairs if key == "Name")
            yield name, [value for key, value in pairs if key == "Address"]


def main() -> None:
    """Lay the files out, and let every program read its own."""
    job = json.load(sys.stdin)
    for each in ("/run", "/var/lib"):
        call("mount", "-t", "tmpfs", "verify", each)
    for each in FOLDERS:
        Path(each).mkdir(parents=True)
    for path, text in job["files"].items():
        (FILES / path).parent.mkdir(parents=True, exist_ok=True)
        (FILES / path).write_text(text)
    links(job["links"])
    accounts()
    checks: dict[str, Callable[[], Iterator[Refusal]]] = {
        RULESET: nft,
        KEEPALIVED: keepalived,
        CONNTRACKD: partial(conntrackd, job["root"]),
        SSHD: sshd,
        KEYS: keys,
        RSYSLOG: rsyslog,
    }
    for path in job["files"]:
        if path.startswith(SCRIPTS):
            checks[path] = partial(script, path)
    asked = job["files"].keys() & set(job["only"])
    refused = [each for path, check in checks.items() if path in asked for each in check()]
    json.dump(refused, sys.stdout)


def call(*argv: str, stdin: str | None = None) -> None:
    """A program that has to work, or everything here is void."""
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr}")


def words(*argv: str, program: str | None = None) -> tuple[int, str]:
    """Exit code and all that a program said."""
    done = subprocess.run(
        argv,
        executable=program,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def links(wanted: dict[str, list[str]]) -> None:
    """Network cards of the names and addresses that the node has: each one end of a cable."""
    lines = ["link set lo up"]
    for number, (name, addresses) in enumerate(wanted.items()):
        lines += [
            f"link add name {name} type veth peer name verify{number}",
            f"link set dev {name} up",
            f"link set dev verify{number} up",
            *(f"address add {each} dev {name} nodad" for each in addresses),
        ]
    call("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def accounts() -> None:
    """The users that the files name."""
    users = Path("/run/passwd")
    users.write_text(Path("/etc/passwd").read_text() + ACCOUNTS)
    call("mount", "--bind", str(users), "/etc/passwd")


def nft() -> Iterator[Refusal]:
    """The router's own nft: a dry run, and loading it over itself, as a reload does."""
    path = str(FILES / RULESET)
    for argv in (("nft", "--check", "--file", path), ("nft", "-f", path), ("nft", "-f", path)):
        code, said = words(*argv)
        if code or said:
            yield RULESET, argv[0], said
            return


def keepalived() -> Iterator[Refusal]:
    """Its config test; what it merely warns of is refused as well.

    A reproducible build wants its build options in a file beside itself or its configuration.
    """
    Path("/run/keepalived.config-opts").write_text("none\n")
    argv = ("/run/keepalived", "--config-test", "--use-file", str(FILES / KEEPALIVED))
    code, said = words(*argv, program="/usr/sbin/keepalived")
    bad = [line for line in said.splitlines() if not re.match(LONE_ROUTER, line)]
    if bad or (code and not said):
        yield KEEPALIVED, "keepalived --config-test", said or f"exit code {code}"


def conntrackd(root: bool) -> Iterator[Refusal]:
    """A start, until it answers on its control socket; what it warns of is refused as well.

    Large socket buffers and real-time priority need the true root: others check without these.
    """
    path = FILES / CONNTRACKD
    text = path.read_text()
    if not root:
        path.write_text(re.sub(r"^.*(Snd|Rcv)SocketBuffer.*\n", "", text, flags=re.MULTILINE))
    control = re.search(r"UNIX\s*{\s*Path\s+(\S+)", text)
    if not control:
        yield CONNTRACKD, "conntrackd", "no control socket named"
        return
    said = started(["conntrackd", "-C", str(path)], Path(control[1]))
    bad = [
        line for line in said.splitlines() if re.search(r"\[(warning|error)\]|^error", line, re.I)
    ]
    if not root:
        bad = [line for line in bad if "scheduler configuration failed" not in line]
    if bad:
        yield CONNTRACKD, "conntrackd", "\n".join(bad)


def started(argv: list[str], control: Path) -> str:
    """All that a daemon says until it answers, gives up, or has had its time; then it is ended."""
    log = FILES / "daemon.log"
    with log.open("w") as sink, subprocess.Popen(argv, stdout=sink, stderr=sink) as daemon:
        end = time.monotonic() + LIMIT_S
        while not (alive := answers(control)) and daemon.poll() is None and time.monotonic() < end:
            time.sleep(0.01)  # poll
        ended = daemon.poll()
        daemon.terminate()
    said = log.read_text()
    if alive:
        return said
    why = f"no answer within {LIMIT_S:g} s" if ended is None else f"ended with {ended}"
    return f"error: {why}\n{said}"


def answers(control: Path) -> bool:
    """Whether conntrackd's main loop answers: it listens before all else that can fail."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(LIMIT_S)
        try:
            probe.connect(str(control))
            probe.sendall(struct.pack("i", STATISTICS))
            return bool(probe.recv(1))
        except OSError:
            return False


def sshd() -> Iterator[Refusal]:
    """Its own test mode, with a host key, a folder and a user as the router has them."""
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/hostkey")
    code, said = words("/usr/sbin/sshd", "-t", "-h", "/run/hostkey", "-f", str(FILES / SSHD))
    if code or said:
        yield SSHD, "sshd -t", said


def script(path: str) -> Iterator[Refusal]:
    """A script of a check, by the shell that will run it."""
    code, said = words("sh", "-n", str(FILES / path))
    if code:
        yield path, "sh -n", said


def keys() -> Iterator[Refusal]:
    """Every line of root's keys is one that OpenSSH can read; an empty file lets nobody in."""
    for number, line in enumerate((FILES / KEYS).read_text().splitlines(), 1):
        one = Path("/run/key")
        one.write_text(line + "\n")
        code, said = words("ssh-keygen", "-l", "-f", str(one))
        if code:
            yield KEYS, "ssh-keygen", f"line {number}: {said}"


def rsyslog() -> Iterator[Refusal]:
    """Its own check of a configuration; what it merely warns of is refused as well."""
    code, said = words("/usr/sbin/rsyslogd", "-N1", "-f", str(FILES / RSYSLOG))
    bad = [line for line in said.splitlines() if not re.match(FRAME, line)]
    if code or bad:
        yield RSYSLOG, "rsyslogd -N1", "\n".join(bad) or f"exit code {code}"


if __name__ == "__main__":
    main()
