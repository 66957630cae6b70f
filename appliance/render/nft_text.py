"""A table as the text that `nft -f` reads, laid out as nft itself lists it."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.render.nft import (
    Base,
    Chain,
    Counter,
    Family,
    Helper,
    Limit,
    Line,
    Object,
    Remark,
    Set,
    Table,
    plain,
    quoted,
)
from appliance.render.nft_map import MarkMap

COMMENT_BYTES = 128  # NFTNL_UDATA_COMMENT_MAXLEN


def text(table: Table, heading: str) -> str:
    """The file that `nft -f` loads: adding before deleting lets the first load pass as well."""
    name = f"table inet {table.name}"
    objects = [_object(each) for each in table.objects]
    chains = [_chain(each) for each in table.chains]
    body = "\n\n".join(block for block in ["\n".join(objects), *chains] if block)
    return f"#!/usr/sbin/nft -f\n# {heading}\n\n{name}\ndelete {name}\n\n{name} {{\n{body}\n}}\n"


def kept_comment(words: str) -> str:
    """A comment as nft can hold it: no double quote, no line end, at most 128 bytes."""
    plain = " ".join(words.replace('"', "'").split())
    return plain.encode()[:COMMENT_BYTES].decode(errors="ignore")


def _object(item: Object | MarkMap) -> str:
    match item:
        case Set(name, family, elements, comment, prefixes):
            kind = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
            members = ", ".join(plain(each) for each in elements)
            ranges = ["flags interval", "auto-merge"] if prefixes else []
            lines = [f"type {kind}", *ranges, f"elements = {{ {members} }}", _comment(comment)]
            return _block(f"set {name}", lines)
        case MarkMap(name, family, elements, comment) as mark_map:
            kind = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
            key = f"type {kind} . inet_proto . inet_service : mark"
            held = ["elements = {", *(f"\t{each}," for each in elements), "}"]
            flags = ["flags interval"] if mark_map.ranges else []
            return _block(f"map {name}", [key, *flags, *held, _comment(comment)])
        case Counter(name, comment):
            return _block(f"counter {name}", [_comment(comment)])
        case Limit(name, packets, per, burst):
            return _block(f"limit {name}", [f"rate {packets}/{per} burst {burst} packets"])
        case Helper(name):
            return _block(f"ct helper {name}", [f"type {quoted(name)} protocol tcp;"])


def _block(head: str, lines: Sequence[str]) -> str:
    return "\n".join([f"\t{head} {{", *(f"\t\t{line}".rstrip() for line in lines), "\t}"])


def _chain(chain: Chain) -> str:
    lines = "\n".join(_line(each) for each in chain.lines).strip("\n").split("\n")
    base = [_base(chain.base), ""] if chain.base else []
    return _block(f"chain {chain.name}", [*base, *lines])


def _base(base: Base) -> str:
    priority = base.priority.name.lower()
    return f"type {base.kind} hook {base.hook} priority {priority}; policy {base.policy};"


def _line(line: Line) -> str:
    if isinstance(line, Remark):
        return f"\n# {line.words}"
    parts = " ".join(part.text for part in line.parts)
    return f"{parts} {_comment(line.comment)}" if line.comment else parts


def _comment(words: str) -> str:
    return f"comment {quoted(kept_comment(words))}"
