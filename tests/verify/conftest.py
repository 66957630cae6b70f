from __future__ import annotations

import pytest

from appliance import tools


@pytest.fixture(scope="session")
def kit() -> tools.ToolsTree:
    return tools.ensure()
