"""What each golden site renders to, byte for byte. To accept a change, see `regenerate.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.render import golden

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", golden.NAMES)
def test_a_site_renders_to_the_files_expected(name):
    assert golden.flat(golden.rendered(name)) == golden.expected(name)


STARTS = ["testcase", "mail-firewall", "branch", "ftp-lvs", "web-bundle", "mail-balancer"]


@pytest.mark.parametrize("name", STARTS)
def test_the_golden_site_is_the_example_that_users_start_from(name):
    site = golden.HERE / name / "site.yaml"
    assert site.read_bytes() == (EXAMPLES / f"{name}.yaml").read_bytes()


def test_another_process_with_other_hashes_renders_the_same_bytes_in_the_same_order():
    script = (
        "import json, sys; from tests.render import golden;"
        "print(json.dumps({name: golden.flat(golden.rendered(name)) for name in golden.NAMES}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=EXAMPLES.parent,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
