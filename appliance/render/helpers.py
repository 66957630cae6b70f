"""Which connections get a connection-tracking helper: those of accepting rules that bring one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from appliance.plan.model import Action, DestinationNat, End, Origin, Plan, Rule, Service


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a packet looks like before destination NAT, and the helper that it gets."""

    from_: str | None
    source: End | None
    destination: End | None
    service: Service
    helper: str
    origin: Origin


def names(plan: Plan) -> tuple[str, ...]:
    """The helpers in use, each once, by their kernel names."""
    return tuple(dict.fromkeys(each.helper for each in assignments(plan)))


def assignments(plan: Plan) -> Iterator[Assignment]:
    """Every assignment, in the order of the rules."""
    for rule in plan.rules:
        if rule.action is Action.ACCEPT and not rule.to_self:
            for service in rule.services:
                if service.helper:
                    yield from _of_rule(plan, rule, service, service.helper)


def _of_rule(plan: Plan, rule: Rule, service: Service, helper: str) -> Iterator[Assignment]:
    """As the rule says it, and as a packet comes that destination NAT will make fit the rule."""
    said = Assignment(rule.from_, rule.source, rule.destination, service, helper, rule.origin)
    yield said
    for entry in plan.destination_nat:
        if _leads_to(entry, rule):
            for before in _ports_before(entry, service):
                yield replace(
                    said,
                    from_=rule.from_ or entry.from_,
                    destination=entry.destination,
                    service=before,
                    origin=entry.origin,
                )


def _leads_to(entry: DestinationNat, rule: Rule) -> bool:
    """Whether what the entry rewrites can match the rule."""
    if rule.from_ and entry.from_ and rule.from_ != entry.from_:
        return False
    return rule.destination is None or entry.address in rule.destination


def _ports_before(entry: DestinationNat, service: Service) -> Iterator[Service]:
    """The ports as they come in; a translation that changes no port keeps those of the service."""
    if entry.port is None:
        if not entry.services or any(each.protocol is service.protocol for each in entry.services):
            yield service
    elif any(ports.first <= entry.port <= ports.last for ports in service.ports):
        yield from (each for each in entry.services if each.protocol is service.protocol)
