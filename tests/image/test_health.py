"""The health of a boot, told from what systemd and nft say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from appliance import resources
from appliance.node import health

CLOSED = resources.data("overlays") / "common/usr/lib/appliance/closed.nft"

SAYS = {"systemctl": "active", "failed": "", "nft": "table inet appliance { chain known { } }"}


def router(root: Path, *files: Path) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps({"site": "s", "node": "a", "digest": "0" * 64}))
    return root


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the programs say; a unit of its own may be added by name."""
    answers = dict(SAYS)

    def run(argv, **how) -> subprocess.CompletedProcess[str]:
        which = "failed" if "--failed" in argv else argv[0]
        said = answers[which]
        if "is-active" in argv:
            said = "\n".join(answers.get(unit, said) for unit in argv[2:])
        return subprocess.CompletedProcess(argv, 0, said)

    monkeypatch.setattr(health.subprocess, "run", run)
    return answers


def test_a_router_where_all_is_well(tmp_path: Path, says) -> None:
    root = router(tmp_path, *health.UNITS.values())
    assert list(health.problems(root)) == []
    assert health.identity(root) == "a of s (000000000000)"


def test_a_router_that_does_not_know_its_node(tmp_path: Path, says) -> None:
    assert list(health.problems(tmp_path)) == [
        "no site: this router does not know which node it is"
    ]


def test_a_program_that_is_not_running(tmp_path: Path, says) -> None:
    says["keepalived.service"] = "activating"
    root = router(tmp_path, *health.UNITS.values())
    assert list(health.problems(root)) == ["keepalived.service is activating"]


def test_what_a_site_does_not_have_need_not_run(tmp_path: Path, says) -> None:
    says["keepalived.service"] = "inactive"
    assert list(health.problems(router(tmp_path, health.NODE))) == []


def test_any_failed_unit(tmp_path: Path, says) -> None:
    says["failed"] = "other.service loaded failed failed Another one\n"
    assert list(health.problems(router(tmp_path, health.NODE))) == ["other.service has failed"]


@pytest.mark.parametrize("loaded", ["", CLOSED.read_text()], ids=["none", "closed"])
def test_a_firewall_that_is_not_the_sites(tmp_path: Path, says, loaded: str) -> None:
    says["nft"] = loaded
    assert list(health.problems(router(tmp_path, health.NODE))) == ["the firewall is not loaded"]
