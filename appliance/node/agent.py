"""The state agent: one process that keeps conntrackd in step with keepalived, and the pair in step.

Run as `python3 -m appliance.node.agent`, supervised by systemd (Type=notify, watchdog). It says
READY when its gate has passed, and keepalived starts after it. See docs/state-agent.md.
"""

from __future__ import annotations

import logging
import select
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from appliance.node import balancing, busy, identity, report, statefile
from appliance.node import config as configuration
from appliance.node.alarms import Alarms
from appliance.node.arbiter import OBEY_S
from appliance.node.balancer import Balancer
from appliance.node.balancing import Balancing
from appliance.node.config import Config
from appliance.node.driver import HEAL, TAKE_OVER, Done
from appliance.node.events import Fifo, Parser, Role
from appliance.node.gate import Gate, Outcome, Verdict
from appliance.node.guard import Guard
from appliance.node.identity import Identity
from appliance.node.journal import log_to_journal
from appliance.node.notify import notify
from appliance.node.peer import EVERY_S as SPEAK_EVERY_S
from appliance.node.peer import Links, Period
from appliance.node.tables import Tables
from appliance.node.witness import Witness
from appliance.node.world import World

log = logging.getLogger("appliance.agent")

_TICK_S = 1.0
_GATE_TICK_S = 0.1
_QUIET_S = 0.1  # after the news of a takeover
_HEAL_EVERY_S = 2.0  # several instances report the same split brain
_HANDOVER_HOLD_S = 10.0
_GUARDED = ("conntrackd", "keepalived", "appliance-expectations")


@dataclass(slots=True)
class Agent:
    """All state of the agent. `step` is one turn of its loop, and never waits."""

    config: Config
    identity: Identity
    links: Links
    world: World = field(default_factory=World)
    balancing: Balancing | None = None
    known_by: Path | None = None  # the file that says who this is
    role: Role = Role.INIT
    verdict: Verdict | None = None
    alarms: Alarms = field(default_factory=Alarms)
    takeover: dict[str, Any] | None = None
    transitions: Counter[str] = field(default_factory=Counter)
    repairs: int = 0  # programs that were killed because they hung
    since: tuple[float, float] = field(init=False)  # in this role: monotonic, wall
    fifo: Fifo = field(init=False)
    tables: Tables = field(init=False)
    balancer: Balancer | None = None  # where there are virtual services
    witness: Witness = field(init=False)
    guard: Guard = field(default_factory=lambda: Guard(_GUARDED))
    _gate: Gate = field(init=False)
    _told: Role | None = None  # by keepalived, and not acted upon yet
    _listening: threading.Lock = field(default_factory=threading.Lock)
    _shared: bool = False
    _active: tuple[float, float | None] | None = None  # when last active: begin and end
    _last_heal: float = float("-inf")
    _last_obeyed: float = float("-inf")
    _next_word: float = 0.0
    _next_look: float = 0.0
    _handover_seen: float | None = None

    def __post_init__(self) -> None:
        now = self.world.monotonic()
        self.fifo = Fifo(self.config.fifo, Parser(self.config.group))
        self.tables = Tables(self.config, self.world, self.alarms, self._revoked)
        if self.balancing:
            asked = (self.world, self.alarms, self._revoked, self.tables.worker)
            self.balancer = Balancer(self.balancing, *asked)
        self.witness = Witness(self.config, self.world, self.links)
        self._gate = Gate(now, self.config.gate_s, self.config.absent_s)
        self.since = (now, self.world.wall())
        self.config.yields.write_text("0\n")
        if self.world.addresses() & set(self.config.virtual):
            self._enter(Role.MASTER, "the virtual addresses are here")
        elif (role := self._left_behind()) is not Role.INIT:
            self._enter(role, "as the agent before this one knew it")

    def _left_behind(self) -> Role:
        """The role that an agent before this one wrote down; keepalived tells of changes only, and
        those since then wait in the FIFO. A node without the addresses is not active any more.
        """
        try:
            role = Role(statefile.read(self.config.state)["role"])
        except (OSError, ValueError, KeyError):
            return Role.INIT
        return Role.INIT if role is Role.MASTER else role

    @property
    def tick(self) -> float:
        """How often to look around, in seconds."""
        return _TICK_S if self.verdict else _GATE_TICK_S

    def wait(self) -> None:
        """Until something comes, or it is time for the next word."""
        links = (each.fileno() for each in self.links.sockets)
        descriptors = [self.fifo.fd, self.tables.worker.fd, *links]
        until = min(self._next_word, self._next_look) - self.world.monotonic()
        select.select(descriptors, [], [], max(0.0, until))

    def step(self) -> None:
        """Events first; a word each fifth of a second; the rest of the housekeeping each tick."""
        self._listen()
        self.tables.worker.collect()
        now = self.world.monotonic()
        self._shared |= self.witness.hear(now, self._period(now)) and self.role is Role.MASTER
        while self._told and self._told != self.role:
            self._enter(self._told, "keepalived says so")
        self._heal(now)
        if now >= self._next_word:
            self._next_word = now + SPEAK_EVERY_S
            self._judge(now)
            self._speak()
        if now >= self._next_look:
            self._next_look = now + self.tick * 0.9
            self._look(now)
            self._write()
            notify("WATCHDOG=1", f"STATUS={self.role}, alarms: {', '.join(self.alarms) or 'none'}")

    def _listen(self) -> None:
        """Take what waits in the FIFO: only the latest role counts."""
        with self._listening:
            news = self.fifo.read()
            self._told = news.role or self._told
            self._shared |= news.shared

    def _revoked(self, role: Role) -> bool:
        """Whether keepalived wants another role by now; the worker asks between two requests."""
        self._listen()
        return self._told not in (None, role)

    # Roles

    def _enter(self, role: Role, why: str) -> None:
        """Act first, then tell: a takeover's latency is counted in milliseconds."""
        now = self.world.monotonic()
        before, self.role, self._shared = self.role, role, False
        self.tables.enter(role, now)
        if self.balancer:
            self.balancer.enter(role, now)
        if role is Role.MASTER:
            self.tables.run(TAKE_OVER, lambda done: self._taken_over(done, before, why))
            self._active = (now, None)
            # The interpreter runs one thread at a time: now it is the worker's turn.
            self._next_word = self._next_look = now + _QUIET_S
            if self.verdict is None:
                self._pass(Verdict(Outcome.ACTIVE, 0.0, 0))
        else:
            self._active = self._active and (self._active[0], self._active[1] or now)
            log.info("%s -> %s (%s)", before, role, why)
        self.since = (now, self.world.wall())
        self.transitions[role] += 1
        if role is not Role.MASTER:
            self._tell()

    def _taken_over(self, done: Done, before: Role, why: str) -> None:
        self.takeover = {"wall": self.world.wall(), "ms": round(done.first_ms, 2), "why": why}
        log.info(
            "%s -> MASTER (%s): committed in %.1f ms, announced in %.1f ms",
            *(before, why, done.first_ms, done.all_ms),
        )
        self._tell()

    def _heal(self, now: float) -> None:
        """keepalived makes no transition when a split brain ends in our favour."""
        if not self._shared or self.role is not Role.MASTER:
            return
        if now - self._last_heal >= _HEAL_EVERY_S:
            self._shared, self._last_heal = False, now
            words = "the peer was active too: took its connections in %.1f ms"
            self.tables.run(HEAL, lambda done: log.warning(words, done.first_ms))

    # Housekeeping

    def _look(self, now: float) -> None:
        self._know_itself()
        if self.fifo.replaced():
            log.warning("the FIFO was replaced; opened the new one")
        for unit in self.guard.look(now):
            self._restart(unit, "stands still")
        self.witness.look(now)
        if not self.tables.worker.busy:
            self.tables.count(self._look_at_tables)
            if self.balancer:
                self.balancer.look(now, self.witness.peer.present_on_first(now))
        self._end_handover(now)

    def _know_itself(self) -> None:
        """The site may be changed while this runs: its new file has come in one step."""
        with suppress(OSError, ValueError):
            if self.known_by:
                self.identity = identity.read(self.known_by)

    def _look_at_tables(self) -> None:
        now = self.world.monotonic()
        word = self.witness.peer.present(now)
        if self.verdict is None:
            self._try_gate(now)
        if self.role is Role.MASTER:
            self.tables.keep_active(now, word)
        else:
            self.tables.keep_standby(now, word)

    def _try_gate(self, now: float) -> None:
        linked = any(self.world.carrier(each.interface) for each in self.config.links)
        verdict = self._gate.observe(now, linked, self.tables.stats)
        if self._gate.wants_table:
            self.tables.ask_peer()
        if verdict:
            self._pass(verdict)

    def _pass(self, verdict: Verdict) -> None:
        self.verdict = verdict
        level = logging.WARNING if verdict.alarming else logging.INFO
        text = f"gate passed after {verdict.seconds:.1f} s, {verdict.entries} entries"
        log.log(level, "%s: %s", text, verdict.outcome)
        if verdict.alarming:
            self.alarms.tell("gate", str(verdict.outcome))
        notify("READY=1")

    def _restart(self, unit: str, why: str) -> None:
        if self.world.kill(unit):
            self.repairs += 1
            log.error("%s %s: killed it, to be started again", unit, why)

    def _end_handover(self, now: float) -> None:
        """A handover that was killed half way must not keep this node in FAULT for ever."""
        if not _asked_to_hand_over(self.config.handover):
            self._handover_seen = None
            return
        self._handover_seen = self._handover_seen or now
        if now - self._handover_seen >= _HANDOVER_HOLD_S:
            log.warning("a handover was left behind; ended it")
            self.config.handover.write_text("0\n")

    # The pair

    def _judge(self, now: float) -> None:
        """Yield to the peer, or take that back; a keepalived that does not care about it hangs."""
        arbiter = self.witness.arbiter
        before, reason = arbiter.reason, self.witness.judge(now, self.role, now - self.since[0])
        if reason != before:
            self.config.yields.write_text("1\n" if reason else "0\n")
        self.alarms.tell("yields", reason)
        deaf = reason and self.role is Role.MASTER and now - arbiter.since >= OBEY_S
        if deaf and now - self._last_obeyed >= OBEY_S:
            self._last_obeyed = now
            self._restart("keepalived", "does not give up the role")

    def _period(self, now: float) -> Period | None:
        """The latest time as the active node, as ages of its begin and its end."""
        if self._active is None:
            return None
        began, ended = self._active
        return now - began, now - ended if ended else 0.0

    def _tell(self) -> None:
        """Whoever wants to know, at once."""
        self._speak()
        self._write()

    def _speak(self) -> None:
        now, stats = self.world.monotonic(), self.tables.stats
        self.witness.speak(
            **asdict(self.identity),
            role=self.role,
            role_s=now - self.since[0],
            active=self._period(now),
            internal=stats and stats.internal,
            external=stats and stats.external,
            wants=self.tables.wants,
            **(self.balancer.words() if self.balancer else {}),
            alarms=self.alarms,
            busy=busy.read(self.config.busy),
        )

    def _write(self) -> None:
        statefile.write(self.config.state, report.state(self))


def _asked_to_hand_over(path: Path) -> bool:
    try:
        return statefile.text(path).strip() not in ("", "0")
    except OSError:
        return False


def main(argv: list[str]) -> None:
    """Run for ever; the one optional argument is the path of agent.json, beside node.json."""
    log_to_journal()
    path = Path(argv[1]) if len(argv) > 1 else configuration.PATH
    config = configuration.parse(path.read_text())
    known_by = path.with_name(identity.PATH.name)
    agent = Agent(
        config,
        identity.read(known_by),
        Links(config.links),
        balancing=balancing.read(path.with_name(balancing.PATH.name)),
        known_by=known_by,
    )
    while True:
        agent.step()
        agent.wait()


if __name__ == "__main__":
    main(sys.argv)
