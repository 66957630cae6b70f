"""The two tables that conntrackd keeps, this node's and its peer's, and all that is done to them.

What is asked of conntrackd is done by the worker's thread, in order; nothing here waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.node import kernel
from appliance.node.alarms import Alarms
from appliance.node.balance import Balance, Remedy
from appliance.node.config import Config
from appliance.node.conntrackd import Conntrackd, HungError, NoAnswerError, Request, Stats
from appliance.node.driver import REJOIN, Done, Driver
from appliance.node.events import Role
from appliance.node.peer import Word
from appliance.node.signals import committed
from appliance.node.worker import Worker
from appliance.node.world import World

log = logging.getLogger("appliance.agent")

_ASK_AFTER_S = 2.0  # a new standby lets the new active node finish its commit first
_COMPARE_EVERY_S = 5.0
_SERVE_EVERY_S = 10.0  # to read the kernel's table and send all of it is no small thing
_PEER_SILENT_S = 5.0  # conntrackd speaks each second
_FORGET_LIMIT_S = 0.1  # a tick; what is left goes in the next ones
_PAUSE_S = 0.002  # each few dozen connections
_NEVER = float("inf")


@dataclass(slots=True)
class Tables:
    """Times are monotonic seconds. `revoked`: whether keepalived wants another role by now than
    the one it is given; asked from the worker's thread.
    """

    config: Config
    world: World
    alarms: Alarms
    revoked: Callable[[Role], bool]
    worker: Worker = field(default_factory=Worker)
    balance: Balance = field(default_factory=Balance)
    stats: Stats | None = None
    unacknowledged: int | None = None
    owed: tuple[Request, ...] = ()  # what conntrackd did not answer, or newer events cut short
    repairs: int = 0  # how often it was killed because it hung
    wants: bool = False  # whether the peer should read and send its table anew
    conntrackd: Conntrackd = field(init=False)
    _driver: Driver = field(init=False)
    _role: Role = Role.INIT
    _entered: float = 0.0
    _turn: int = 0  # counts the roles: what was begun in an earlier one is void
    _instance: tuple[int, int] | None = None
    _heard: tuple[float, int] = (0.0, -1)
    _next_compare: float = _NEVER
    _last_served: float = -_NEVER
    _stale: bool = False  # whether we hold what we knew as the active node

    def __post_init__(self) -> None:
        self.conntrackd = Conntrackd(self.config.control)
        self._driver = Driver(self.conntrackd, lambda: committed(self.config.expectations))
        self._instance = self.conntrackd.instance()
        self._heard = (self.world.monotonic(), -1)

    def enter(self, role: Role, now: float) -> None:
        """A new role: what was owed in the one before is void.

        Nothing is flushed now: the peer may not have all of it yet (see `_forget`).
        """
        self._role, self._entered, self.owed = role, now, ()
        self._turn += 1
        self.balance.forget()
        active = role is Role.MASTER
        self._stale |= active
        self._next_compare = _NEVER if active else now + _ASK_AFTER_S

    def run(self, sequence: tuple[Request, ...], then: Callable[[Done], None]) -> None:
        """Have a sequence run; what is left of it is owed, and a later tick tries again."""
        turn, begin = self._turn, time.monotonic()
        entries = self.stats.internal + self.stats.external if self.stats else 0

        def finish(done: Done) -> None:
            if turn == self._turn:
                self.owed = done.left
            if Request.COMMIT in sequence:
                self._renew(self._superseded(turn))
            if done.failure:
                self._blame(done.failure)
            then(done)

        self.worker.do(
            lambda: self._driver.run(sequence, self._superseded(turn), begin, entries), finish
        )

    def _superseded(self, turn: int) -> Callable[[], bool]:
        role = self._role
        return lambda: self.revoked(role) or turn != self._turn

    def _renew(self, superseded: Callable[[], bool]) -> None:
        """conntrackd commits the time that a connection had left when it was last heard of: 300 s
        if just then data was under way, and 60 s if that was too long ago. What is idle now would
        end before its time. Not urgent, and so in no one's way.
        """
        pause = threading.Event()

        def stop() -> bool:
            return pause.wait(_PAUSE_S) or superseded()

        def work() -> None:
            try:
                log.info("gave %d connections their whole timeout", self.world.renew(stop))
            except OSError as error:
                log.error("cannot renew timeouts: %s", error)

        threading.Thread(target=work, name="renewal", daemon=True).start()

    # Counting

    def count(self, then: Callable[[], None]) -> None:
        """Have the entries counted; `then` is called when `stats` is up to date."""

        def counted(answer: tuple[Stats, int] | NoAnswerError) -> None:
            self._counted(answer)
            then()

        self.worker.do(self._ask_counts, counted)

    def _ask_counts(self) -> tuple[Stats, int] | NoAnswerError:
        try:
            return self.conntrackd.stats(), self.conntrackd.unacknowledged()
        except NoAnswerError as error:
            return error

    def _counted(self, answer: tuple[Stats, int] | NoAnswerError) -> None:
        if isinstance(answer, NoAnswerError):
            self.stats = self.unacknowledged = None
            self._blame(answer)
            return
        self.stats, self.unacknowledged = answer
        self.alarms.tell("conntrackd", None)
        now = self.world.monotonic()
        if self.stats.received != self._heard[1]:
            self._heard = (now, self.stats.received)
        silent = now - self._heard[0] >= _PEER_SILENT_S
        text = "nothing heard from the peer's conntrackd on the sync network"
        self.alarms.tell("peer", text if silent else None)

    def _blame(self, failure: NoAnswerError) -> None:
        """What is not there, systemd starts again; what hangs has to be ended for that."""
        self.alarms.tell("conntrackd", str(failure))
        if isinstance(failure, HungError) and self.world.kill("conntrackd"):
            self.repairs += 1
            log.error("conntrackd hangs: killed it, to be started again")

    # The active node

    def keep_active(self, now: float, word: Word | None) -> None:
        """Make up for what a restart of conntrackd lost, what is owed, and what the peer misses."""
        self.balance.forget()
        instance = self.conntrackd.instance()
        if instance != self._instance:
            log.warning("conntrackd was restarted under the active node")
            self._instance = instance
            self.owed = self.owed or REJOIN
        if word and word.wants and now - self._last_served >= _SERVE_EVERY_S:
            self._last_served = now
            self.owed = self.owed or REJOIN
        if self.owed and self.stats:
            words = "made up for what conntrackd missed in %.1f ms"
            self.run(self.owed, lambda done: log.info(words, done.all_ms))

    # The standby

    def keep_standby(self, now: float, word: Word | None) -> None:
        """Compare with the active node now and then; forget what only the active node knows."""
        self._instance = self.conntrackd.instance()
        if now >= self._next_compare and self.stats:
            self._next_compare = now + _COMPARE_EVERY_S
            self._compare(self.stats, word.internal if word and word.role is Role.MASTER else None)
        if self._stale and self._peer_is_active(now):
            self.worker.do(self._forget, self._forgot)

    def _compare(self, stats: Stats, theirs: int | None) -> None:
        """Make up for what is missing here; without any entry, ask in any case."""
        remedy = Remedy.NONE
        if theirs is None:
            self.balance.forget()
        else:
            remedy = self.balance.look(stats.external, theirs)
        self.wants = remedy is Remedy.WANT
        if remedy is Remedy.RENEW:
            self.worker.do(lambda: self._request(Request.FLUSH_EXTERNAL), _nothing)
        if remedy in (Remedy.ASK, Remedy.RENEW) or not stats.external:
            self.ask_peer()
        text = f"{stats.external} connections of the peer are here, and it has {theirs}"
        self.alarms.tell("balance", text if remedy is Remedy.ALARM else None)

    def ask_peer(self) -> None:
        """Have the peer's conntrackd send what it holds."""
        self.worker.do(lambda: self._request(Request.ASK), _nothing)

    def _request(self, request: Request) -> None:
        try:
            self.conntrackd.ask(request)
        except NoAnswerError as error:
            log.error("%s", error)

    def _peer_is_active(self, now: float) -> bool:
        """Beyond doubt: not in FAULT (both nodes may be cut off), and its table comes to us."""
        calm = self._role is Role.BACKUP and now - self._entered >= self.config.forget_s
        return calm and "peer" not in self.alarms and bool(self.stats and self.stats.external)

    def _forget(self) -> int | None:
        """Drop what we knew as the active node: else the dead of meanwhile come back with us.

        The script shipped with conntrack-tools has `-t` for this: it empties the kernel's table in
        a child process some seconds later, even if by then this node is active again. We do it in
        turn with the events: nothing can be committed meanwhile, and any news stops it.
        """
        superseded = self._superseded(self._turn)
        try:
            # First: else each deletion is sent to the peer, as the end of a connection.
            self.conntrackd.ask(Request.FLUSH_INTERNAL)
            return kernel.forget(self.world.addresses(), superseded, _FORGET_LIMIT_S)
        except (NoAnswerError, OSError) as error:
            log.error("cannot forget old connections: %s", error)
            return None

    def _forgot(self, gone: int | None) -> None:
        if gone is not None:
            # Active again meanwhile: then all of it counts.
            self._stale = gone > 0 or self._role is Role.MASTER
            log.info("forgot %d connections of the time as the active node", gone)


def _nothing(_: None) -> None:
    """Nothing waits for the answer."""
