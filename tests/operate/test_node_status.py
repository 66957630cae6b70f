"""appliance-status on a node, over files as the agents write them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.node import status
from tests.operate.nodes import peer, router, state


@pytest.fixture(autouse=True)
def _programs(bin_: Path) -> None:
    """The router's programs."""


def told(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = status.main(["--json", "--root", str(root)])
    return code, json.loads(capsys.readouterr().out)


def problems(tmp_path: Path, capsys: pytest.CaptureFixture[str], **changed: Any) -> list[str]:
    code, facts = told(router(tmp_path / "root", state(**changed)), capsys)
    assert code == (1 if facts["problems"] else 0)
    assert facts["healthy"] is not bool(facts["problems"])
    return list(facts["problems"])


def test_a_node_where_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = told(router(tmp_path / "root", state()), capsys)
    assert code == 0
    assert (facts["healthy"], facts["problems"]) == (True, [])
    assert (facts["node"], facts["site"], facts["version"]) == ("fw1", "testcase", "7")
    assert facts["state"]["takeover"]["ms"] == 2.5
    assert 90 <= facts["role_s"] < 95
    assert facts["versions"]["keepalived"] == "2.3.3"
    assert facts["versions"]["conntrackd"] == "1.4.8"


def test_what_a_person_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["--root", str(router(tmp_path / "root", state()))]) == 0
    shown = capsys.readouterr().out
    for line in (
        "fw1 of testcase (site file 121212121212, image 7): healthy",
        "  role          MASTER for 1 min 30 s, since 2023-11-14 22:13:20Z",
        "  takeover      2023-11-14 22:13:20Z, committed in 2.5 ms (keepalived says so)",
        "  connections   12 own, 0 held; at the peer 0 own, 12 held",
        "  peer          fw2 is BACKUP for 1 min 35 s; site file 121212121212, image 7",
        "  both active   2 times, last 2020-09-13 12:26:40Z for 0.5 s",
        "  transitions   BACKUP 2, MASTER 1; repairs 0",
    ):
        assert line in shown.splitlines()
    assert "1 of ours not acknowledged" in shown


NOW = time.monotonic()

WRONG = [
    ({"role": "FAULT"}, "it is neither active nor standby: its role is FAULT"),
    ({"gate": None}, "the gate is not passed yet: keepalived waits for the peer's table"),
    ({"owed": ["RESYNC", "BULK"]}, "conntrackd still has to do: RESYNC, BULK"),
    ({"alarms": {"peer": "nothing heard"}}, "alarm peer: nothing heard"),
    ({"peer": None}, "the peer's agent is not heard"),
    ({"peer": peer(NOW, role="MASTER")}, "both nodes are active"),
    ({"role": "BACKUP"}, "no node is active"),
    (
        {"peer": peer(NOW, digest="34" * 32)},
        "fw1 and fw2 differ in their site file: 121212121212 and 343434343434",
    ),
    ({"peer": peer(NOW, version="8")}, "fw1 and fw2 differ in their image version: 7 and 8"),
    ({"peer": peer(NOW, site="other")}, "fw1 and fw2 differ in their site: testcase and other"),
]


@pytest.mark.parametrize(("changed", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], words: str
) -> None:
    if changed.get("peer"):
        changed["peer"]["heard"] = time.monotonic()
    assert words in problems(tmp_path, capsys, **changed)


def test_an_agent_that_hangs_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {"monotonic": time.monotonic() - 7, "wall": 1.0}
    found = problems(tmp_path, capsys, written=written, role="FAULT")
    assert found == ["the state agent hangs: its last word is 7 s old"]


def test_a_state_that_is_a_little_old_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {"monotonic": time.monotonic() - 4, "wall": 1.0}
    assert problems(tmp_path, capsys, written=written) == []


def test_a_peer_that_fell_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = peer(time.monotonic() - 30)
    assert problems(tmp_path, capsys, peer=silent) == ["the peer's agent has been silent for 30 s"]


def test_an_agent_that_has_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = told(router(tmp_path / "root", None), capsys)
    assert (code, facts["problems"]) == (1, ["the state agent has said nothing yet"])


def test_a_unit_that_does_not_run(
    tmp_path: Path, bin_: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bin_ / "keepalived.service").write_text("failed\n")
    assert problems(tmp_path, capsys) == ["keepalived.service is failed"]


def test_an_older_agent_says_less_and_nothing_is_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = {name: state()[name] for name in ("role", "since", "gate", "owed", "alarms")}
    code, facts = told(router(tmp_path / "root", older), capsys)
    assert (code, facts["problems"], facts["state_age_s"]) == (0, [], None)
    assert status.main(["--root", str(tmp_path / "root")]) == 0


def test_a_node_of_its_own_has_no_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = router(tmp_path / "root", None, pair=False)
    assert told(root, capsys)[0] == 0
    assert status.main(["--root", str(root)]) == 0
    assert "role" not in capsys.readouterr().out


def test_a_router_that_does_not_know_its_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, facts = told(tmp_path, capsys)
    assert (code, facts["problems"]) == (
        *(1, ["no site: this router does not know which node it is"]),
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (0.04, "0.0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (1e6, "11 d 13 h"),
    ],
)
def test_spans_of_time(seconds: float | None, words: str) -> None:
    assert status.span(seconds) == words


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"slot": "a", "boot": "clean", "other": None}, ("7 in slot a: good", "none")),
        (
            {"slot": "b", "boot": "indeterminate", "other": {"version": "6", "left": None}},
            ("7 in slot b: on trial", "6: good"),
        ),
        (
            {"slot": "a", "boot": "good", "other": {"version": "8", "left": 3}},
            ("7 in slot a: good", "8: not tried yet, 3 tries"),
        ),
        (
            {"slot": None, "boot": "unknown", "other": {"version": "8", "left": 0}},
            ("7: ?", "8: has failed"),
        ),
        (None, ("7: ?", "none")),
    ],
)
def test_the_images_in_words(image: dict[str, Any] | None, words: tuple[str, str]) -> None:
    facts = {"version": "7"} | ({"image": image} if image else {})
    assert (status.image(facts), status.other_image(facts)) == words
