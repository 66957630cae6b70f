"""Whether a boot is good, and what becomes of one that is not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.node import busy, facts, images, trial, watch
from appliance.node.images import Boot, Image, Images
from appliance.node.trial import Verdict
from tests.operate.nodes import EXPECTED, peer, programs, router, state

OLD = Image(Path("/efi/EFI/Linux/testcase_6.efi"), "6", None)
NEW = Image(Path("/efi/EFI/Linux/testcase_7+2-1.efi"), "7", 2)
WELL = type("Well", (), {"problem": lambda _: None})()


def standby(**changed: Any) -> dict[str, Any]:
    """The state of a standby that has its peer's table, as the agent writes it."""
    told = {
        "role": "BACKUP",
        "entries": {"internal": 0, "external": 12, "received": 99},
        "peer": peer(time.monotonic(), role="MASTER", internal=12, external=0, version="6"),
    }
    return state(**told | changed)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node in its trial, with the image before it to go back to, and little patience."""
    monkeypatch.setenv("PATH", f"{programs(tmp_path / 'bin')}:/usr/bin:/bin")
    boot(monkeypatch, Boot.INDETERMINATE, OLD)
    for name in ("_PATIENCE_S", "_PAIR_PATIENCE_S", "_POLL_S"):
        monkeypatch.setattr(trial, name, 0.05)
    monkeypatch.setattr(trial, "_answering", lambda: {"inside"})
    return router(tmp_path / "root", standby())


def boot(monkeypatch: pytest.MonkeyPatch, now: Boot, *others: Image) -> None:
    found = Images(Path("/efi/EFI/Linux"), NEW, others)
    monkeypatch.setattr(images, "boot_state", lambda: now)
    monkeypatch.setattr(trial, "here", lambda *_: found)


def says(root: Path, told: dict[str, Any]) -> None:
    (root / facts.STATE).write_text(json.dumps(told))


def alone(root: Path, **changed: Any) -> None:
    """It is the active node, and hears nobody."""
    (root / facts.AGENT).write_text(
        json.dumps(json.loads((root / facts.AGENT).read_text()) | {"cards": ["inside", "outside"]})
    )
    says(root, state(**{"peer": None} | changed))


def test_a_standby_with_its_peers_table_is_good(root: Path) -> None:
    assert trial.decide(root) == (Verdict.GOOD, [])


def test_so_is_the_active_node_beside_an_older_image(root: Path) -> None:
    says(root, state(peer=peer(time.monotonic(), version="6")))
    assert trial.decide(root) == (Verdict.GOOD, [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"role": "FAULT"}, "it is neither active nor standby: its role is FAULT"),
        ({"role": "MASTER"}, "both nodes are active"),
        ({"peer": None}, "the peer's agent is not heard"),
        ({"gate": None}, "the gate is not passed yet: keepalived waits for the peer's table"),
        ({"alarms": {"peer": "it is gone"}}, "alarm peer: it is gone"),
        ({"owed": ["BULK"]}, "conntrackd still has to do: BULK"),
        (
            {"entries": {"internal": 0, "external": 0, "received": 9}, "internal": 400},
            "the peer's table is not here: 0 of 400 connections",
        ),
    ],
)
def test_what_is_wrong_with_its_peer_ends_a_trial(
    root: Path, changed: dict[str, Any], words: str
) -> None:
    told = standby()
    if "internal" in changed:
        told["peer"]["internal"] = changed.pop("internal")
    says(root, told | changed)
    verdict, wrong = trial.decide(root)
    assert verdict is Verdict.BACK
    assert words in wrong


def test_what_carries_expectations_has_to_be_heard(root: Path) -> None:
    (root / facts.EXPECTATIONS).write_text(json.dumps(EXPECTED | {"peer": False}))
    verdict, wrong = trial.decide(root)
    assert (verdict, wrong) == (Verdict.BACK, ["the peer's process for expectations is not heard"])


def test_a_unit_that_does_not_run_ends_a_trial(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bin/keepalived.service").write_text("failed\n")
    assert trial.decide(root) == (Verdict.BACK, ["keepalived.service is failed"])


def test_without_a_site_it_ends_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / facts.NODE).unlink()
    monkeypatch.setattr(trial, "_PAIR_PATIENCE_S", 600)
    verdict, wrong = trial.decide(root)
    assert verdict is Verdict.BACK
    assert wrong == ["no site: this router does not know which node it is"]


def test_rules_that_are_not_those_that_were_built(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "etc/nftables.conf").write_text("")
    monkeypatch.setattr(trial.Ruleset, "problem", lambda _: "the firewall is another one")
    assert trial.decide(root) == (Verdict.BACK, ["the firewall is another one"])


# When it stays


@pytest.mark.parametrize(
    ("now", "others"),
    [
        (Boot.INDETERMINATE, ()),
        (Boot.INDETERMINATE, (Image(Path("/x"), "6", 0),)),
        (Boot.CLEAN, (OLD,)),
        (Boot.GOOD, (OLD,)),
    ],
)
def test_what_has_nothing_to_go_back_to_stays(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    now: Boot,
    others: tuple[Image, ...],
) -> None:
    boot(monkeypatch, now, *others)
    assert trial.decide(root)[0] is Verdict.GOOD
    (tmp_path / "bin/keepalived.service").write_text("failed\n")
    assert trial.decide(root)[0] is Verdict.STAY


def test_a_first_boot_does_not_wait_for_its_peer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, Boot.INDETERMINATE)
    says(root, state(role="MASTER", peer=None))
    assert trial.decide(root) == (Verdict.GOOD, [])


def test_the_last_try_of_a_trial_ends_like_the_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, Boot.DIRTY, OLD)
    (tmp_path / "bin/keepalived.service").write_text("failed\n")
    assert trial.decide(root)[0] is Verdict.BACK


def test_the_last_router_stays_whatever_it_thinks_of_itself(root: Path) -> None:
    alone(root)
    verdict, wrong = trial.decide(root)
    assert (verdict, wrong) == (Verdict.STAY, ["the peer's agent is not heard"])


@pytest.mark.parametrize("changed", [{"role": "BACKUP"}, {"dead": ["inside"]}])
def test_it_is_not_the_last_one_when_its_own_network_is_dead(
    root: Path, changed: dict[str, Any]
) -> None:
    alone(root, **changed)
    assert trial.decide(root)[0] is Verdict.BACK


def test_nobody_answers_on_any_card(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(root)
    monkeypatch.setattr(trial, "_answering", lambda: {"sync"})
    assert trial.decide(root)[0] is Verdict.BACK


# What is left of it


def test_what_became_of_a_trial_is_kept(root: Path, tmp_path: Path) -> None:
    kept = tmp_path / "last.json"
    trial.note(["keepalived.service is failed"], kept)
    told = json.loads(kept.read_text())
    assert (told["good"], told["problems"]) == (False, ["keepalived.service is failed"])
    trial.note([], tmp_path / "no-such-folder/last.json")


@pytest.mark.parametrize(("other", "wanted"), [("6", None), ("8", "testcase_7.efi")])
def test_an_older_image_has_the_loader_prefer_it(
    monkeypatch: pytest.MonkeyPatch, other: str, wanted: str | None
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(images, "prefer", asked.append)
    boot(monkeypatch, Boot.INDETERMINATE, Image(Path("/x"), other, None))
    trial.settle()
    assert asked == [wanted]


# Afterwards


def test_the_watch_writes_what_it_finds(tmp_path: Path) -> None:
    (tmp_path / facts.HEALTH).parent.mkdir(parents=True)
    watch.look(WELL, tmp_path)
    told = json.loads((tmp_path / facts.HEALTH).read_text())
    assert told["ruleset"] is None
    assert list(facts._of_watch(time.monotonic(), told)) == []
    late = time.monotonic() + 100
    assert list(facts._of_watch(late, told)) == ["nobody has looked after the firewall for 100 s"]
    wrong = told | {"ruleset": "the firewall is another one"}
    assert list(facts._of_watch(time.monotonic(), wrong)) == ["the firewall is another one"]


def test_it_has_a_boot_decided_when_the_peer_is_back(root: Path) -> None:
    alone(root)
    assert not watch.decidable(WELL, root)
    says(root, standby())
    assert watch.decidable(WELL, root)


def test_it_has_the_only_image_blessed_when_it_is_well(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, Boot.INDETERMINATE)
    (tmp_path / "bin/keepalived.service").write_text("failed\n")
    assert not watch.decidable(WELL, root)
    (tmp_path / "bin/keepalived.service").unlink()
    assert watch.decidable(WELL, root)


def test_a_node_that_is_at_nothing_says_so(tmp_path: Path) -> None:
    assert busy.read(tmp_path / "busy") == ""
    busy.tell(busy.TRIAL, tmp_path / "busy")
    assert busy.read(tmp_path / "busy") == busy.TRIAL


@pytest.mark.parametrize(
    ("others", "verdict"), [((OLD,), Verdict.BACK), ((), Verdict.STAY)], ids=["trial", "only"]
)
def test_a_bug_in_the_decision_is_no_reason_to_loop(
    monkeypatch: pytest.MonkeyPatch, others: tuple[Image, ...], verdict: Verdict
) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    boot(monkeypatch, Boot.INDETERMINATE, *others)
    monkeypatch.setattr(trial, "decide", bug)
    monkeypatch.setattr(trial.busy, "tell", lambda *_: None)
    monkeypatch.setattr(trial, "note", lambda _: None)
    assert trial.main() == verdict
