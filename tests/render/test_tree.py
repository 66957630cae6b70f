"""A rendered tree is on disk as a whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ToolError
from appliance.render.tree import MARKER, write
from tests.render import golden

CLONE = Path(__file__).parents[2]

# Renders another site over the folder and dies, without a chance to tidy up, at the given call.
DIE = """
import os, signal, sys
from pathlib import Path
from appliance.render import tree
from tests.render import golden

calls = 0
def dying(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

Path.write_text = dying(Path.write_text)
tree._swap = dying(tree._swap)
tree.write(golden.rendered("mail-firewall"), Path(sys.argv[1]))
"""


def on_disk(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != MARKER]
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.mark.parametrize("call", ["1", "7", "20", "last"])
def test_a_render_that_is_killed_leaves_the_old_tree_whole(call, tmp_path):
    folder = tmp_path / "out"
    write(golden.rendered("testcase"), folder)
    files = len(golden.expected("mail-firewall"))
    number = files + 1 if call == "last" else int(call)
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(folder), str(number)], cwd=CLONE, check=False
    )
    assert done.returncode == -9
    assert on_disk(folder) == golden.expected("testcase")


def test_a_second_render_replaces_the_first_and_leaves_nothing_of_it(tmp_path):
    folder = tmp_path / "out"
    write(golden.rendered("testcase"), folder)
    write(golden.rendered("branch"), folder)
    assert on_disk(folder) == golden.expected("branch")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ToolError, match="not made by render"):
        write(golden.rendered("testcase"), tmp_path)
    assert on_disk(tmp_path) == {"precious": "mine"}


def test_keys_are_for_root_only(tmp_path):
    write(golden.rendered("dual-stack"), tmp_path / "out")
    keys = tmp_path / "out/north/etc/ssh/authorized_keys/root"
    assert keys.stat().st_mode & 0o777 == 0o600
