"""Put changed files of a site in force on a node that runs, and see whether it is well then."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.node import facts, health, networks
from appliance.node.change import Step
from appliance.node.events import Role
from appliance.node.facts import Facts, at, differences
from appliance.node.ruleset import FILE, Ruleset

Command = tuple[str, ...]

_KEEPALIVED = "keepalived.service"
_STEP_S = 60.0  # for one command, at most
_WELL_S = 30.0  # for the daemons to be well again
_ADDRESSES_S = 10.0
# keepalived is told by a signal: what becomes of it is not known at once.
_HOLD_S = 1.0
_POLL_S = 0.2
# What the standby may lack of the active node's connections: what is under way.
_SLACK, _SLACK_SHARE = 50, 0.05

_COMMANDS: Mapping[Step, tuple[Command, ...]] = {
    Step.UNITS: (("systemctl", "daemon-reload"),),
    Step.MODULES: (("/usr/lib/systemd/systemd-modules-load",),),
    Step.SETTINGS: (("/usr/lib/systemd/systemd-sysctl",),),
    Step.FIREWALL: (("systemctl", "reload", "nftables"),),
    Step.NETWORKS: (("networkctl", "reload"),),
    Step.CONNTRACKD: (("systemctl", "restart", "conntrackd"),),
    Step.EXPECTATIONS: (("systemctl", "restart", "appliance-expectations"),),
    Step.AGENT: (("systemctl", "restart", "appliance-agent"),),
    Step.RELOAD: (("systemctl", "reload", "keepalived"),),
    Step.RESTART: (("systemctl", "restart", "keepalived"),),
    Step.SSH: (("systemctl", "reload-or-restart", "ssh"),),
    Step.METRICS: (("systemctl", "restart", "appliance-collect", "appliance-metrics"),),
    Step.SYSLOG: (("systemctl", "restart", "rsyslog"),),
    Step.TIME: (("systemctl", "restart", "systemd-timesyncd"),),
}
STAND_ASIDE: Command = ("systemctl", "stop", "keepalived")
STAND_AGAIN: Command = ("systemctl", "start", "keepalived")


class StepError(Exception):
    """Something could not be put in force, or the node is not well with it."""


@dataclass(frozen=True, slots=True)
class Well:
    """How a node was before: what is wrong already is not the fault of what comes."""

    troubles: frozenset[str]
    role: Role | None


def call(command: Command) -> None:
    """Run a program to its end; StepError with its last words when it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_STEP_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StepError(f"{' '.join(command)}: {said[-1] if said else done.returncode}")


def run(
    steps: Iterable[Step], old: Mapping[str, str], new: Mapping[str, str], *, aside: bool = False
) -> None:
    """Take these steps; with `aside` keepalived is stopped first, and stays so.

    `old` and `new` are the contents of the files that differ.
    """
    if aside:
        call(STAND_ASIDE)
    for step in steps:
        if aside and step in (Step.RELOAD, Step.RESTART):
            continue
        for command in _COMMANDS[step]:
            call(command)
        if step is Step.NETWORKS:
            _tidy(old, new)


def _tidy(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Wait for the new addresses, and take the old ones away."""
    _wait(lambda: networks.missing(new, _links()), _ADDRESSES_S, "addresses are missing")
    for command in networks.gone(old, new):
        # It may be gone already, with its card or with its address.
        subprocess.run(command, capture_output=True, check=False, timeout=_STEP_S)


def _links() -> list[dict[str, object]]:
    done = subprocess.run(("ip", "-j", "address"), capture_output=True, text=True, check=False)
    links: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return links


# Whether all is well


def look(root: Path) -> Well:
    """How the node is before anything changes."""
    told = facts.gather(root)
    return Well(frozenset(_troubles(root, told)), at(told, "state", "role"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a node is to be with its changed site.

    `role` is the one that it must have; None where that does not matter. With `aside` it has no
    keepalived; with `synced` it must hold its peer's connections; with `keepalived` that was told
    to do something, and takes a moment.
    """

    role: Role | None = None
    aside: bool = False
    synced: bool = False
    keepalived: bool = False


def wait_well(root: Path, before: Well, wanted: Wanted) -> None:
    """Wait until nothing is wrong that was right before; StepError with what is, in the end."""
    ruleset = Ruleset(root / FILE)

    def wrong() -> list[str]:
        told = facts.gather(root)
        every = [*_troubles(root, told), *_unlike(told, wanted)]
        every += [rules] if (rules := ruleset.problem()) else []
        fresh = [each for each in every if each not in before.troubles]
        return [each for each in fresh if not (wanted.aside and _of_vrrp(each))]

    _wait(wrong, _WELL_S, "not well", _HOLD_S if wanted.keepalived else 0.0)


def _troubles(root: Path, told: Facts) -> Iterator[str]:
    """What is wrong; that the peer is not made from the same site is no wonder now."""
    expected = set(differences(told, at(told, "state", "peer") or {}))
    every = (*health.problems(root, told["units"]), *facts.of_pair(told))
    yield from (each for each in every if each not in expected)


def _of_vrrp(trouble: str) -> bool:
    words = (_KEEPALIVED, "its role is", "node is active", "nodes are active")
    return any(each in trouble for each in words)


def _unlike(told: Facts, wanted: Wanted) -> Iterator[str]:
    now = at(told, "state", "role")
    if wanted.role is not None and now != wanted.role:
        yield f"its role is {now}, and it was {wanted.role}"
    if wanted.synced and now == Role.BACKUP:
        there, here = (
            at(told, "state", "peer", "internal"),
            at(told, "state", "entries", "external"),
        )
        if there is None or here is None or here < there * (1 - _SLACK_SHARE) - _SLACK:
            yield f"it holds {here} of its peer's {there} connections"


def _wait(wrong: Callable[[], list[str]], limit: float, what: str, hold: float = 0.0) -> None:
    """Poll until nothing was wrong for `hold` seconds; StepError after `limit` seconds."""
    deadline, well_since, last = time.monotonic() + limit, None, list[str]()
    while True:
        found, now = wrong(), time.monotonic()
        last = found or last
        well_since = None if found else well_since or now
        if well_since and now - well_since >= hold:
            return
        if now > deadline:
            raise StepError(f"{what}: {'; '.join(last)}")
        time.sleep(_POLL_S)  # poll
