"""A site with two sync networks: the second carries the state when the first is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.render.site import render
from appliance.site import load
from appliance.tools import ToolsTree
from tests.node.flows import tcp
from tests.node.netns import Lab, active, laboratory, standby, wait_for

SITE = Path(__file__).with_name("site.yaml")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tools: ToolsTree) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("two")
    site = folder / "site.yaml"
    site.write_text(SITE.read_text() + "\nha: {sync: [sync, inside]}\n")
    with laboratory(folder, tools, render(load(site))) as lab:
        yield lab


@pytest.mark.parametrize(
    ("port", "ends"), [(7020, ["fw1", "fw2"]), (7021, ["fw1"]), (7022, ["fw2"])]
)
def test_what_begins_after_the_first_link_was_lost_survives_by_the_second(
    pair: Lab, port: int, ends: list[str]
) -> None:
    node, heir = active(pair), standby(pair)
    for end in ends:
        pair.plug(end, "sync", "down")
    with tcp(pair, port) as session:
        assert session.alive(3)
        wait_for(
            "the connection at the standby",
            lambda: f"dport={port}" in heir.run(*heir.conntrackd("-e")),
        )
        wait_for("the peer's word", lambda: heir.state()["peer"]["role"] == "MASTER")
        node.lose_power()
        wait_for("takeover", lambda: heir.role() == "MASTER")
        assert session.alive(5), session
    for end in ends:
        if end != node.name:
            pair.plug(end, "sync", "up")
