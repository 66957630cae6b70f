from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.render.site import render
from appliance.site import load
from appliance.tools import ToolsTree, ensure
from tests.node.netns import Lab, await_standby, laboratory, standby, wait_for


@pytest.fixture(scope="session")
def tools() -> ToolsTree:
    return ensure()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tools: ToolsTree) -> Iterator[Lab]:
    """Client, server and networks; the nodes of `site.yaml` as rendered, none of them booted."""
    tree = render(load(Path(__file__).with_name("site.yaml")))
    with laboratory(tmp_path_factory.mktemp("lab"), tools, tree) as lab:
        for node in lab.nodes.values():
            _hasten(node.folder / "etc/appliance/agent.json")
        yield lab


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Both nodes up, one active, the other with a heard peer; whatever an earlier test left."""
    lab.boot()
    wait_for("one active node", lambda: len(lab.active()) == 1)
    await_standby(standby(lab))
    return lab


def _hasten(config: Path) -> None:
    """Only this time is long for a test: how long a standby keeps what it knew."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"forget_s": 3}))
