"""`appliance upgrade` against a pair that lives in memory, whenever the operator's machine dies."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import typer

from appliance.cli.upgrade import _check_node, told
from appliance.errors import ToolError
from appliance.node import busy
from appliance.node.payload import DESCRIPTION, FIRST
from appliance.operate import upgrade as operation
from appliance.operate.payload import Payload, read
from appliance.operate.rolling import Act, UnhealthyError
from appliance.operate.upgrade import Upgrade
from appliance.plan.model import Plan
from appliance.remote import Remote, UnreachableError
from appliance.site import load
from tests.operate.ssh import EXAMPLES, facts

OLD, NEW = "1", "2"
ROOT_HASH = "ab" * 32
SLOT = ("testcase_2.root.1.raw", "testcase_2.verity.2.raw")


@dataclass
class Node:
    """A node of the pair: `broken` images do not pass their trial on it."""

    name: str
    role: str
    running: str = OLD
    other: tuple[str, int | None] | None = None
    boot: str = "clean"
    boots: int = 0
    broken: set[str] = field(default_factory=set)
    last_trial: dict[str, Any] | None = None

    def reboot(self, to: str, *, trial: bool) -> None:
        self.boots += 1
        before, self.running, self.boot = self.running, to, "clean"
        self.other = (before, None)
        if trial:
            self.boot = "indeterminate"

    def decide(self) -> None:
        """The trial ends while nobody looks."""
        if self.boot != "indeterminate":
            return
        self.boot = "good"
        if self.running in self.broken:
            problems = ["keepalived.service is failed"]
            self.last_trial = {"version": self.running, "good": False, "problems": problems}
            assert self.other
            failed = self.running
            self.reboot(self.other[0], trial=False)
            self.other = (failed, 0)


class World:
    """A pair; the operator's machine dies when so many answers, `dies_at`, have come."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.nodes = {"fw1": Node("fw1", "MASTER"), "fw2": Node("fw2", "BACKUP")}
        self.asked: list[tuple[str, str]] = []
        self.dies_at: int | None = None
        self.refuses: dict[str, str] = {}
        self.no_handover = ""
        self.still_at: dict[str, bool] = {}
        self.fetched: list[str] = []
        self.root_hash = ROOT_HASH
        self.speechless = 0  # answers that a node on trial, or on its way down, owes
        self.sent: list[set[str]] = []

    def remotes(self) -> dict[str, Remote]:
        return {name: Line(name, ip_address("192.0.2.1"), world=self) for name in self.nodes}

    def sha(self, version: str) -> str:
        return self.payload.kernel if version == NEW else version

    def answer(self, name: str, verb: str) -> Any:
        node, peer = self.nodes[name], self.nodes["fw2" if name == "fw1" else "fw1"]
        match verb:
            case "status" if self.speechless and node.boot == "indeterminate":
                self.speechless -= 1
                return {"refused": "there is no boot partition"}
            case "status":
                return self.status(node)
            case "appliance-status":
                return facts(name, node.role, state=self.state(node, peer))
            case "appliance-handover":
                return self.hand_over(node, peer)
        if verb in self.refuses:
            return {"refused": self.refuses[verb]}
        assert node.role != "MASTER", f"{verb} on the active node"
        assert peer.boot != "indeterminate", f"{verb} while the peer is on trial"
        if verb == "take":
            node.other = (NEW, 3)
        elif verb == "try":
            assert node.other
            assert node.other[1], "nothing to be tried"
            node.reboot(NEW, trial=True)
        elif verb == "back":
            assert node.other == (OLD, None)
            node.reboot(OLD, trial=False)
            node.other = (NEW, 0)
        return {}

    def status(self, node: Node) -> dict[str, Any]:
        said = {
            "node": node.name,
            "pair": True,
            "role": node.role,
            "version": node.running,
            "boot": node.boot,
            "boot_id": str(node.boots),
            "root_hash": self.root_hash,
            "running": {"version": node.running, "left": None, "sha256": self.sha(node.running)},
            "other": node.other
            and {
                "version": node.other[0],
                "left": node.other[1],
                "sha256": self.sha(node.other[0]),
            },
            "last_trial": node.last_trial,
            "busy": busy.UPDATE if self.still_at.pop(node.name, None) else "",
        }
        node.decide()
        return said

    def state(self, node: Node, peer: Node) -> dict[str, Any]:
        role = {"role": peer.role, "node": peer.name, "version": peer.running}
        usual = {"gate": {"outcome": "here"}, "owed": [], "alarms": {}, "takeover": {"ms": 2.5}}
        return {"role": node.role, "peer": role, **usual}

    def hand_over(self, node: Node, peer: Node) -> dict[str, Any]:
        if self.no_handover and self.nodes["fw2"].running == NEW:
            return {"handed_over": False, "reason": self.no_handover}
        assert node.role == "MASTER"
        node.role, peer.role = "BACKUP", "MASTER"
        return {"handed_over": True, "released_ms": 10.0, "gap_ms": 20.0}


@dataclass(frozen=True)
class Line(Remote):
    """The way to a node of the world."""

    world: World = field(kw_only=True)

    def ask(self, *command: str, stdin: Any = None, timeout: float = 0) -> Any:
        verb = command[1] if command[0] == "appliance-update" else command[0]
        if "--dry-run" in command:
            verb = "dry-run"
        world = self.world
        assert ("--from" in command) != (stdin is not None) or "take" not in command
        world.fetched += command[3:4] if "--from" in command else ()
        if stdin is not None and "--dry-run" not in command:
            with tarfile.open(fileobj=stdin) as tar:
                world.sent.append(set(tar.getnames()) - set(FIRST))
        if verb not in ("status", "appliance-status"):
            world.asked.append((self.name, verb))
        told = world.refuses.get("take") if verb == "dry-run" else None
        answer = {"refused": told} if told else {}
        if verb != "dry-run":
            answer = world.answer(self.name, verb)
        if world.dies_at is not None:
            world.dies_at -= 1
            if world.dies_at < 0:
                raise DeadError
        return answer


class DeadError(BaseException):
    """The operator's machine lost its power."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load(EXAMPLES / "testcase.yaml")


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    folder = tmp_path / "testcase_2.update"
    folder.mkdir()
    told = {"site": "testcase", "digest": "", "version": NEW, "hardware": "vm", "virtual": []}
    parts = ["testcase_2.efi", *SLOT]
    told |= {"root_hash": ROOT_HASH, "root": 1, "verity": 1, "files": dict.fromkeys(parts, 1)}
    (folder / DESCRIPTION).write_text(json.dumps(told))
    (folder / "SHA256SUMS").write_text(f"{'ab' * 32}  testcase_2.efi\n")
    (folder / "SHA256SUMS.gpg").write_text("signed")
    for part in parts:
        (folder / part).write_text("x")
    return read(str(folder))


@pytest.fixture
def world(payload: Payload, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, seconds in {"_LOOK_EVERY_S": 0, "_EXCHANGE_S": 0.2, "_ANSWER_S": 0.2}.items():
        monkeypatch.setattr(operation, name, seconds)
    return World(payload)


def upgrade(world: World, plan: Plan, **how: Any) -> Upgrade:
    return Upgrade(plan, world.remotes(), world.payload, **how)


def runs(world: World) -> list[tuple[str, str]]:
    return [(node.running, node.role) for node in world.nodes.values()]


def test_the_standby_first_then_a_handover_then_the_other(world: World, plan: Plan) -> None:
    run = upgrade(world, plan)
    run.run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]
    assert world.asked == [
        ("fw2", "dry-run"),
        ("fw1", "dry-run"),
        ("fw2", "take"),
        ("fw2", "try"),
        ("fw1", "appliance-handover"),
        ("fw1", "take"),
        ("fw1", "try"),
    ]
    assert [each.gap_ms for each in run.handovers] == [20.0]
    assert "version 2 on fw2, fw1" in told(run)
    assert "fw2 was active 20 ms after that" in told(run)


def test_nothing_is_done_twice(world: World, plan: Plan) -> None:
    upgrade(world, plan).run()
    world.asked.clear()
    again = upgrade(world, plan)
    again.run()
    assert not world.asked
    assert told(again) == "version 2 runs already: nothing to do"


def test_a_dry_run_changes_nothing_and_tells_all(world: World, plan: Plan) -> None:
    steps = upgrade(world, plan).foresee()
    assert [(step.act, step.node) for step in steps] == [
        (Act.SEND, "fw2"),
        (Act.TRY, "fw2"),
        (Act.HAND_OVER, "fw1"),
        (Act.SEND, "fw1"),
        (Act.TRY, "fw1"),
    ]
    assert runs(world) == [(OLD, "MASTER"), (OLD, "BACKUP")]
    assert {verb for _, verb in world.asked} == {"dry-run"}


def test_what_a_node_refuses_is_known_before_anything_changes(world: World, plan: Plan) -> None:
    world.refuses["take"] = "wrong site: it is for another"
    with pytest.raises(ToolError, match="fw2: wrong site"):
        upgrade(world, plan).run()
    assert world.asked == [("fw2", "dry-run")]


def test_the_first_goes_back_by_itself_and_the_pair_is_as_before(world: World, plan: Plan) -> None:
    world.nodes["fw2"].broken.add(NEW)
    words = r"fw2 has gone back to its old image: keepalived\.service is failed"
    with pytest.raises(UnhealthyError, match=words):
        upgrade(world, plan).run()
    assert runs(world) == [(OLD, "MASTER"), (OLD, "BACKUP")]
    assert ("fw1", "take") not in world.asked


def test_a_node_that_cannot_tell_of_its_images_is_asked_again(world: World, plan: Plan) -> None:
    world.speechless = 2
    upgrade(world, plan).run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]
    assert not world.speechless


def test_the_second_goes_back_and_takes_the_first_with_it(world: World, plan: Plan) -> None:
    world.nodes["fw1"].broken.add(NEW)
    with pytest.raises(UnhealthyError, match="fw1 has gone back"):
        upgrade(world, plan).run()
    assert runs(world) == [(OLD, "MASTER"), (OLD, "BACKUP")]
    assert world.asked[-2:] == [("fw2", "appliance-handover"), ("fw2", "back")]


def test_a_first_that_cannot_take_over_goes_back(world: World, plan: Plan) -> None:
    world.no_handover = "the peer does not acknowledge our connections"
    with pytest.raises(UnhealthyError, match=r"no handover from fw1: .*acknowledge"):
        upgrade(world, plan).run()
    assert runs(world) == [(OLD, "MASTER"), (OLD, "BACKUP")]
    assert world.asked[-1] == ("fw2", "back")


def test_a_failed_one_can_be_sent_again(world: World, plan: Plan) -> None:
    world.nodes["fw2"].broken.add(NEW)
    with pytest.raises(UnhealthyError):
        upgrade(world, plan).run()
    world.nodes["fw2"].broken.clear()
    upgrade(world, plan).run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]


def dying(world: World, plan: Plan, asks: int) -> bool:
    """Have the operator's machine die after so many answers; whether it was done before."""
    world.dies_at = asks
    try:
        upgrade(world, plan).run()
    except DeadError:
        return False
    except UnhealthyError:
        return True
    finally:
        world.dies_at = None
    return True


@pytest.mark.parametrize("broken", [None, "fw1", "fw2"])
def test_whenever_the_operators_machine_dies_a_second_call_goes_on(
    payload: Payload, world: World, plan: Plan, broken: str | None
) -> None:
    """Every moment, one after the other: world.answer asserts that never both nodes are away."""
    asks, done = 0, False
    while not done:
        fresh = World(payload)
        if broken:
            fresh.nodes[broken].broken.add(NEW)
        done = dying(fresh, plan, asks)
        if not done and broken:
            with pytest.raises(UnhealthyError):
                upgrade(fresh, plan).run()
        elif not done:
            upgrade(fresh, plan).run()
        if broken:
            assert {running for running, _ in runs(fresh)} == {OLD}, asks
        else:
            assert {running for running, _ in runs(fresh)} == {NEW}, asks
        assert sorted(role for _, role in runs(fresh)) == ["BACKUP", "MASTER"], asks
        asks += 1
    assert asks > 15


def test_what_an_earlier_call_has_begun_is_waited_for(world: World, plan: Plan) -> None:
    world.still_at["fw2"] = True
    upgrade(world, plan).run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]


def test_one_node_alone(world: World, plan: Plan) -> None:
    upgrade(world, plan, only="fw2").run()
    assert runs(world) == [(OLD, "MASTER"), (NEW, "BACKUP")]
    with pytest.raises(ToolError, match="fw1 is the active node"):
        upgrade(world, plan, only="fw1").run()
    assert runs(world) == [(OLD, "MASTER"), (NEW, "BACKUP")]
    with pytest.raises(typer.BadParameter, match="no node 'fw3'"):
        _check_node(plan, "fw3")


def test_staged_the_standby_has_it_and_nobody_reboots(world: World, plan: Plan) -> None:
    staged = upgrade(world, plan, stage=True)
    staged.run()
    assert runs(world) == [(OLD, "MASTER"), (OLD, "BACKUP")]
    assert [world.nodes[name].other for name in ("fw1", "fw2")] == [None, (NEW, 3)]
    assert "version 2 in the other slot of fw2" in told(staged)
    again = upgrade(world, plan, stage=True)
    again.run()
    assert told(again) == "version 2 is there already: nothing to do"
    upgrade(world, plan).run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]
    assert [verb for name, verb in world.asked if name == "fw2"].count("take") == 1


def test_a_node_that_does_not_answer(world: World, plan: Plan) -> None:
    def silent(*_: Any, **__: Any) -> None:
        raise UnreachableError("fw2 (192.168.0.2) is not reached: no route")

    nodes = world.remotes()
    nodes["fw2"] = type("Silent", (), {"ask": silent, "name": "fw2"})()
    with pytest.raises(ToolError, match=r"for an answer: fw2 .* is not reached"):
        Upgrade(plan, nodes, world.payload).run()
    assert not world.asked


# The payload


def test_the_archive_says_what_it_is_before_the_rest(payload: Payload) -> None:
    for whole, names in ((True, [*FIRST, "testcase_2.efi", *SLOT]), (False, list(FIRST))):
        with payload.archive(whole=whole) as out, tarfile.open(fileobj=out) as tar:
            assert tar.getnames() == names
            assert {member.uname for member in tar} == {""}


@pytest.mark.parametrize("same", [True, False])
def test_the_root_that_runs_already_is_not_sent(world: World, plan: Plan, same: bool) -> None:
    world.root_hash = ROOT_HASH if same else "0" * 64
    upgrade(world, plan).run()
    assert world.sent == [{"testcase_2.efi", *(() if same else SLOT)}] * 2


def test_the_nodes_fetch_it_themselves(world: World, plan: Plan) -> None:
    world.payload = replace(world.payload, place="https://updates.example/testcase_2.update")
    upgrade(world, plan).run()
    assert runs(world) == [(NEW, "BACKUP"), (NEW, "MASTER")]
    assert set(world.fetched) == {"https://updates.example/testcase_2.update"}


def test_a_folder_that_is_no_payload(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is no payload"):
        read(str(tmp_path))
    with pytest.raises(ToolError, match=r"is no payload: http://\S+ is no https:// address"):
        read("http://127.0.0.1/x")
