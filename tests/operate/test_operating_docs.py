"""The page for operators tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

from appliance.node.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(appliance_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)
    declared = [
        (m.name, str(m.kind), ", ".join(f"`{label}`" for label in m.labels), m.help)
        for m in METRICS
    ]
    assert [(name, kind, labels.strip(), words) for name, kind, labels, words in rows] == declared
