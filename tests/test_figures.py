"""The page of figures, from what was measured."""

from __future__ import annotations

import pytest

from vmtests import figures
from vmtests.figures import Figures


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "machine", lambda: "this one")


def page(*rows: tuple[str, float], old: str = "") -> str:
    measured = Figures()
    for what, sample in rows:
        measured.add(what, "s", sample, goal="at most 9 s")
    return measured.markdown("make figures", old)


def test_the_page_has_a_row_for_each_figure() -> None:
    assert page(("one", 1.0)).endswith(
        "\n| what | median | worst | samples | goal |\n| --- | --- | --- | --- | --- |\n"
        "| one | 1 s | 1 s | 1 | at most 9 s |\n"
    )


def test_what_is_measured_anew_takes_the_place_of_its_row_and_the_others_stay() -> None:
    old = page(("one", 1.0), ("two", 2.0))
    assert page(("one", 3.0), ("four", 4.0), old=old) == page(
        ("one", 3.0), ("two", 2.0), ("four", 4.0)
    )


def test_a_whole_run_keeps_no_row_of_the_old_page() -> None:
    assert "two" not in page(("one", 1.0))
