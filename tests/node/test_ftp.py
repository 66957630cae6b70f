"""FTP over a loss of power, in every phase of it, through source NAT and destination NAT."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

import pytest

from tests.node import ftp
from tests.node.ftp import LARGE, SMALL, Client, Mode
from tests.node.netns import Lab, Node, wait_for
from tests.node.test_pair import active, await_copy, await_standby, standby


class Nat(StrEnum):
    """Which end is translated: the client that goes out, or the server that is reached inside."""

    SNAT = "SNAT"
    DNAT = "DNAT"


class Phase(StrEnum):
    """Where in the life of an FTP session the power goes."""

    IN_FLIGHT = "in flight"  # a file is on its way
    NEXT = "next"  # then the next command and file by the same control connection
    HELD = "held"  # the data connection is agreed upon, and comes after the takeover


Case = tuple[Nat, Mode, Phase]
CASES = [(nat, mode, phase) for nat in Nat for mode in Mode for phase in Phase]
CLIENTS = {Nat.SNAT: ("client", "192.168.1.3"), Nat.DNAT: ("server", "192.168.1.100")}

# Where the helper changes the length of a line.
SHIFTED = {(Nat.SNAT, Mode.PORT), (Nat.SNAT, Mode.EPRT), (Nat.DNAT, Mode.PASV)}
# Where the data connection comes from outside, and only its expectation leads it in.
LED_IN = {*SHIFTED, (Nat.DNAT, Mode.EPSV)}


@dataclass
class Session:
    """Two control connections of one kind: one with a file on its way, one that waits."""

    flying: Client
    holding: Client

    def begin(self) -> None:
        for each in (self.flying, self.holding):
            each.login()
            each.transfer()
        self.flying.agree()
        self.flying.begin(LARGE)
        self.holding.agree()

    def end(self) -> dict[Phase, str]:
        """What went wrong in each phase; nothing, when all is well."""
        outcomes = {
            Phase.HELD: _fault(self._use),
            Phase.IN_FLIGHT: _fault(lambda: self.flying.receive(LARGE)),
            Phase.NEXT: _fault(self._go_on),
        }
        self.flying.close()
        self.holding.close()
        return outcomes

    def _use(self) -> None:
        self.holding.begin(SMALL)
        self.holding.receive(SMALL)
        self.holding.finish()

    def _go_on(self) -> None:
        self.flying.finish()
        self.flying.transfer()


def _fault(step: Callable[[], None]) -> str:
    try:
        step()
    except (AssertionError, *ftp.ERRORS) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def boot(lab: Lab, **settings: object) -> None:
    """Both nodes anew, with these settings of the agents."""
    for node in lab.nodes.values():
        if node.programs:
            node.lose_power()
        path = node.folder / "etc/appliance/agent.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    lab.boot()
    wait_for("one active node", lambda: len(lab.active()) == 1)
    await_standby(standby(lab))


def power_loss(lab: Lab, before: Callable[[Node], None] = lambda _: None) -> dict[Case, str]:
    """All kinds of sessions at once, then power loss of the active node: what went wrong."""
    with ExitStack() as stack:
        stack.enter_context(ftp.server(lab.namespace("server"), "192.168.1.3"))
        stack.enter_context(ftp.server(lab.namespace("client"), "192.168.0.3"))
        sessions = {(nat, mode): _session(lab, nat, mode) for nat in Nat for mode in Mode}
        pool = stack.enter_context(ThreadPoolExecutor(len(sessions)))
        list(pool.map(Session.begin, sessions.values()))
        dead, heir = active(lab), standby(lab)
        await_copy(heir, 3 * len(sessions))
        before(heir)
        dead.lose_power()
        wait_for("takeover", lambda: heir.role() == "MASTER")
        ends = dict(zip(sessions, pool.map(Session.end, sessions.values()), strict=True))
    return {(*kind, phase): text for kind, found in ends.items() for phase, text in found.items()}


def _session(lab: Lab, nat: Nat, mode: Mode) -> Session:
    namespace, host = CLIENTS[nat]
    flying, holding = (Client(lab.namespace(namespace), host, mode) for _ in range(2))
    return Session(flying, holding)


def holds(count: int) -> Callable[[Node], None]:
    """Wait until a standby holds so many of its peer's expectations."""
    return lambda node: wait_for(
        f"{count} expectations", lambda: node.expectations()["held"] >= count
    )


@pytest.fixture(scope="module")
def cured(lab: Lab) -> dict[Case, str]:
    boot(lab, announce=True, hand_over=True)
    return power_loss(lab, holds(len(Nat) * len(Mode)))


@pytest.fixture(scope="module")
def silent(lab: Lab, cured: object) -> dict[Case, str]:
    """Shifted sequences are not announced."""
    boot(lab, announce=False, hand_over=True)
    return power_loss(lab, holds(len(Nat) * len(Mode)))


@pytest.fixture(scope="module")
def keeping(lab: Lab, silent: object) -> dict[Case, str]:
    """Expectations are not handed over."""
    boot(lab, announce=True, hand_over=False)
    return power_loss(lab)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_it_survives(cured: dict[Case, str], case: Case) -> None:
    assert cured[case] == ""


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_without_announcements_shifted_control_connections_die(
    silent: dict[Case, str], case: Case
) -> None:
    dies = case[:2] in SHIFTED and case[2] is not Phase.IN_FLIGHT
    assert bool(silent[case]) == dies, silent[case]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_what_is_not_handed_over_is_not_led_in(keeping: dict[Case, str], case: Case) -> None:
    fails = case[:2] in LED_IN and case[2] is Phase.HELD
    assert bool(keeping[case]) == fails, keeping[case]
