"""A site file as a command reads it: its mistakes end the command, its warnings are shown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from appliance.plan.model import Plan
from appliance.site import load


def read(site: Path) -> Plan:
    """The plan of the site file; what it warns of goes to standard error."""
    plan = load(site)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for warning in plan.warnings:
        errors.print(warning.as_warning(), markup=False)
    return plan
