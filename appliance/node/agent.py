"""The state agent: one process that keeps conntrackd in step with keepalived.

Run as `python3 -m appliance.node.agent`, supervised by systemd (Type=notify, watchdog). It says
READY when its gate has passed, and keepalived starts after it. See docs/state-agent.md.
"""

from __future__ import annotations

import logging
import select
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from appliance.node import config as configuration
from appliance.node import driver, kernel, netlink, statefile
from appliance.node.config import Config
from appliance.node.conntrackd import Conntrackd, NoAnswerError, Request, Stats
from appliance.node.driver import HEAL, REJOIN, TAKE_OVER, Done
from appliance.node.events import Fifo, Parser, Role
from appliance.node.gate import Gate, Outcome, Verdict
from appliance.node.journal import log_to_journal
from appliance.node.notify import notify
from appliance.node.signals import committed

log = logging.getLogger("appliance.agent")

_TICK_S = 1.0
_GATE_TICK_S = 0.1
_HEAL_EVERY_S = 2.0  # several instances report the same split brain
_ASK_AFTER_S = 2.0  # a new standby lets the new active node finish its commit first
_ASK_EVERY_S = 5.0
_PEER_SILENT_S = 5.0  # conntrackd speaks each second
_HANDOVER_HOLD_S = 10.0
_FORGET_LIMIT_S = 0.1  # a tick; what is left goes in the next ones


@dataclass(slots=True)
class World:
    """What the agent asks of the machine; tests put something else in its place."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    addresses: Callable[[], frozenset[configuration.Address]] = netlink.addresses
    carrier: Callable[[str], bool] = netlink.carrier


@dataclass(slots=True)
class Agent:
    """All state of the agent. `step` is one turn of its loop and never waits for events."""

    config: Config
    world: World = field(default_factory=World)
    role: Role = Role.INIT
    verdict: Verdict | None = None
    alarms: dict[str, str] = field(default_factory=dict)
    takeover: dict[str, Any] | None = None
    stats: Stats | None = None
    fifo: Fifo = field(init=False)
    conntrackd: Conntrackd = field(init=False)
    _gate: Gate = field(init=False)
    _since: tuple[float, float] = field(init=False)
    _owed: tuple[Request, ...] = ()  # what conntrackd did not answer, or newer events cut short
    _instance: tuple[int, int] | None = None
    _told: Role | None = None  # by keepalived, and not acted upon yet
    _shared: bool = False
    _last_heal: float = float("-inf")
    _next_ask: float = float("inf")
    _next_look: float = 0.0
    _heard: tuple[float, int] = (0.0, -1)
    _handover_seen: float | None = None
    _stale: bool = False  # whether we hold what we knew as the active node

    def __post_init__(self) -> None:
        now = self.world.monotonic()
        self.fifo = Fifo(self.config.fifo, Parser(self.config.group))
        self.conntrackd = Conntrackd(self.config.control)
        self._gate = Gate(now, self.config.gate_s, self.config.absent_s)
        self._since = (now, self.world.wall())
        self._heard = (now, -1)
        self._instance = self.conntrackd.instance()
        if self.world.addresses() & set(self.config.virtual):
            self._enter(Role.MASTER, "the virtual addresses are here")

    @property
    def tick(self) -> float:
        """How long to wait for events before the next turn, in seconds."""
        return _TICK_S if self.verdict else _GATE_TICK_S

    def step(self) -> None:
        """Events first; the rest of the housekeeping once a tick."""
        self._listen()
        while self._told and self._told != self.role:
            self._enter(self._told, "keepalived says so")
            self._write()
        now = self.world.monotonic()
        self._heal(now)
        if now < self._next_look:
            return
        self._next_look = now + self.tick * 0.9
        self._look(now)
        self._write()
        notify("WATCHDOG=1", f"STATUS={self.role}, alarms: {', '.join(self.alarms) or 'none'}")

    def _listen(self) -> None:
        """Take what waits in the FIFO: only the latest role counts."""
        news = self.fifo.read()
        self._told = news.role or self._told
        self._shared |= news.shared

    def _superseded(self, role: Role) -> bool:
        """Whether keepalived wants something else by now than what `role` is being done for."""
        self._listen()
        return self._told not in (None, role)

    # Roles

    def _enter(self, role: Role, why: str) -> None:
        """Act first, then tell: a takeover's latency is counted in milliseconds."""
        before, self.role, self._shared = self.role, role, False
        done = self._run(TAKE_OVER) if role is Role.MASTER else None
        now = self.world.monotonic()
        self._since = (now, self.world.wall())
        if done is None:
            # Nothing is flushed now: the peer may not have all of it yet (see _forget). What was
            # owed as the active node is void.
            self._owed, self._next_ask = (), now + _ASK_AFTER_S
            log.info("%s -> %s (%s)", before, role, why)
            return
        self._next_ask, self._stale = float("inf"), True
        if self.verdict is None:
            self._pass(Verdict(Outcome.ACTIVE, 0.0, 0))
        self.takeover = {"wall": self._since[1], "ms": round(done.first_ms, 2), "why": why}
        log.info(
            "%s -> MASTER (%s): committed in %.1f ms, announced in %.1f ms",
            *(before, why, done.first_ms, done.all_ms),
        )

    def _heal(self, now: float) -> None:
        """keepalived makes no transition when a split brain ends in our favour."""
        if not self._shared or self.role is not Role.MASTER:
            return
        if now - self._last_heal >= _HEAL_EVERY_S:
            self._shared, self._last_heal = False, now
            done = self._run(HEAL)
            log.warning("the peer was active too: took its connections in %.1f ms", done.first_ms)

    def _run(self, sequence: tuple[Request, ...]) -> Done:
        """Run a sequence; what is left of it is owed, and the next tick tries again."""
        done = driver.run(
            self.conntrackd, sequence, lambda: self._superseded(self.role), self._answered
        )
        self._owed = done.left
        if done.failure:
            self._alarm("conntrackd", done.failure)
        return done

    def _answered(self, request: Request) -> None:
        """Expectations need their connections, and clients may use them at once."""
        if request is Request.COMMIT:
            committed(self.config.expectations)

    # Housekeeping

    def _look(self, now: float) -> None:
        if self.fifo.replaced():
            log.warning("the FIFO was replaced; opened the new one")
        self.stats = self._ask_stats(now)
        if self.verdict is None:
            self._try_gate(now)
        if self.role is Role.MASTER:
            self._keep_active(now)
        else:
            self._keep_standby(now)
        self._end_handover(now)

    def _ask_stats(self, now: float) -> Stats | None:
        try:
            stats = self.conntrackd.stats()
        except NoAnswerError as error:
            if self.verdict:
                self._alarm("conntrackd", str(error))
            return None
        self._clear("conntrackd")
        if stats.received != self._heard[1]:
            self._heard = (now, stats.received)
        if now - self._heard[0] < _PEER_SILENT_S:
            self._clear("peer")
        elif self.verdict:
            self._alarm("peer", "nothing heard from the peer's conntrackd on the sync network")
        return stats

    def _try_gate(self, now: float) -> None:
        verdict = self._gate.observe(
            now, any(self.world.carrier(each.interface) for each in self.config.links), self.stats
        )
        if self._gate.wants_table:
            self._ask_peer()
        if verdict:
            self._pass(verdict)

    def _pass(self, verdict: Verdict) -> None:
        self.verdict = verdict
        level = logging.WARNING if verdict.alarming else logging.INFO
        text = f"gate passed after {verdict.seconds:.1f} s, {verdict.entries} entries"
        log.log(level, "%s: %s", text, verdict.outcome)
        if verdict.alarming:
            self._alarm("gate", str(verdict.outcome))
        notify("READY=1")

    def _keep_active(self, now: float) -> None:
        instance = self.conntrackd.instance()
        if instance != self._instance:
            log.warning("conntrackd was restarted under the active node")
            self._instance = instance
            self._owed = self._owed or REJOIN
        if self._owed and self.stats:
            done = self._run(self._owed)
            log.info("made up for what conntrackd missed in %.1f ms", done.all_ms)

    def _keep_standby(self, now: float) -> None:
        """A standby without entries asks for them: no other sign tells that they were lost."""
        self._instance = self.conntrackd.instance()
        if now >= self._next_ask and self.stats:
            self._next_ask = now + _ASK_EVERY_S
            if not self.stats.external:
                self._ask_peer()
        if self._stale and self._peer_is_active(now):
            self._forget()

    def _peer_is_active(self, now: float) -> bool:
        """Beyond doubt: not in FAULT (both nodes may be cut off), and its table comes to us."""
        calm = self.role is Role.BACKUP and now - self._since[0] >= self.config.forget_s
        return calm and "peer" not in self.alarms and bool(self.stats and self.stats.external)

    def _forget(self) -> None:
        """Drop what we knew as the active node: else the dead of meanwhile come back with us.

        The script shipped with conntrack-tools has `-t` for this: it empties the kernel's table in
        a child process some seconds later, even if by then this node is active again. We do it in
        turn with the events: nothing can be committed meanwhile, and any news stops it.
        """
        try:
            # First: else each deletion is sent to the peer, as the end of a connection.
            self.conntrackd.ask(Request.FLUSH_INTERNAL)
            own = self.world.addresses()
            gone = kernel.forget(own, lambda: self._superseded(self.role), _FORGET_LIMIT_S)
        except (NoAnswerError, OSError) as error:
            log.error("cannot forget old connections: %s", error)
            return
        self._stale = gone > 0
        log.info("forgot %d connections of the time as the active node", gone)

    def _ask_peer(self) -> None:
        try:
            self.conntrackd.ask(Request.ASK)
        except NoAnswerError as error:
            self._alarm("conntrackd", str(error))

    def _end_handover(self, now: float) -> None:
        """A handover that was killed half way must not keep this node in FAULT for ever."""
        if _asked_to_hand_over(self.config.handover):
            self._handover_seen = self._handover_seen or now
            if now - self._handover_seen >= _HANDOVER_HOLD_S:
                log.warning("a handover was left behind; ended it")
                self.config.handover.write_text("0\n")
        else:
            self._handover_seen = None

    # What others see

    def _alarm(self, name: str, text: str) -> None:
        if self.alarms.get(name) != text:
            log.error("alarm %s: %s", name, text)
        self.alarms[name] = text

    def _clear(self, name: str) -> None:
        if self.alarms.pop(name, None):
            log.info("alarm %s is over", name)

    def _write(self) -> None:
        monotonic, wall = self._since
        state = {
            "role": self.role,
            "since": {"monotonic": monotonic, "wall": wall},
            "gate": asdict(self.verdict) if self.verdict else None,
            "takeover": self.takeover,
            "entries": asdict(self.stats) if self.stats else None,
            "owed": [request.name for request in self._owed],
            "alarms": self.alarms,
        }
        statefile.write(self.config.state, state)


def _asked_to_hand_over(path: Path) -> bool:
    try:
        return path.read_text().strip() not in ("", "0")
    except OSError:
        return False


def main(argv: list[str]) -> None:
    """Run for ever; the one optional argument is the path of agent.json."""
    log_to_journal()
    path = Path(argv[1]) if len(argv) > 1 else configuration.PATH
    agent = Agent(configuration.parse(path.read_text()))
    while True:
        agent.step()
        select.select([agent.fifo.fd], [], [], agent.tick)


if __name__ == "__main__":
    main(sys.argv)
