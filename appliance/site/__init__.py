"""The site file: read, checked against a closed schema, and resolved into a plan."""

from __future__ import annotations

import hashlib
from pathlib import Path

from appliance.plan.model import Origin, Plan
from appliance.site.document import LARGEST, Fault, UnreadableError, parse
from appliance.site.faults import Faults, site_error
from appliance.site.validation import validate


def load(path: Path) -> Plan:
    """The plan that the site file at `path` describes; SiteError with every mistake in it."""
    # The resolver builds on the modules of this package, so it can only come after them.
    from appliance.plan.resolve import resolve  # noqa: PLC0415

    content = _read(path)
    try:
        document, before = parse(content)
    except UnreadableError as stop:
        raise site_error(path, stop.faults) from None
    faults = Faults(path, document, before)
    site = validate(faults)
    plan = resolve(site, faults, hashlib.sha256(content).hexdigest()) if site else None
    faults.raise_any()
    assert plan is not None, "a file without mistakes has a plan"
    return plan


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError:
        what = "there is no such file"
    except IsADirectoryError:
        what = "this is a directory, not a site file"
    except (OSError, ValueError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise site_error(path, [Fault(Origin(1, 1), what)])
