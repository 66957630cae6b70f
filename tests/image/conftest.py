"""Fixtures: the tools, and one composed image for all tests that look into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import image, tools
from appliance.image.base import Base, Hardware, base
from appliance.plan.model import Plan
from appliance.render.site import render
from appliance.run import run
from appliance.site import load
from appliance.tools import ToolsTree

CLONE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inside:
    """Runs programs of the tools tree and gives what they print."""

    tools: ToolsTree

    def __call__(self, *argv: str | Path) -> str:
        return run(self.tools.inside(argv)).stdout


@pytest.fixture(scope="session")
def tools_tree() -> ToolsTree:
    return tools.ensure()


@pytest.fixture(scope="session")
def inside(tools_tree: ToolsTree) -> Inside:
    return Inside(tools_tree)


@pytest.fixture(scope="session")
def plan() -> Plan:
    return load(CLONE / "examples/testcase.yaml")


@pytest.fixture(scope="session")
def vm_base(tools_tree: ToolsTree) -> Base:
    return base(Hardware.VM, tools_tree)


@pytest.fixture(scope="session")
def built(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[image.Built]:
    out = tmp_path_factory.mktemp("built")
    yield image.build(plan, render(plan), out, version="7")
    shutil.rmtree(out)
