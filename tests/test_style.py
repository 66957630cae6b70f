"""The house style as tests: linters, types, and rules of the project that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parent.parent
SHIPPED = ("appliance", "mkosi.conf.d", "overlays")
LONGEST_FUNCTION = 50
LONGEST_MODULE = 400


def files(*folders: str, suffix: str = "") -> list[Path]:
    found = [p for f in folders for p in sorted((CLONE / f).rglob(f"*{suffix}"))]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize(
    "command", [["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]], ids=" ".join
)
def test_linters_and_types_have_nothing_to_say(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CLONE, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_and_modules_are_short() -> None:
    long = []
    for path in files("appliance", suffix=".py"):
        text = path.read_text()
        if text.count("\n") > LONGEST_MODULE:
            long.append(f"{path.relative_to(CLONE)}: {text.count(chr(10))} lines")
        for function in functions(ast.parse(text)):
            assert function.end_lineno is not None
            lines = function.end_lineno - function.lineno + 1
            if lines > LONGEST_FUNCTION:
                long.append(f"{path.relative_to(CLONE)}:{function.lineno}: {lines} lines")
    assert not long


def test_the_product_is_nftables_native() -> None:
    named = [p for p in files(*SHIPPED) if re.search(rb"\bip6?tables\b", p.read_bytes())]
    assert not named


def test_nothing_waits_without_a_reason_to_end() -> None:
    """No bare sleep: a wait ends by an event, or polls a condition against a deadline."""
    sleeping = [
        f"{path.relative_to(CLONE)}:{number}"
        for path in files("appliance", "tests", "vmtests", suffix=".py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\btime\.sleep\(", line) and "# poll" not in line
    ]
    assert not sleeping


def test_shipped_data_survives_a_wheel() -> None:
    """A wheel turns links into copies: the image must not depend on them."""
    assert not [p for f in SHIPPED for p in (CLONE / f).rglob("*") if p.is_symlink()]


def test_links_in_the_documentation_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(CLONE)}: {target}"
        for page in [CLONE / "README.md", *files("docs", suffix=".md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken
