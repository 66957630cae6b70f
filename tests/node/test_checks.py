"""Why a server is out, by keepalived 2.3.3's own lines."""

from __future__ import annotations

import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.node import checks
from appliance.node.checks import Verdict, verdicts

ONE = ip_address("10.0.30.31")
SIX = ip_address("2001:db8:30::31")


def said(*lines: str) -> dict[checks.Key, Verdict]:
    """A line each second, from the first on."""
    return verdicts(
        {"MESSAGE": line, "__REALTIME_TIMESTAMP": str(i * 1_000_000)}
        for i, line in enumerate(lines, 1)
    )


def test_a_check_by_connection() -> None:
    """check_tcp.c and perform_svr_state."""
    found = said(
        "TCP connection to [10.0.30.31]:none:0 timeout.",
        "TCP connection to [10.0.30.31]:none:0 timeout.",
        "TCP_CHECK on service [10.0.30.31]:none:0 failed after 2 retries.",
        "Removing service [10.0.30.31]:none:0 from VS FWM 80",
    )
    why = "TCP connection to [10.0.30.31]:none:0 timeout."
    assert found == {(80, ONE): Verdict(up=False, since=4.0, why=why)}


def test_a_server_that_comes_back() -> None:
    found = said(
        "TCP_CHECK on service [10.0.30.31]:none:0 failed.",
        "Removing service [10.0.30.31]:none:0 from VS FWM 80",
        "TCP connection to [10.0.30.31]:none:0 success.",
        "Adding service [10.0.30.31]:none:0 to VS FWM 80",
    )
    assert found == {(80, ONE): Verdict(up=True, since=4.0)}


def test_keepalived_begins_with_every_server_and_does_not_say_so() -> None:
    found = said(
        "Removing service [10.0.30.31]:none:0 from VS FWM 80",
        "Starting Keepalived v2.3.3 (03/30,2025)",
        "TCP_CHECK on service [10.0.30.32]:none:0 failed.",
        "Removing service [10.0.30.32]:none:0 from VS FWM 80",
    )
    assert ONE not in {server for _, server in found}
    assert len(found) == 1


def test_a_sum_is_a_reason_where_there_is_no_better() -> None:
    found = said(
        "SSL_CHECK on service [10.0.30.31]:none:0 failed after 2 retries.",
        "Disabling service [10.0.30.31]:none:0 of VS FWM 80",
    )
    assert found[80, ONE].why == "SSL_CHECK on service [10.0.30.31]:none:0 failed after 2 retries."


@pytest.mark.parametrize(
    "line",
    [
        "HTTP status code error to server [10.0.30.31]:none:0.",
        "Misc check for [[10.0.30.31]:none:0 VS FWM 80] by [/etc/appliance/checks/web] failed"
        " after 2 retries (exited with status 1).",
        "DNS_CHECK ([10.0.30.31]:none:0) read timeout from socket",
        "Read timeout from server [10.0.30.31]:25",
        "ICMP connection to address [10.0.30.31]:none:0 timeout.",
    ],
)
def test_each_kind_of_check_says_why(line: str) -> None:
    found = said(line, "Removing service [10.0.30.31]:none:0 from VS FWM 80")
    assert found[80, ONE].why == line


def test_services_with_the_same_server_are_told_apart() -> None:
    found = said(
        "TCP connection to [2001:db8:30::31]:none:0 failed.",
        "Removing service [2001:db8:30::31]:none:0 from VS FWM 1000080",
        "Changing weight from 1 to 0 for active service [2001:db8:30::31]:none:0 of VS FWM 1000021",
    )
    assert set(found) == {(1000080, SIX)}
    assert found[1000080, SIX].why == "TCP connection to [2001:db8:30::31]:none:0 failed."


def test_a_restart_makes_it_well_until_a_check_fails() -> None:
    found = said(
        "Removing service [10.0.30.31]:none:0 from VS FWM 80",
        "Shutting down service [10.0.30.31]:none:0 from VS FWM 80",
        "Removing (inhibited) service [10.0.30.31]:none:0 from VS FWM 81",
    )
    assert found[80, ONE].up
    assert not found[81, ONE].up


def test_what_is_no_text_is_passed_over() -> None:
    assert verdicts([{"MESSAGE": [1, 2], "__REALTIME_TIMESTAMP": "1"}, {}]) == {}


def journal(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "journalctl").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_journal_is_asked_for_keepalived_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {
        "MESSAGE": "Removing service [10.0.30.31]:none:0 from VS FWM 80",
        "__REALTIME_TIMESTAMP": "5000000",
    }
    script = f"""echo "$@" > {tmp_path}/asked; echo '{json.dumps(line)}'; echo half a li"""
    journal(tmp_path, monkeypatch, script)
    assert checks.recent() == {(80, ONE): Verdict(up=False, since=5.0)}
    asked = (tmp_path / "asked").read_text()
    assert "_SYSTEMD_UNIT=keepalived.service" in asked
    assert "--boot=all" in asked


def test_without_a_journal_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.recent() == {}
