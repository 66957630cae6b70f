"""The state agent's part of load balancing: IPVS's tables of the two nodes in step, and what became
of the servers. See "IPVS" in docs/state-agent.md.

Nothing here waits: the kernel is asked by the worker's thread, and what takes long has its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from appliance.node import servers
from appliance.node.alarms import Alarms
from appliance.node.balance import Balance, Remedy
from appliance.node.balancing import Balancing
from appliance.node.events import Role
from appliance.node.ipvs import Daemon, StoppedError, Sync, Table
from appliance.node.ipvs_replay import Replayed
from appliance.node.peer import Word
from appliance.node.servers import Seen, Watch
from appliance.node.worker import Worker
from appliance.node.world import World

log = logging.getLogger("appliance.agent")

_COMPARE_EVERY_S = 5.0
_REPLAY_EVERY_S = 10.0
_PAUSE_S = 0.002  # each page of the list: some 50 connections, one or two datagrams
_DAEMON_S = 5.0  # until the sync daemons should run, or a standby's services be there
_REST = 20  # times as long as a reading took: thousands of servers are not to cost a processor
_NEVER = float("inf")

# The table with what it says of each server, and how many seconds that took; None when it was not
# wanted any more.
_Reading = tuple[Table, list[Seen], float] | OSError | None

# Ask for all of them, several times: a message may be lost.
_BEHIND = (Remedy.NONE, *(Remedy.WANT,) * 6)


@dataclass(slots=True)
class Pairing:
    """One count of ours held against the peer's. Too many is no fault that could be mended: nobody
    can rid a kernel of connections. They go as their time ends, and do no harm.
    """

    difference: int | None = None
    _balance: Balance = field(default_factory=lambda: Balance(behind=_BEHIND))

    def look(self, ours: int, theirs: int | None) -> Remedy:
        """What to do about what is missing here."""
        if theirs is None:
            self.forget()
            return Remedy.NONE
        self.difference = ours - theirs
        return self._balance.look(min(ours, theirs), theirs)

    def forget(self) -> None:
        """Nothing to compare at present."""
        self.difference = None
        self._balance.forget()


@dataclass(slots=True)
class Balancer:
    """Times are monotonic seconds. `revoked` as in `Tables`, asked from a thread as well."""

    balancing: Balancing
    world: World
    alarms: Alarms
    revoked: Callable[[Role], bool]
    worker: Worker
    table: Table | None = None
    lacks: bool = False  # whether the peer should send all that it has
    replayed: dict[str, Any] | None = None  # the last time that all was sent
    in_step: bool | None = None  # whether the peer was told of all; None unless we are to tell it
    watch: Watch = field(default_factory=Watch)
    connections: Pairing = field(default_factory=Pairing)
    templates: Pairing = field(default_factory=Pairing)
    _role: Role = Role.INIT
    _turn: int = 0  # counts the roles: what was begun in an earlier one is void
    _known: int | None = None  # the run of the peer's agent since when its IPVS is in step
    _missed: bool = False  # whether it cannot have heard all since we began to send
    _refusal: OSError | None = None  # why a sync daemon did not start
    _thread: threading.Thread | None = None
    _outcome: tuple[int, Replayed | OSError, float] | None = None
    _next_replay: float = -_NEVER
    _next_compare: float = 0.0
    _next_reading: float = -_NEVER
    _well: float = 0.0  # when the sync daemons were as they should be, last
    _wanted: Set[tuple[int, int]] = frozenset()  # the services by IP version and mark

    def __post_init__(self) -> None:
        self._well = self.world.monotonic()
        self._wanted = {each for s in self.balancing.services for each in s.marks.items()}

    @property
    def replays(self) -> bool:
        """Whether our table is being sent to the peer."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def takes(self) -> bool:
        """Whether the kernel takes in what the peer sends, and knows the servers that it is for."""
        if self.table is None or not self._runs(Sync.BACKUP):
            return False
        return self._wanted <= self.table.by_mark.keys()

    def enter(self, role: Role, now: float) -> None:
        """A new role: what was begun in the one before ends."""
        self._role = role
        self._turn += 1
        self.lacks, self.in_step = False, None
        self._forget()
        self._next_compare = now + _COMPARE_EVERY_S

    def look(self, now: float, word: Word | None) -> None:
        """Once a second, or less often if it takes long: have the table read, and do what follows
        from it. `word` is the peer's, None where it is not heard on the card that IPVS tells by.
        """
        if now >= self._next_reading:
            role = self._role
            self.worker.do(lambda: self._read(role), lambda read: self._looked(read, now, word))

    def _read(self, role: Role) -> _Reading:
        """A new role does not wait for it: what a takeover asks of the worker comes next."""
        begin, seen = self.world.monotonic(), list[Seen]()
        try:
            table = self.world.ipvs(lambda: self.revoked(role))
        except OSError as error:
            return error
        except StoppedError:
            return None
        for _, _, of_service in servers.look(self.balancing, table):
            if self.revoked(role):
                return None
            seen += of_service
        return table, seen, self.world.monotonic() - begin

    def _looked(self, reading: _Reading, now: float, word: Word | None) -> None:
        if reading is None:
            return
        if isinstance(reading, OSError):
            self.table = None
            self._judge_daemons(now, f"IPVS cannot be asked: {reading}")
            return
        self.table, seen, seconds = reading
        self._next_reading = now + _REST * seconds
        self._judge_daemons(now)
        if self.watch.look(seen, now, self.world.wall()):
            self._start(self._ask_why, "checks")
        self._end_replay(now)
        if self._role is Role.MASTER:
            self._keep_active(now, word)
        elif self._role is Role.BACKUP:
            self._keep_standby(now, self.table, word)

    def _ask_why(self) -> None:
        self.watch.learn(self.world.verdicts())

    def _start(self, work: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    # The sync daemons

    def _runs(self, way: Sync) -> bool:
        channel = self.balancing.channel
        if channel is None or self.table is None:
            return channel is None
        return Daemon(way, channel.interface, channel.sync_id) in self.table.daemons

    def _judge_daemons(self, now: float, trouble: str | None = None) -> None:
        """Both always run: a node that is told and a node that tells need nothing changed."""
        missing = [way for way in Sync if not self._runs(way)] if self.table else []
        for way in missing:
            self.worker.do(partial(self._start_daemon, way), self._started)
        if missing:
            words = " and ".join(f"{way.name}".lower() for way in missing)
            why = f": {self._refusal}" if self._refusal else ""
            trouble = f"of the sync daemons {words} does not run{why}"
        if trouble is None:
            self._well = now
        lasts = now - self._well >= _DAEMON_S
        self.alarms.tell("ipvs", trouble if lasts else None)

    def _start_daemon(self, way: Sync) -> OSError | None:
        assert self.balancing.channel, "without one none is missing"
        try:
            self.world.start_sync(self.balancing.channel, way)
        except OSError as error:
            return error
        return None

    def _started(self, refusal: OSError | None) -> None:
        self._refusal = refusal

    # The active node

    def _keep_active(self, now: float, word: Word | None) -> None:
        """Send all to a peer whose agent is new to us, as it is after a reboot, or that asks.

        So is one that was not heard for a while, or was active with us, or that takes nothing in
        though it has been a standby for longer than that needs: it has missed something.
        """
        if word is None or word.role is Role.MASTER:
            self._known, self._missed, self.in_step = None, True, None
            return
        if not word.takes and word.role_s > _DAEMON_S:
            self._known, self._missed = None, True
        self.in_step = word.run == self._known and not word.lacks
        if word.role is not Role.BACKUP or not word.takes or self.replays:
            return
        if not self.in_step and now >= self._next_replay:
            self._next_replay = now + _REPLAY_EVERY_S
            self._replay(word.run)

    def _replay(self, run: int) -> None:
        turn, role, pause = self._turn, self._role, threading.Event()
        self._missed = False

        def stop(worked: float) -> bool:
            # As long as it took: others want the processor as well.
            return pause.wait(max(_PAUSE_S, worked)) or turn != self._turn or self.revoked(role)

        def work() -> None:
            begin = time.monotonic()
            try:
                outcome: Replayed | OSError = self.world.replay(self.balancing, stop)
            except OSError as error:
                outcome = error
            self._outcome = run, outcome, time.monotonic() - begin

        self._thread = self._start(work, "replay")

    def _end_replay(self, now: float) -> None:
        """Take in what became of it."""
        if self._outcome is None or self.replays:
            return
        (run, outcome, seconds), self._outcome = self._outcome, None
        self._next_replay = now + _REPLAY_EVERY_S
        if isinstance(outcome, OSError):
            log.error("cannot send IPVS's connections to the peer: %s", outcome)
        elif outcome.whole:
            self._known = None if self._missed else run
            sent = {"connections": outcome.connections, "templates": outcome.templates}
            self.replayed = {"wall": self.world.wall(), "seconds": round(seconds, 2), **sent}
            words = "sent %d connections of IPVS and %d templates to the peer in %.1f s"
            log.info(words, outcome.connections, outcome.templates, seconds)

    # The standby

    def _keep_standby(self, now: float, table: Table, word: Word | None) -> None:
        """Compare with the active node now and then."""
        if word is None or word.role is not Role.MASTER:
            self._forget()
            return
        # Its kernel has told ours, so that as the active node we have nothing to tell anew.
        self._known = word.run
        if now < self._next_compare or word.replays:
            return
        self._next_compare = now + _COMPARE_EVERY_S
        remedies = {
            self.connections.look(table.connections, word.connections),
            self.templates.look(table.templates, word.templates),
        }
        self.lacks = bool(remedies & {Remedy.WANT, Remedy.ALARM})
        text = (
            f"{table.connections} connections and {table.templates} templates are here, and the"
            f" peer has {word.connections} and {word.templates}"
        )
        self.alarms.tell("ipvs-balance", text if Remedy.ALARM in remedies else None)

    def _forget(self) -> None:
        """Nothing to compare at present."""
        self.lacks = False
        self.connections.forget()
        self.templates.forget()
        self.alarms.tell("ipvs-balance", None)

    # What others see

    def words(self) -> dict[str, Any]:
        """What the peer is told."""
        return {
            "connections": self.table.connections if self.table else None,
            "templates": self.table.templates if self.table else None,
            "takes": self.takes,
            "lacks": self.lacks,
            "replays": self.replays,
        }

    def state(self) -> dict[str, Any]:
        """What the agent's state has of it."""
        return {
            **self.words(),
            "difference": {
                "connections": self.connections.difference,
                "templates": self.templates.difference,
            },
            "replayed": self.replayed,
            "in_step": self.in_step,
            "servers": self.watch.told(),
        }
