"""What a person should look at, by name, until it is over."""

from __future__ import annotations

import logging

log = logging.getLogger("appliance.alarms")


class Alarms(dict[str, str]):
    """The alarms that stand, each with its text."""

    def tell(self, name: str, text: str | None) -> None:
        """Raise an alarm, or end it when there is no text; the journal hears of both once."""
        if text is None:
            if self.pop(name, None):
                log.info("alarm %s is over", name)
            return
        if name not in self:
            log.error("alarm %s: %s", name, text)
        self[name] = text
