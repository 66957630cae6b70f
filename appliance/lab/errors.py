"""The lab's two ways to fail: what was tested did not hold, or the lab itself broke."""

from __future__ import annotations

from appliance.errors import ToolError


class LabAssertion(AssertionError):  # noqa: N818
    """What a test asked of a machine did not hold; the message carries the last state seen."""


class HarnessError(ToolError):
    """The lab itself broke: QEMU, the control channel or a helper; says nothing about the
    appliance.
    """
