"""A plan with the eyes of one node, for the renderers of the ruleset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from appliance.plan.model import Origin, Plan, Role
from appliance.render import nft


@dataclass(frozen=True, slots=True)
class View:
    """The plan as one node sees it."""

    plan: Plan
    node: str

    @property
    def site(self) -> str:
        """The site file's name, without the folder: the same text wherever it is rendered."""
        return PurePath(self.plan.file).name

    def line(self, origin: Origin, words: str | None = None) -> str:
        """Where in the site file a rule comes from, and what the site says of it."""
        place = f"{self.site}:{origin.line}"
        return f"{place} {words}" if words else place

    def aside(self) -> list[str]:
        """The interfaces that nothing is routed through unless a rule names their network."""
        all_of = self.plan.networks.values()
        return [network.interface for network in all_of if network.role is not Role.TRAFFIC]

    def comes_from(self, network: str | None) -> nft.Part | None:
        """In by that network, or by any traffic network."""
        if network:
            return nft.iifname(self.plan.networks[network].interface)
        return nft.iifname(*self.aside(), other_than=True) if self.aside() else None

    def goes_to(self, network: str | None) -> nft.Part | None:
        """Out by that network, or by any traffic network."""
        if network:
            return nft.oifname(self.plan.networks[network].interface)
        return nft.oifname(*self.aside(), other_than=True) if self.aside() else None
