"""The agents' files are for everybody to read, whatever else they keep to themselves."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.node import statefile


def test_whoever_writes_it_everybody_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        statefile.write(tmp_path / "state.json", {"role": "MASTER"})
    finally:
        os.umask(before)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o644
    assert statefile.read(tmp_path / "state.json") == {"role": "MASTER"}
