"""Whether the firewall is the one that was built: with the real nft, for every example."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import resources
from appliance.node.ruleset import FILE, Ruleset
from appliance.render.site import RULESET, render
from appliance.run import run
from appliance.site import load
from appliance.tools import ToolsTree

EXAMPLES = Path(__file__).parents[2] / "examples"
CLOSED = resources.data("overlays") / "common/usr/lib/appliance/closed.nft"


class Kernel:
    """A network namespace as the kernel of a router, and the way into it."""

    def __init__(self, name: str, tools: ToolsTree) -> None:
        self.nft = ["ip", "netns", "exec", name, *tools.inside(["nft"])]

    def load(self, file: Path) -> None:
        run([*self.nft, "-f", file])

    def change(self, *words: str) -> None:
        run([*self.nft, *words])


@pytest.fixture
def kernel(tools: ToolsTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """The programs on the path are those of the router; nft's kernel is the namespace."""
    name = f"rules-{os.getpid()}"
    run(["ip", "netns", "add", name])
    made, folder = Kernel(name, tools), tmp_path / "bin"
    folder.mkdir()
    for program, argv in {"nft": made.nft, "unshare": tools.inside(["unshare"])}.items():
        words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)
        (folder / program).write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]}\nexec {words} "$@"\n')
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield made
    run(["ip", "netns", "delete", name])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The rules of a node, as they lie on it."""
    return written(tmp_path, "testcase")


def written(root: Path, example: str) -> Path:
    tree = render(load(EXAMPLES / f"{example}.yaml"))
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(next(iter(tree.values()))[RULESET].content)
    return path


@pytest.mark.parametrize("example", sorted(each.stem for each in EXAMPLES.glob("*.yaml")))
def test_what_the_sites_file_makes_is_right(tmp_path: Path, kernel: Kernel, example: str) -> None:
    path = written(tmp_path, example)
    kernel.load(path)
    assert Ruleset(path).problem() is None


def test_no_rules_and_the_closed_firewall(file: Path, kernel: Kernel) -> None:
    ruleset = Ruleset(file)
    assert ruleset.problem() == "the firewall is not loaded"
    kernel.load(CLOSED)
    assert ruleset.problem() == "the firewall is not the one that was built"
    kernel.load(file)
    assert ruleset.problem() is None


def test_one_rule_more_or_less(file: Path, kernel: Kernel) -> None:
    ruleset = Ruleset(file)
    kernel.load(file)
    kernel.change("insert", "rule", "inet", "appliance", "forward", "accept")
    assert ruleset.problem() == "the firewall is not the one that was built"
    kernel.load(file)
    assert ruleset.problem() is None
    kernel.change("flush", "chain", "inet", "appliance", "input")
    assert ruleset.problem() == "the firewall is not the one that was built"


def test_a_changed_file_is_what_counts_from_then_on(file: Path, kernel: Kernel) -> None:
    ruleset = Ruleset(file)
    kernel.load(file)
    assert ruleset.problem() is None
    file.write_text(file.read_text().replace("chain forward", "chain other { }\n\tchain forward"))
    assert ruleset.problem() == "the firewall is not the one that was built"
    kernel.load(file)
    assert ruleset.problem() is None
