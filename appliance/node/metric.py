"""One metric, and how it is read from the facts of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from appliance.node.facts import Facts, at

Samples = Iterable[tuple[tuple[str, ...], float]]
Read = Callable[[Facts], Samples]


class Kind(StrEnum):
    """What a metric is; a counter only grows, until what counts is started again."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `read` gives the labels' values and the value of each sample."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    read: Read


def one(*path: str) -> Read:
    """A number or a truth; none where it is not known."""

    def read(facts: Facts) -> Samples:
        value = at(facts, *path)
        return [] if value is None else [((), float(value))]

    return read


def gauge(name: str, help_: str, read: Read, *labels: str) -> Metric:
    """One that goes up and down."""
    return Metric(f"appliance_{name}", Kind.GAUGE, help_, labels, read)


def counter(name: str, help_: str, read: Read, *labels: str) -> Metric:
    """One that only grows."""
    return Metric(f"appliance_{name}_total", Kind.COUNTER, help_, labels, read)
