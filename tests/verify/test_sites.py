"""Whatever `check` accepts, the real programs accept.

APPLIANCE_EXAMPLES sets how many sites are tried. A failing one is shown as it was drawn: to make
it smaller takes hundreds of runs of every program.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from appliance.errors import ToolError
from appliance.render.site import render
from appliance.site import load
from appliance.verify import verify
from tests.strategies import sites

SITES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
DRAWN = int(os.environ.get("APPLIANCE_EXAMPLES", "15"))


@settings(
    max_examples=DRAWN,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=sites())
def test_an_accepted_site_is_accepted_by_every_program(text, kit, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(text)
    try:
        verify(render(load(site)), kit)
    except ToolError as refused:
        pytest.fail(f"{text}\n{refused}")


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.stem)
def test_every_example_is_accepted_by_every_program(site, kit):
    verify(render(load(site)), kit)


@pytest.mark.parametrize("page", ['say "ok"', '"d;%', "it's", r"\"\\", "#!", "a b"])
def test_what_a_page_must_match_is_accepted_whole(page, kit, tmp_path):
    """keepalived takes a line apart before it knows what it is."""
    check = {"path": "/healthz", "regex": page}
    site = tmp_path / "site.yaml"
    text = (SITES[0].parent / "web-bundle.yaml").read_text()
    site.write_text(text.replace("{path: /healthz, status: 200}", json.dumps(check)))
    plan = load(site)
    assert plan.virtual_services[0].check.kind.regex == page
    verify(render(plan), kit)
