"""Every mistake has its place, its words and maybe a hint: `bad/*.yaml` and the exact text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import SiteError
from appliance.site import load

BAD = Path(__file__).parent / "bad"


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_site_shows_all_its_mistakes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(SiteError) as wrong:
        load(Path(f"{name}.yaml"))
    assert f"{wrong.value}\n" == (BAD / f"{name}.txt").read_text()


def test_every_bad_site_has_its_text() -> None:
    stems = {suffix: {p.stem for p in BAD.glob(f"*{suffix}")} for suffix in (".yaml", ".txt")}
    assert stems[".yaml"] == stems[".txt"]
    assert len(stems[".yaml"]) > 100


def only_problem(path: Path) -> str:
    with pytest.raises(SiteError) as wrong:
        load(path)
    (problem,) = wrong.value.problems
    return f"{problem.line}:{problem.column}: {problem.what}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert only_problem(tmp_path / "site.yaml") == "1:1: there is no such file"


def test_a_directory(tmp_path: Path) -> None:
    assert only_problem(tmp_path) == "1:1: this is a directory, not a site file"


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert only_problem(tmp_path / "file" / "site.yaml") == "1:1: cannot be read: Not a directory"


def test_a_name_that_no_file_can_have() -> None:
    assert "cannot be read" in only_problem(Path("site\0.yaml"))


def test_a_file_without_end() -> None:
    assert only_problem(Path("/dev/zero")) == "1:1: the file is larger than 1 MiB"


def test_the_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path)) / "site.yaml"
    with pytest.raises(SiteError, match="there is no such file") as wrong:
        load(path)
    assert str(wrong.value).startswith(f"{path}:1:1: ")
