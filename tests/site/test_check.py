"""`appliance check`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
BAD = Path(__file__).parent / "bad"


def check(*arguments: str | Path) -> int:
    """Call the command; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["appliance", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_a_good_site_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLES / "testcase.yaml") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out == (
        "testcase.yaml is good: site testcase, a pair of fw1 and fw2\n"
        "  inside (enp0s3): 192.168.0.0/24, virtual 192.168.0.100\n"
        "  outside (enp0s4): 192.168.1.0/24, virtual 192.168.1.100\n"
        "  sync (enp0s5): 192.168.3.0/24, sync\n"
        "  3 rules, 1 NAT entry, 2 expectations\n"
    )


def test_a_site_of_one_node_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLES / "branch.yaml") == 0
    assert capsys.readouterr().out.startswith("branch.yaml is good: site branch, one node, gw\n")


def test_a_bad_site_shows_its_mistakes_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    assert check("many.yaml") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == Path("many.txt").read_text()


def test_json_for_a_bad_site(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    assert check("role.yaml", "--json") == 2
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "file": "role.yaml",
        "ok": False,
        "problems": [
            {
                "file": "role.yaml",
                "line": 16,
                "column": 11,
                "what": "'synk' is not a role: one of traffic, sync, management",
                "hint": "did you mean 'sync'?",
            }
        ],
        "warnings": [],
    }


def test_json_for_a_good_site(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "branch.yaml"
    assert check(path, "--json") == 0
    expected = {"file": str(path), "ok": True, "problems": [], "warnings": []}
    assert json.loads(capsys.readouterr().out) == expected


def test_json_for_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("/nowhere/site.yaml", "--json") == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["what"] == "there is no such file"


def test_a_call_without_a_file_is_a_bad_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 2
    assert "SITE" in capsys.readouterr().err
