from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.operate.nodes import programs
from tests.operate.ssh import Site, testcase


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The router's programs, first on the path."""
    folder = programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A running pair of testcase.yaml behind a command that stands for ssh."""
    return testcase(tmp_path / "net")
